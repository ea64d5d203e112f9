"""One file with all that a run needs to go on, written atomically and read without running code."""

import errno
import hashlib
import io
import os
import pickletools
import random
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

FORMAT = 1
_MARK = b"PYROVAE1"  # then the SHA-256 of all before it; torch.load ignores what follows the archive
_NAMES = frozenset(["collections OrderedDict", "torch._utils _rebuild_tensor_v2"])  # what our own files name

_UMASK = os.umask(0o022)  # it can only be read by setting it
os.umask(_UMASK)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, tuples, dicts) to ``path``, atomically.

    Written to a temporary file beside it, flushed to the disk, renamed. A crash at any moment
    leaves the old file or the new one. ``torch.load(path, weights_only=True)`` reads it too.

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
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; the run may not have reached its first checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; restore the file") from None
    size = len(content) - len(_MARK) - hashlib.sha256().digest_size
    if size <= 0 or content[size : size + len(_MARK)] != _MARK:
        raise CheckpointError(f"{path} is not a complete checkpoint ({len(content)} bytes, no closing mark)")
    if hashlib.sha256(content[:size]).digest() != content[size + len(_MARK) :]:
        raise CheckpointError(f"{path} is damaged: its content does not match its checksum")
    try:
        _refuse_tricks(content[:size])
        state = torch.load(io.BytesIO(content[:size]), map_location="cpu", weights_only=True)
        _refuse_stretched(state, size)
    except Exception as error:  # whatever a damaged or hostile archive makes zipfile, pickle or torch raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} cannot be read safely: {lines[0][:200]}") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found} and this version of pyro_vae reads format {FORMAT}; "
            "use the version that wrote it"
        )
    return state


def _refuse_tricks(archive: bytes) -> None:
    """Refuse an archive that would take more memory than its size or that names more than tensors.

    The checksum keeps accidents out and a stranger's intent not. What torch.load allows with
    ``weights_only`` still lets a kilobyte ask for gigabytes: a compressed entry, or
    ``bytearray(10**11)``.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        entries = opened.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("an entry is compressed, and checkpoints never are")
        if sum(entry.file_size for entry in entries) > len(archive):
            raise ValueError("its entries are larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} entries data.pkl, not one")
        content = opened.read(pickles[0])
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            storage = module == "torch" and name.endswith("Storage") and name.isidentifier()
            if not storage and argument not in _NAMES:
                raise ValueError(f"it names {module}.{name}, which no checkpoint needs")
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"it holds the instruction {opcode.name}, which no checkpoint needs")


def _refuse_stretched(state: Any, size: int) -> None:
    """Refuse tensors with more elements than the file holds.

    Torch would fill them with whatever is in memory.
    """
    stack, seen = [state], set()
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if max(value.nbytes, value.untyped_storage().nbytes()) > size:
                raise ValueError(f"a tensor of shape {tuple(value.shape)} is larger than the file")
        elif isinstance(value, dict):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            stack += value


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, if it is an ordinary one.

    Opening a FIFO waits for a writer, and a device may never end: in a folder from
    elsewhere either may carry any name.

    Raises:
        OSError: when there is no such file, it may not be read, or it is a FIFO, device, socket or
            folder.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))
    return os.fdopen(handle, "rb")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a new file that replaces ``path`` if the block ends without error.

    A reader sees the old file or the new one, also after a power cut. Where ``path`` is a link, the
    link is replaced and its target left alone.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    temporary = Path(name)
    try:
        os.fchmod(handle, 0o666 & ~_UMASK)  # what any new file gets; mkstemp's is for its owner alone
        yield temporary
        os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    _sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``, whole or not at all (see ``replacing``)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def random_state() -> dict[str, Any]:
    """Return the state of torch's, NumPy's and Python's generators, as ``save`` takes it."""
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


def check_seed(seed: int) -> None:
    """Refuse what cannot seed all generators.

    Raises:
        ValueError: it is negative or too large.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def seed_all(seed: int) -> None:
    """Seed torch's, NumPy's and Python's generators.

    Raises:
        ValueError: the seed is negative or too large.
    """
    check_seed(seed)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # 200 times as fast: torch.manual_seed keeps a traceback for every kind of device that may yet come
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every generator inside, and leave them outside as they were."""
    before = random_state()
    seed_all(seed)
    try:
        yield
    finally:
        set_random_state(before)
