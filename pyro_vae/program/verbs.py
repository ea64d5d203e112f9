"""What one does with a pair, as methods: each a line that calls `pyro_vae.using`.

That package stands on floors above this one, since it needs codes, evidence and run folders; so it
is fetched when a method is called.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from pyro_vae.evidence import ElboTable, Evidence


class Verbs:
    """Methods of a pair and of what ``fit`` and ``load`` return.

    Data are tensors, NumPy arrays, DataFrames, lists, a batch (fields by name) or `Data`, of which
    the test split is taken. ``x`` may have the shape of its image. Further fields that programs
    read are keywords: one value for all data, or one for each. Results are tensors of nats or of
    the data's units, detached, on the pair's device. Every draw follows from ``seed``; global
    random states stay as they were.
    """

    def encode(
        self, x: Any = None, *, site: str | None = None, draw: bool = False, seed: int = 0, **fields: Any
    ) -> Tensor:
        """Return the codes of data: ``(data, latent)``.

        The mean of q(z | x), the model's latent vectors side by side, top level first; whole
        numbers ``(data, places)`` where they are words of a codebook; of a model with neither, the
        probabilities of q(k | x).

        Args:
            x: the data; those of the test split for what ``fit`` returned.
            site: only this latent site.
            draw: a draw of q(z | x) in place of its mean.
            seed: of the draws.
            fields: what else the guide reads, such as ``y=3``.

        Raises:
            PairError: the model has no code per datum, or a field is missing or does not fit.
        """
        return _using().encode(self, x, site=site, draw=draw, seed=seed, **fields)

    def decode(
        self,
        z: Any,
        *,
        site: str | None = None,
        draw: bool = False,
        seed: int = 0,
        **fields: Any,
    ) -> Tensor:
        """Return E[x | z]: ``(data, features)``.

        Args:
            z: as ``encode`` gives it, or a mapping by latent site. Sites that a mapping leaves out
                take their mean given those above.
            site: which observed site; ``x`` by default.
            draw: a draw of p(x | z) in place of its mean.
            seed: of the draws.
            fields: what else the model is given, such as ``y=3``.

        Raises:
            PairError: z does not fit the model's latent vectors, or a field is missing.
        """
        return _using().decode(self, z, site=site, draw=draw, seed=seed, **fields)

    def sample(
        self, n: int = 1, *, site: str | None = None, mean: bool = False, seed: int = 0, **fields: Any
    ) -> Tensor:
        """Return ``n`` new data drawn from the model: ``(n, features)``.

        Args:
            n: how many.
            site: which observed site; ``x`` by default.
            mean: E[x | z] at the drawn z, in place of a draw of x.
            seed: of the draws.
            fields: what is given: a field that the model reads, or the value of a site, such as
                ``y=3``.

        Raises:
            PairError: a field is missing; or a site's value is given that depends on latent
                variables, whose posterior would have to be drawn from.
        """
        return _using().sample(self, n, site=site, mean=mean, seed=seed, **fields)

    def reconstruct(
        self, x: Any = None, *, site: str | None = None, draw: bool = False, seed: int = 0, **fields: Any
    ) -> Tensor:
        """Return E[x | z] at the mean of q(z | x): ``(data, features)``.

        Args:
            x: the data; those of the test split for what ``fit`` returned.
            site: which observed site; ``x`` by default.
            draw: draws z from q(z | x) and x from p(x | z).
            seed: of the draws.
            fields: what else the programs read.

        Raises:
            PairError: a field is missing or does not fit.
        """
        return _using().reconstruct(self, x, site=site, draw=draw, seed=seed, **fields)

    def log_evidence(self, x: Any = None, *, num_samples: int = 5000, seed: int = 0, **fields: Any) -> "Evidence":
        """Return log p(x) of every datum in nats, with its standard error and k-hat: see
        `pyro_vae.log_evidence`.

        Raises:
            PairError: draws from the guide have no weights, or a field is missing or does not fit.
        """
        return _using().log_evidence(self, x, num_samples=num_samples, seed=seed, **fields)

    def elbo(self, x: Any = None, *, num_samples: int = 1, seed: int = 0, **fields: Any) -> "ElboTable":
        """Return the ELBO by site, in nats per datum: see `pyro_vae.elbo`."""
        return _using().elbo(self, x, num_samples=num_samples, seed=seed, **fields)

    def module(self, *, num_data: int | None = None) -> nn.Module:
        """Return the pair as an ``nn.Module`` whose ``forward(batch)`` is its loss in nats per datum.

        Its parameters and buffers are the pair's own, by the same names: an optimizer, Lightning,
        ``DistributedDataParallel`` or ``AveragedModel`` that is given the module trains the pair.

        Args:
            num_data: size of the training data, for models with latent variables that all data
                share.

        Raises:
            PairError: the pair trains by another algorithm than the gradient of a loss, or has no
                parameters before its programs have run.
        """
        return _using().LossModule(self, num_data)

    def decoder(self, **fields: Any) -> nn.Module:
        """Return an ``nn.Module`` whose ``forward(z)`` is ``decode(z)``, differentiable, for
        ``torch.export`` and ONNX.

        Args:
            fields: what else the model is given, the same for all data.
        """
        return _using().Decoder(self, **fields)

    def save(self, path: str | os.PathLike) -> None:
        """Write the parameters to a file, whole or not at all; what ``fit`` returned writes a run
        folder, which `pyro_vae.load` and the command line open.

        Raises:
            RunError: the folder holds a run, or cannot be written.
        """
        _using().save(self, path)


def _using() -> Any:
    return import_module("pyro_vae.using")
