"""Vector quantization: a prior over the vectors of a codebook, and encoders that choose them.

*Neural Discrete Representation Learning (van den Oord et al., 2017)*, arXiv 1711.00937. The value of
the latent is made of vectors and its distribution is discrete, see `pyro_vae.distributions.Codebook`.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae.distributions import Autoregressive, Codebook, MaskedNet, distances, nearest
from pyro_vae.options import Count, Weight, checked

__all__ = ["CodebookPrior", "Quantize"]

DECAY = 0.99  # of the averages, per step (van den Oord et al., 2017, appendix A.1)
MOST_PARTS = 10_000  # that k-means is taken of


class CodebookPrior(nn.Module):
    """p(z): one of ``codes`` vectors at each of ``places``; one codebook for all places.

    In training mode `Quantize` shows it the encoder's outputs. With "averages" a vector is the
    average of what was nearest to it, which forgets with a factor of .99 per step; with "gradient"
    vectors are learned like all else. Either way, one that was nearest to nothing while
    ``restart`` data went by begins again at an output of the encoder. All this is kept in buffers, so
    that it is saved, resumed and moved with the rest; of several processes, those of the first
    count.

    Args:
        codes: how many vectors, at least 2.
        places: how many of them make up z.
        size: of each vector.
        learned: probabilities of the codes at each place are learned, from uniform ones; else they
            stay 1 / ``codes``.
        net: what the codes at earlier places say of each place is added to its log-odds, so that
            codes are drawn one after the other: `pyro_vae.nets.MaskedLabels`. Without one the places
            are independent.
        codebook: how the vectors are learned.
        restart: data without use after which a code begins again; the size of an epoch, say.

    Raises:
        ValueError: there is a single code, or the net is of other places or codes.
    """

    base: Tensor
    idle: Tensor
    counts: Tensor
    sums: Tensor
    logits: Tensor

    @checked()
    def __init__(
        self,
        codes: Count,
        places: Count,
        size: Count,
        *,
        learned: bool = True,
        net: nn.Module | None = None,
        codebook: Literal["averages", "gradient"] = "averages",
        restart: Count = 10_000,
    ) -> None:
        super().__init__()
        if codes < 2:
            raise ValueError(f"codes must be at least 2, got {codes}: a single code says nothing of the data.")
        sizes = (getattr(net, "inputs", places), getattr(net, "outputs", codes * places))
        if sizes != (places, codes * places):
            raise ValueError(
                f"the net {type(net).__name__} makes {sizes[1]} numbers of {sizes[0]} places, and {codes} codes at "
                f"{places} places need {codes * places}: build the net for them."
            )
        self.net = net
        self.codes, self.places, self.size, self.restart = codes, places, size, restart
        self.register_buffer("base", torch.randn(codes, size))
        self.register_buffer("idle", torch.zeros(codes))  # data since each code was used
        self.averages = codebook == "averages"
        if self.averages:
            self.register_buffer("counts", torch.zeros(codes))
            self.register_buffer("sums", torch.zeros(codes, size))
        else:
            self.moved = nn.Parameter(torch.zeros(codes, size))  # from `base`, which `start` and `learn` set
        if learned:
            self.logits = nn.Parameter(torch.zeros(places, codes))
        else:
            self.register_buffer("logits", torch.zeros(places, codes))

    @property
    def vectors(self) -> Tensor:
        """The codebook, ``(codes, size)``; a copy, since training writes to what it is made of."""
        return self.base.clone() if self.averages else self.base.clone() + self.moved

    def forward(self) -> TorchDistribution:
        """Return p(z), event shape ``(places * size,)``."""
        return Codebook(self.vectors, self.index())

    def index(self) -> TorchDistribution:
        """Return the distribution of the codes' numbers, event shape ``(places,)``."""
        if self.net is None:
            return dist.Categorical(logits=self.logits).to_event(1)
        return Autoregressive(cast(MaskedNet, self.net), _Codes(self.places, self.codes), self.logits.T.flatten())

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Begin at the centres of k-means of the encoder's outputs ``z``, ``(..., places * size)``.

        Where outputs are fewer than codes, or differ less, the codes left over stay where they are:
        they are restarted if nothing comes near them.
        """
        from sklearn.cluster import KMeans

        parts = z.detach().reshape(-1, self.size).to(self.base)
        parts = parts[_spread(min(MOST_PARTS, len(parts)), parts)]
        known = parts.isfinite().all() and min(self.codes, len(parts.unique(dim=0)))
        if known:
            found = KMeans(int(known), n_init=1, random_state=0).fit(parts.cpu().double().numpy())
            self.base[: int(known)] = torch.from_numpy(found.cluster_centers_).to(self.base)
        self.idle.zero_()
        if self.averages:
            self.counts.zero_()
            self.sums.zero_()
        else:
            self.moved.zero_()

    @torch.no_grad()
    def learn(self, z: Tensor, codes: Tensor) -> None:
        """Take in a batch of training: move the averages, and restart codes without use.

        Args:
            z: the encoder's outputs, ``(..., places * size)``.
            codes: those nearest to them, ``(..., places)``.
        """
        parts = z.detach().reshape(-1, self.size).to(self.base)
        counts, sums = self._assigned(parts, codes.reshape(-1))
        used, before = counts > 0, self.base.clone()
        if self.averages:
            kept_counts = DECAY * self.counts.clone() + (1 - DECAY) * counts
            kept_sums = DECAY * self.sums.clone() + (1 - DECAY) * sums
            # one without use stays where it is, however small its sums have become
            average = kept_sums / torch.where(used, kept_counts, 1.0).unsqueeze(-1)
            before = torch.where(used.unsqueeze(-1), average, before)
        idle = torch.where(used, 0.0, self.idle.clone() + len(parts) // self.places)
        fresh = parts[_spread(self.codes, parts)]
        dead = (idle >= self.restart) & fresh.isfinite().all(-1)
        if self.averages:
            self.counts.copy_(torch.where(dead, 1 - DECAY, kept_counts))
            self.sums.copy_(torch.where(dead.unsqueeze(-1), (1 - DECAY) * fresh, kept_sums))
        else:
            fresh = fresh - self.moved
        self.base.copy_(torch.where(dead.unsqueeze(-1), fresh, before))
        self.idle.copy_(torch.where(dead, 0.0, idle))

    def _assigned(self, parts: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many parts each code has, ``(codes,)``, and their sum, ``(codes, size)``."""
        chosen = torch.eye(self.codes, dtype=parts.dtype, device=parts.device)[codes]
        return chosen.sum(0), chosen.T @ parts


class _Codes:
    """What `Autoregressive` needs of a head, of whole numbers; parameters are ``(..., codes * features)``."""

    def __init__(self, features: int, codes: int) -> None:
        self.features, self.codes = features, codes

    def __call__(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution of codes that are independent given the parameters."""
        logits = parameters.unflatten(-1, (self.codes, self.features)).transpose(-1, -2)
        return dist.Categorical(logits=logits).to_event(1)

    def part(self, keep: Sequence[int]) -> Any:
        """Return the head of some features."""
        return _Codes(len(keep), self.codes)


def _spread(count: int, parts: Tensor) -> Tensor:
    """Return ``count`` places, evenly spread over the parts of a batch, which comes in random order."""
    return torch.arange(count, device=parts.device) * len(parts) // count


class Quantize(nn.Module):
    """q(z | x): the codes nearest to a net's output, a point.

    z is exactly those vectors, and its gradient goes straight through to the net: that is not the
    gradient of the ELBO, which does not exist here. (The decoder's and the prior's, at fixed codes,
    are.) Vectors and outputs are drawn together by ``pull * (|e - sg(o)|^2 + commitment * |o -
    sg(e)|^2)``, which enters the point's log density minus its own value: the ELBO's gradient has
    it and its value does not, which stays a bound on log p(x), since the point is one on a mass
    function. As a part of log q, the pull is scaled with the KL by beta and its warm-up: at beta 0
    nothing holds outputs to vectors.

    With a temperature above 0 it is a distribution over all codes instead, place by place:
    softmax(-|o - e|^2 / temperature). The net and the distances are computed in full precision
    under autocast too, which would choose other codes.

    The prior is the model's, the same object, and the model alone owns it, as with
    `pyro_vae.conditionals.VampPrior`.

    Args:
        net: ``x -> (..., places * size)``.
        prior: whose vectors are chosen from.
        pull: what the squared distance weighs, in nats. The larger, the less an output leaves its
            first code; a large one keeps whole places at one code.
        commitment: the part of it that the net's outputs feel.
        temperature: of the softmax; 0 for the nearest codes, as in training.

    Raises:
        ValueError: a temperature is to train averages, which are of the nearest codes.
    """

    prior: CodebookPrior

    @checked()
    def __init__(
        self,
        net: nn.Module,
        prior: CodebookPrior,
        *,
        pull: Weight = 1.0,
        commitment: Weight = 0.25,
        temperature: Weight = 0.0,
    ) -> None:
        super().__init__()
        if temperature > 0 and prior.averages:
            raise ValueError(
                f"temperature {temperature:g} trains no averages, which are of what is nearest to a code: use "
                'codebook="gradient", or set the temperature for evaluation alone (pyro_vae.posterior.at_temperature).'
            )
        self.net = net
        self.__dict__["prior"] = prior  # past nn.Module's registration
        self.pull, self.commitment, self.temperature = pull, commitment, temperature

    def outputs(self, x: Tensor) -> Tensor:
        """Return what the net makes of ``x``: ``(..., places * size)``."""
        with torch.autocast(x.device.type, enabled=False):
            return self.net(x)

    def forward(self, x: Tensor) -> TorchDistribution:
        """Return q(z | x), event shape ``(places * size,)``."""
        z = self.outputs(x)
        with torch.autocast(x.device.type, enabled=False):
            if self.temperature > 0:
                vectors = self.prior.vectors
                logits = -distances(vectors, z) / self.temperature
                return Codebook(vectors, dist.Categorical(logits=logits).to_event(1))
            codes = nearest(self.prior.vectors, z)
            if self.training:
                self.prior.learn(z, codes)
            return self._point(z, self.prior.vectors[codes].flatten(-2))

    def _point(self, z: Tensor, word: Tensor) -> TorchDistribution:
        pull = self.commitment * (z - word.detach()).square().sum(-1)
        if not self.prior.averages:
            pull = pull + (word - z.detach()).square().sum(-1)
        pull = self.pull * pull
        straight = word.detach() + (z - z.detach())  # the word to the bit: the rest is 0
        return dist.Delta(straight, log_density=pull - pull.detach(), event_dim=1)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Begin with the codebook at k-means of the outputs for some data ``x``, ``(data, features)``."""
        self.prior.start(self.outputs(x))
