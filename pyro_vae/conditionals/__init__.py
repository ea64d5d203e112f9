"""Conditionals: modules whose forward returns a distribution, made of a net and a head.

    prior    () -> p(z)             `StandardNormal`, `NormalPrior`, `MixturePrior`, `VampPrior`, `FlowPrior`
    decoder  z -> p(x | z)          `Conditional` of a net and a likelihood's head
    encoder x -> q(z | x) `Conditional` of a net and `Normal`, `LowRank`, `FullCovariance`, `Flow` or
    `PointMass` others z, y -> p(x | z, y) `Conditional` too: it takes any number of contexts

>>> decoder = Conditional(MLP(10, 784), Bernoulli(784))
>>> decoder(torch.zeros(5, 10)).event_shape
torch.Size([784])
>>> head = Normal(10)
>>> encoder = Conditional(MLP(784 + 3, head.size), head)
>>> encoder(torch.zeros(7, 5, 784), torch.zeros(5, 3)).batch_shape
torch.Size([7, 5])

Everything that the programs are wired from can be imported from here; the parts live in `pyro_vae.nets`
(nets), `pyro_vae.conditionals.likelihoods` and `pyro_vae.conditionals.flows` (heads), `pyro_vae.conditionals.priors` and `pyro_vae.distributions`. To
add a likelihood, write a `Head`; to add a net, any module that maps ``(..., inputs)`` to ``(...,
head.size)``.
"""

from pyro_vae.conditionals.conditional import Conditional, join
from pyro_vae.conditionals.flows import KINDS, Flow, Kind, flow_layers
from pyro_vae.conditionals.gaussian import FullCovariance, LowRank, PointMass
from pyro_vae.conditionals.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Head,
    Normal,
)
from pyro_vae.conditionals.priors import FixedPrior, FlowPrior, MixturePrior, NormalPrior, StandardNormal, VampPrior
from pyro_vae.conditionals.scales import from_scale, to_scale
from pyro_vae.nets import MLP, ConvDecoder, ConvEncoder, OneHot, Standardize

__all__ = [
    "KINDS",
    "MLP",
    "Bernoulli",
    "Categorical",
    "Conditional",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FixedPrior",
    "Flow",
    "FlowPrior",
    "FullCovariance",
    "Head",
    "Kind",
    "LowRank",
    "MixturePrior",
    "Normal",
    "NormalPrior",
    "OneHot",
    "PointMass",
    "StandardNormal",
    "Standardize",
    "VampPrior",
    "flow_layers",
    "from_scale",
    "join",
    "to_scale",
]
