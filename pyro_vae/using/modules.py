"""A pair as ``nn.Module``: its loss for other training loops, and its decoder for export."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
from torch import Tensor, nn

from pyro_vae.evidence import meaning_of
from pyro_vae.posterior import AtMean, Given, latent_vectors, observed_sites
from pyro_vae.program import (
    PairError,
    PerDatum,
    Verbs,
    Wrapped,
    evaluation,
    one_batch,
    plate_nesting,
    size_of,
    uncondition,
)
from pyro_vae.using.inputs import Used
from pyro_vae.using.verbs import require_given


class LossModule(nn.Module):
    """A pair's loss, in nats per datum, as a function of a batch: see `Verbs.module`.

    Args:
        used: the pair.
        num_data: size of the training data; needed where all data share latent variables.
    """

    def __init__(self, used: Verbs, num_data: int | None = None) -> None:
        super().__init__()
        pair = Used.of(used).pair
        if pair.stepper is not None:
            raise PairError("the pair trains by an algorithm of its own and not by a loss; train it with pv.fit")
        if not pair.named_parameters():
            raise PairError("the pair has no parameters before its programs have run; run check_pair first")
        self.pair, self.num_data = pair, num_data
        self.checked = num_data is not None
        for name, part in pair.modules().items():
            _put(self, name, part)
        for bound in (pair.bound_model, pair.bound_guide):
            for name, value in bound.store["params"].items():
                if not any(value is parameter for parameter in self.parameters()):
                    _put(self, f"param.{name}", value)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss on a batch, a 0-dim tensor with its gradient.

        Raises:
            PairError: all data share a latent variable, and ``num_data`` is not known.
        """
        fields = one_batch(batch)
        if not self.checked:
            shared = meaning_of(self.pair, fields).shared
            if shared:
                raise PairError(f"all data share {shared[0]}, which counts once for all: give module(num_data=...)")
            self.checked = True
        number = self.num_data or size_of(fields)
        model, guide = (
            Wrapped(program, lambda: PerDatum(number, self.pair.data_plate))
            for program in (self.pair.bound_model, self.pair.bound_guide)
        )
        objective: Any = self.pair.objective
        with pyro.validation_enabled(False):
            return objective.differentiable_loss(model, guide, fields)


class Decoder(nn.Module):
    """E[x | z] as a function of z, ``(data, latent)`` to ``(data, features)``: see `Verbs.decoder`.

    Args:
        used: the pair.
        fields: what else the model is given, one value for all data.
    """

    def __init__(self, used: Verbs, **fields: Any) -> None:
        super().__init__()
        read = Used.of(used)
        self.pair = read.pair
        batch = read.filled(1, fields)
        require_given(read, batch, fields, "decoder")
        with evaluation(self.pair, 0):
            observed = observed_sites(self.pair, batch)
        self.site = "x" if "x" in observed else observed[-1]
        self.sizes, self.nesting = latent_vectors(self.pair, batch), plate_nesting(self.pair, batch)
        if not self.sizes:
            raise PairError("the model has no continuous latent vector per datum, so there is no z to decode")
        for name, part in self.pair.modules().items():
            if name.startswith("model"):
                _put(self, name, part)
        for name, value in batch.items():
            self.register_buffer(f"given_{name}", value)
        self.fields = tuple(batch)

    def forward(self, z: Tensor) -> Tensor:
        """Return the mean of x at each z."""
        # one datum and as many particles as there are z: programs fix the size of their plate, and
        # what is exported must not
        batch = {name: getattr(self, f"given_{name}") for name in self.fields}
        codes = z.reshape(-1, *(1 for _ in range(self.nesting)), z.shape[-1]).split([*self.sizes.values()], -1)
        values = dict(zip(self.sizes, codes, strict=True)) | {self.site: batch["x"]}  # its own draw is not wanted
        with pyro.validation_enabled(False), AtMean(), Given(values):
            nodes = poutine.trace(uncondition(self.pair.bound_model)).get_trace(batch).nodes
        fn = nodes[self.site]["fn"]
        return fn.mean.select(-len(fn.event_shape) - 1, 0).flatten(1)


def _put(root: nn.Module, name: str, part: nn.Module | Tensor) -> None:
    """Register a module or parameter under a name with dots, so that its path is its name."""
    *path, last = name.split(".")
    for step in path:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    if isinstance(part, nn.Module):
        root.add_module(last, part)
    else:
        root.register_parameter(last, part if isinstance(part, nn.Parameter) else nn.Parameter(part))
