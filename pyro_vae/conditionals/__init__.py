"""Conditionals: modules whose forward returns a distribution, made of a net and a head.

    density  () -> p(x)         `Density` of a head such as `Autoregressive`; `Boltzmann`
    prior    () -> p(z)         `StandardNormal`, `NormalPrior`, `MixturePrior`, `VampPrior`,
                                `FlowPrior`, `CodebookPrior`, `CellsPrior`
    decoder  z -> p(x | z)      `Conditional` of a net and a likelihood's head
    encoder  x -> q(z | x)      `Conditional` of a net and `Normal`, `LowRank`, `FullCovariance`,
                                `Flow` or `PointMass`; `Quantize`
    sequences  `PathPrior`, `EachStep`, `PathEncoder`: see `pyro_vae.conditionals.paths`; with one z
                                for the whole `StepDecoder`, `SequenceEncoder`
    grey levels  `CellsPrior`, `Rounding`, `Dequantize`: see `pyro_vae.conditionals.rounding`
    noising  zl -> q(zl+1 | zl)  `Noising`, without parameters, and back: `Reverse` of a denoiser
    others   z, y -> p(x | z, y)    `Conditional` too: it takes any number of contexts

>>> decoder = Conditional(MLP(10, 784), Bernoulli(784))
>>> decoder(torch.zeros(5, 10)).event_shape
torch.Size([784])
>>> head = Normal(10)
>>> encoder = Conditional(MLP(784 + 3, head.size), head)
>>> encoder(torch.zeros(7, 5, 784), torch.zeros(5, 3)).batch_shape
torch.Size([7, 5])

Everything that programs are built from can be imported from here. To add a likelihood, write a
`Head`; to add a net, write any module that maps ``(..., inputs)`` to ``(..., head.size)``.
"""

from pyro_vae.conditionals import (
    autoregressive,
    boltzmann,
    columns,
    conditional,
    counts,
    denoising,
    flows,
    gaussian,
    head,
    implicit,
    likelihoods,
    missing,
    mixtures,
    noise,
    paths,
    priors,
    quantized,
    rounding,
    scales,
    sequences,
    smoothers,
    strokes,
    tables,
)
from pyro_vae.conditionals.autoregressive import *
from pyro_vae.conditionals.boltzmann import *
from pyro_vae.conditionals.columns import *
from pyro_vae.conditionals.conditional import *
from pyro_vae.conditionals.counts import *
from pyro_vae.conditionals.denoising import *
from pyro_vae.conditionals.flows import *
from pyro_vae.conditionals.gaussian import *
from pyro_vae.conditionals.head import *
from pyro_vae.conditionals.implicit import *
from pyro_vae.conditionals.likelihoods import *
from pyro_vae.conditionals.missing import *
from pyro_vae.conditionals.mixtures import *
from pyro_vae.conditionals.noise import *
from pyro_vae.conditionals.paths import *
from pyro_vae.conditionals.priors import *
from pyro_vae.conditionals.quantized import *
from pyro_vae.conditionals.rounding import *
from pyro_vae.conditionals.scales import *
from pyro_vae.conditionals.sequences import *
from pyro_vae.conditionals.smoothers import *
from pyro_vae.conditionals.strokes import *
from pyro_vae.conditionals.tables import *
from pyro_vae.nets import MLP, ConvDecoder, ConvEncoder, OneHot, Standardize

# each file names what it makes public
__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "OneHot", "Standardize"]
__all__ += autoregressive.__all__
__all__ += boltzmann.__all__
__all__ += columns.__all__
__all__ += conditional.__all__
__all__ += counts.__all__
__all__ += denoising.__all__
__all__ += flows.__all__
__all__ += gaussian.__all__
__all__ += head.__all__
__all__ += implicit.__all__
__all__ += likelihoods.__all__
__all__ += missing.__all__
__all__ += noise.__all__
__all__ += paths.__all__
__all__ += mixtures.__all__
__all__ += priors.__all__
__all__ += quantized.__all__
__all__ += rounding.__all__
__all__ += scales.__all__
__all__ += sequences.__all__
__all__ += smoothers.__all__
__all__ += strokes.__all__
__all__ += tables.__all__
