"""One file with everything a run needs to go on; written whole or not at all, read without running code."""

import hashlib
import io
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1
_MARK = b"PYROVAE1"  # then the SHA-256 of all before it; torch.load ignores what follows the archive


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, tuples, dicts) to ``path``, atomically.

    Written to a temporary file beside it, flushed to the disk, renamed. A crash at any moment leaves the old file or the
    new one. ``torch.load(path, weights_only=True)`` reads it too.

    Raises:
        OSError: when the disk is full or read-only; the old file is still there then.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    write_whole(path, content + _MARK + hashlib.sha256(content).digest())


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote, onto the CPU.

    Raises:
        CheckpointError: for a missing or damaged file, or one of another format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; the run may not have reached its first checkpoint") from None
    size = len(content) - len(_MARK) - hashlib.sha256().digest_size
    if size <= 0 or content[size : size + len(_MARK)] != _MARK:
        raise CheckpointError(f"{path} is not a complete checkpoint ({len(content)} bytes, no closing mark)")
    if hashlib.sha256(content[:size]).digest() != content[size + len(_MARK) :]:
        raise CheckpointError(f"{path} is damaged: its content does not match its checksum")
    try:
        state = torch.load(io.BytesIO(content[:size]), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} cannot be read safely: {reason}") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found} and this version of pyro_vae reads format {FORMAT}; use the version that wrote it"
        )
    return state


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old file or the new one, also after a power cut."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def random_state() -> dict[str, Any]:
    """Return the state of torch's, NumPy's and Python's generators, in a form that ``save`` takes."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to what ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every generator inside, and leave them outside as they were."""
    before = random_state()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        set_random_state(before)
