"""The same computation chunk by chunk, compiled where there are enough chunks to earn it."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

from torch import Tensor

from pyro_vae.compiled import Recording, RecordingError, in_short, record, signature
from pyro_vae.svi import EagerWarning
from pyro_vae.warning import warn

Compile = Literal["auto", "on", "off"]
COMPILES_AT = 1_000  # for an MLP on images compiling takes what a thousand compiled chunks save


class Chunks:
    """Runs functions of tensors for many chunks, eagerly or by inductor's code.

    The draws are the same in both, and the results agree to rounding. "auto" goes by the number of
    chunks of each shape alone, so that the same call gives the same bits. What cannot be compiled
    runs eagerly; one warning says why. Parameters must not be replaced while it is in use.

    Attributes:
        engine: "eager" or "inductor": what ran the last chunk.
        why_not: why nothing is compiled, or None.
    """

    def __init__(self, mode: Compile = "auto") -> None:
        if mode not in ("auto", "on", "off"):
            raise ValueError(f"compile is {mode!r}; give 'auto', 'on' or 'off'")
        self.mode = mode
        self.engine = "eager"
        self.why_not: str | None = "compile is 'off'" if mode == "off" else None
        self._calls: dict[tuple[Any, ...], int] = {}
        self._recordings: dict[tuple[Any, ...], Recording] = {}

    def __call__(self, function: Callable[..., Sequence[Tensor]], name: Hashable, *args: Any) -> Sequence[Tensor]:
        """Return what the function does of a chunk; calls of one name are of one function."""
        if self.why_not is None:
            try:
                recording, tensors = self._recording(function, name, args)
                if recording is not None:
                    self.engine = "inductor"
                    return recording.run(*tensors)
            except RecordingError as refusal:
                self._run_eagerly(str(refusal))
            except Exception as error:  # if it is the pair's, the eager run below raises it too
                self._run_eagerly(f"recording them raised {in_short(error)}")
        self.engine = "eager"
        return function(*args)

    def _run_eagerly(self, reason: str) -> None:
        self.why_not = reason
        warn(f"log-weights are computed eagerly: {reason}.", EagerWarning)

    def _recording(
        self, function: Callable, name: Hashable, args: tuple[Any, ...]
    ) -> tuple[Recording | None, list[Tensor]]:
        described, tensors = signature(args, {})
        key = name, *described
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        recording = self._recordings.get(key)
        if recording is None and (self.mode == "on" or calls >= COMPILES_AT):
            recording = record(function, args)
            failure = recording.compile(*tensors)
            if failure:
                raise RecordingError(f"inductor failed ({failure})")
            self._recordings[key] = recording
        return recording, tensors
