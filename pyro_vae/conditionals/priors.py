"""Priors: conditionals of nothing, ``() -> p(z)``, event shape ``(latent,)``.

A prior that depends on something, p(z | y) say, is a `pyro_vae.conditionals.Conditional`.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.conditionals.flows import Kind, condition_all, flow_layers
from pyro_vae.conditionals.scales import from_scale, to_scale
from pyro_vae.distributions import AutoregressiveAffine, AutoregressiveSpline
from pyro_vae.options import Count, checked

__all__ = ["FixedPrior", "FlowPrior", "MixturePrior", "NormalPrior", "StandardNormal", "VampPrior"]


class StandardNormal(nn.Module):
    """N(0, I). Nothing is learned; it moves with ``.to(device)``.

    Args:
        latent: size of z.
    """

    loc: Tensor
    scale: Tensor

    @checked()
    def __init__(self, latent: Count) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent))
        self.register_buffer("scale", torch.ones(latent))

    def forward(self) -> TorchDistribution:
        """Return p(z)."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class FixedPrior(nn.Module):
    """p(z | y) = p(z): a prior where a model asks for one given ``y``, which says nothing about z.

    Args:
        prior: ``() -> p(z)``.
    """

    @checked()
    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, y: Tensor) -> TorchDistribution:
        """Return p(z), whatever ``y``."""
        return self.prior()


class NormalPrior(nn.Module):
    """N(loc, diag(scale)^2), both learned; it begins at N(0, I).

    Args:
        latent: size of z.
    """

    @checked()
    def __init__(self, latent: Count) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent))
        self.raw_scale = nn.Parameter(torch.zeros(latent))

    def forward(self) -> TorchDistribution:
        """Return p(z)."""
        return dist.Normal(self.loc, to_scale(self.raw_scale)).to_event(1)


class MixturePrior(nn.Module):
    """A mixture of diagonal Gaussians: sum_k w_k N(loc_k, diag(scale_k)^2), all learned.

    It begins with equal weights, scale 1/2, and locations drawn so that the mixture has variance 1,
    as the standard normal that it replaces: wide enough apart that the components learn different
    things, and near enough that each gets data.

    Args:
        latent: size of z.
        components: how many Gaussians.
    """

    @checked()
    def __init__(self, latent: Count, components: Count = 10) -> None:
        super().__init__()
        scale = torch.full((components, latent), 0.5)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(0.75**0.5 * torch.randn(components, latent))
        self.raw_scale = nn.Parameter(from_scale(scale))

    def forward(self) -> TorchDistribution:
        """Return p(z)."""
        components = dist.Normal(self.loc, to_scale(self.raw_scale)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class VampPrior(nn.Module):
    """A mixture of the guide's own posteriors at learned pseudo-inputs: sum_k w_k q(z | u_k).

    *VAE with a VampPrior (Tomczak & Welling, 2018)*, arXiv 1705.07120; their weights are equal,
    these are learned from equal.

    The encoder is the guide's, the same object, and the guide alone owns it: it is not a submodule
    here, so that its parameters are listed, moved and saved once, with the guide. Copy or move the
    model and the guide together.

    Args:
        encoder: the guide's ``x -> q(z | x)``, with a Gaussian head.
        inputs: where the pseudo-inputs begin, ``(components, features)``: rows of the training
            data, or `VampPrior.around`.
        units: of the data, if they have no natural one (`pyro_vae.pairs.Units`): pseudo-inputs are
            learned in these.
    """

    encoder: nn.Module

    @checked()
    def __init__(self, encoder: nn.Module, inputs: Tensor, units: nn.Module | None = None) -> None:
        super().__init__()
        if inputs.dim() != 2 or len(inputs) < 1:
            raise ValueError(
                f"pseudo-inputs have shape (components, features), and these have {tuple(inputs.shape)}: "
                "give a matrix of 1 or more rows."
            )
        self.__dict__["encoder"] = encoder  # past nn.Module's registration
        self.units = units
        self.inputs = nn.Parameter((units.inverse(inputs) if units else inputs).detach().clone())  # type: ignore[operator]
        self.logits = nn.Parameter(inputs.new_zeros(len(inputs)))

    @classmethod
    def around(
        cls, encoder: nn.Module, mean: Tensor, std: Tensor, components: int = 100, units: nn.Module | None = None
    ) -> "VampPrior":
        """Return a prior whose pseudo-inputs begin as draws from N(mean, diag(std)^2).

        Args:
            encoder: as for the class.
            mean: of the data, ``(features,)``.
            std: of the data, ``(features,)``.
            components: how many pseudo-inputs.
            units: as for the class.
        """
        return cls(encoder, mean + std * torch.randn(components, len(mean)).to(mean), units)

    def forward(self) -> TorchDistribution:
        """Return p(z).

        Raises:
            TypeError: the encoder's distribution is transformed, a flow.
        """
        components = self.encoder(self.units(self.inputs) if self.units else self.inputs)
        if isinstance(components, torch.distributions.TransformedDistribution):
            raise TypeError(
                "a VampPrior mixes the encoder's posteriors at every z, and this encoder gives a flow: "
                "use a Normal, LowRank or FullCovariance head, or another prior."
            )
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class FlowPrior(nn.Module):
    """A standard normal pushed through learned invertible transforms; it begins near N(0, I).

    The transforms run from z to the normal, so that the density of any z costs one pass. Draws cost
    one pass too for the couplings, and ``latent`` passes for the autoregressive kinds.

    Args:
        latent: size of z.
        kind: ``"coupling"``, ``"autoregressive"``, ``"spline_coupling"`` or
            ``"spline_autoregressive"``: see `pyro_vae.conditionals.flow_layers`.
        layers: how many transforms.
        hidden: widths of the hidden layers of each transform's net.
    """

    @checked()
    def __init__(
        self, latent: Count, kind: Kind = "coupling", *, layers: Count = 4, hidden: Sequence[Count] = (64,)
    ) -> None:
        super().__init__()
        self.base = StandardNormal(latent)
        self.layers = flow_layers(kind, latent, 0, layers, hidden)

    def forward(self) -> TorchDistribution:
        """Return p(z)."""
        # a context of width 0 gives every call transforms of its own: a module that is itself a transform
        # keeps its last value, which is stale once the parameters have moved
        transforms = condition_all(self.layers, self.base.loc[:0])
        return _Backwards(self.base(), [transform.inv for transform in reversed(transforms)])


class _Backwards(dist.TransformedDistribution):
    """A base pushed backwards through transforms."""

    @property
    def passes(self) -> int:
        """How many passes of a net a draw costs: one per feature of every autoregressive transform."""
        one_by_one = (AutoregressiveAffine, AutoregressiveSpline)
        return max(1, sum(self.event_shape[0] for part in self.transforms if isinstance(part.inv, one_by_one)))
