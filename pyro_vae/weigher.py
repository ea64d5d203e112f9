"""Log-weights chunk by chunk, replayed without Python where there are enough chunks to earn it."""

import warnings
from typing import Any

from torch import Tensor

from pyro_vae.compiled import Recording, RecordingError, in_short, record, signature
from pyro_vae.pairing import Batch, Pair
from pyro_vae.svi import EagerWarning, Mode
from pyro_vae.weights import weigh

RECORDS_AT = 16  # chunk of a shape at which "auto" records, which takes as long as a few chunks
COMPILES_AT = 1_000  # for an MLP on images compiling takes what a thousand compiled chunks save


class Weigher:
    """Runs `weigh` for many chunks of one pair: eagerly, by a recording, or by inductor's code.

    The draws are the same in all three, and the log-weights agree to rounding. "auto" goes by the number of chunks of
    each shape alone, so that the same call gives the same bits. A pair that cannot be recorded is run eagerly; one warning
    says why. Parameters must not be replaced while it is in use.

    Attributes:
        engine: "eager", "recorded" or "inductor": what ran the last chunk.
        why_not: why nothing is recorded, or None.
    """

    def __init__(self, pair: Pair, mode: Mode = "auto") -> None:
        if mode not in ("auto", "on", "off", "recorded"):
            raise ValueError(f"compile is {mode!r}; give 'auto', 'on', 'off' or 'recorded'")
        self.pair, self.mode = pair, mode
        self.engine = "eager"
        self.why_not: str | None = "compile is 'off'" if mode == "off" else None
        self._calls: dict[tuple[Any, ...], int] = {}
        self._recordings: dict[tuple[Any, ...], Recording] = {}
        self._compiled: set[tuple[Any, ...]] = set()  # shapes for which inductor was tried

    def __call__(self, batch: Batch, num_samples: int | None, nesting: int) -> Tensor:
        """Return log-weights ``(num_samples or 1, batch)``, as `weigh` does."""
        if self.why_not is None:
            try:
                recording, tensors = self._recording(batch, num_samples, nesting)
                if recording is not None:
                    (log_w,) = recording.run(*tensors)
                    return log_w
            except RecordingError as refusal:
                self._run_eagerly(str(refusal))
            except Exception as error:  # if it is the pair's, the eager run below raises it too
                self._run_eagerly(f"recording them raised {in_short(error)}")
        self.engine = "eager"
        return weigh(self.pair, batch, num_samples, nesting)

    def _run_eagerly(self, reason: str) -> None:
        self.why_not = reason
        self._warn(f"log-weights are computed eagerly: {reason}.")

    def _recording(self, batch: Batch, num_samples: int | None, nesting: int) -> tuple[Recording | None, list[Tensor]]:
        batch = dict(batch)
        described, tensors = signature((batch,), {})
        key = num_samples, nesting, *described
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        recording = self._recordings.get(key)
        if recording is None and (self.mode != "auto" or calls >= RECORDS_AT):
            recording = self._recordings[key] = record(lambda b: weigh(self.pair, b, num_samples, nesting), (batch,))
        if recording is not None and key not in self._compiled and self._worth_compiling(calls):
            self._compiled.add(key)
            failure = recording.compile(*tensors)
            if failure:
                self._warn(f"log-weights are replayed uncompiled: inductor failed ({failure}).")
        if recording is not None:
            self.engine = "inductor" if recording.compiled else "recorded"
        return recording, tensors

    def _worth_compiling(self, calls: int) -> bool:
        return self.mode == "on" or (self.mode == "auto" and calls >= COMPILES_AT)

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, EagerWarning, stacklevel=6)
