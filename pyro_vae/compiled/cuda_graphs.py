"""A step's code as one CUDA graph: on a GPU, the kernels of a small step take less time than launching them one by one.

What the code reads and writes stays where it is: parameters, running statistics and the optimizer's averages are used in place, and
data are copied to where the capture saw them. Draws go on from the generator's state, as ever. What comes back is compared with the recorded graph
before it is used (`replay`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.compiled.state import copies, undisturbed

Run = Callable[..., Sequence[Tensor]]
WARM_UPS = 3  # runs before the capture, in which libraries choose their kernels and take their memory


def capturable(inputs: Sequence[Tensor]) -> bool:
    """Return whether code on these inputs can be one graph: all are on one GPU."""
    return all(t.is_cuda for t in inputs) and len({t.device for t in inputs}) == 1


def captured(code: Run, inputs: Sequence[Tensor], fixed: int, written: Sequence[Tensor]) -> Run:
    """Return a function that does what `code` does, by replaying one CUDA graph.

    Args:
        code: a function of tensors on one GPU that returns tensors.
        inputs: what it will be called with.
        fixed: how many of them, from the first, will be these very tensors at every call; the others are copied.
        written: those that it writes; they are left as they were.

    Raises:
        RuntimeError: something in `code` cannot be captured.
    """
    still, moving = list(inputs[:fixed]), [t.clone() for t in inputs[fixed:]]
    with undisturbed(copies(written)), torch.no_grad():
        replay, out = capture(lambda: code(*still, *moving), inputs[0].device)

    def replayed(*inputs: Tensor) -> Sequence[Tensor]:
        for place, value in zip(moving, inputs[fixed:], strict=True):
            place.copy_(value)
        replay()
        return [t.clone() for t in out]  # the next replay overwrites them

    return replayed


def capture(run: Callable[[], Sequence[Tensor]], device: torch.device) -> tuple[Callable[[], None], Sequence[Tensor]]:
    """Run, then capture; return what repeats the run, and the tensors in which its results will stand."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        aside, present = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(present)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                run()
        present.wait_stream(aside)
        with torch.cuda.graph(graph):
            out = run()
    return graph.replay, out
