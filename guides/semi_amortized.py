"""q(z | x) = Normal(loc, scale), loc and scale refined datum by datum from the encoder's answer:
for the latent model

(loc, log scale) <- (loc, log scale) + rate * d ELBO(x; loc, scale) / d (loc, log scale),     steps times
z ~ Normal(loc, scale)      latent

With steps = 0 it is the amortized guide; from a constant encoder with many steps it is stochastic
variational inference for each datum. The step is taken as given when the encoder learns, so that no
second derivatives are needed.

Semi-Amortized Variational Autoencoders (Kim, Wiseman, Miller, Sontag & Rush, 2018), arXiv
1802.02550; the first-order form is Iterative Amortized Inference's baseline (Marino, Yue & Mandt,
2018), arXiv 1807.09356.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.models.latent import LatentModel


class SemiAmortizedGuide(PyroModule):
    """``x -> z`` with a few steps uphill for each datum.

    Args:
        model: the partner, whose ELBO is climbed; it keeps its parameters to itself.
        net: ``x -> loc, log scale``, ``(..., 2 * latent)``.
        steps: of gradient ascent.
        rate: of the steps, in units of the approximate posterior's own scale.
        latent: size of z.
        draws: per gradient, an even number: half are drawn once for all data and the others mirror
            them, so that q is a function of x.
    """

    noise: Tensor

    def __init__(
        self, model: LatentModel, net: nn.Module, latent: int, *, steps: int = 5, rate: float = 0.2, draws: int = 8
    ) -> None:
        super().__init__()
        self.__dict__["model"] = model  # past nn.Module's registration: the model owns its parameters
        self.net = net
        self.steps, self.rate = steps, rate
        half = torch.randn(draws // 2, 1, latent)
        half = (
            half / half.square().mean(0).sqrt()
        )  # mean 0 and variance 1, as draws of a standard normal have on average
        self.register_buffer("noise", torch.cat([half, -half]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the drawn ``z``: ``(..., batch, latent)``."""
        start = self.net(x)
        loc, log_scale = (start + self.refine(x, start.detach())).chunk(2, -1)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def refine(self, x: Tensor, start: Tensor) -> Tensor:
        """Return how far the steps lead from ``start``: ``(batch, 2 * latent)``, no gradient."""
        prior, decoder = self.model.prior, self.model.decoder
        here = start
        with torch.enable_grad():
            for _ in range(self.steps):
                here = here.detach().requires_grad_()
                loc, log_scale = here.chunk(2, -1)
                z = loc + log_scale.exp() * self.noise
                elbo = (decoder(z).log_prob(x) + prior().log_prob(z)).mean(0) + log_scale.sum(-1)
                (slope,) = torch.autograd.grad(elbo.sum(), here)
                # in units of q's own scale: natural steps, which the posterior's width does not upset
                up, wider = slope.chunk(2, -1)
                step = self.rate * torch.cat([log_scale.exp().square() * up, wider / 2], -1)
                here = here + step.clamp(-1.0, 1.0)
        return (here - start).detach()
