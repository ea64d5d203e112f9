"""One writer per run folder: a lock that the kernel releases when its holder dies, however it dies.

Not ``filelock`` (4.3), which can look at a lock only by taking it, with the folder writable, gives
up where ``flock`` is refused by anything but ENOSYS, takes a FIFO for a lock, and leaves the
holder's card to us.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from pyro_vae.runs.checkpoint import open_regular

_UNSUPPORTED = frozenset([errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
_TRIES = 4  # since `taken` holds the lock for a moment when it looks


class Lock:
    """An exclusive lock on a file, which says who holds it.

    Taken with ``flock``, so a holder that was killed holds nothing: the file that it leaves is
    recognised as stale and taken over. Where the file system has no ``flock``, the holder's process
    number decides, on its own machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> str | None:
        """Take the lock; if another process or another run of this one holds it, return who, else
        None.

        Raises:
            OSError: when the folder cannot be written.
        """
        tries = 0
        while self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
            try:
                _refuse_special(file, self.path)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    tries += 1
                    if tries == _TRIES:
                        return describe(self.path)
                    time.sleep(0.02)
                    continue
                except OSError as error:
                    if error.errno not in _UNSUPPORTED:
                        raise
                    if not _stale(read(self.path)):
                        return describe(self.path)
                if _same(file, self.path):  # else its last holder deleted it in the meantime
                    os.ftruncate(file, 0)
                    os.pwrite(file, _card().encode(), 0)
                    self._file, file = file, -1
            finally:
                if file >= 0:
                    os.close(file)
        return None

    def release(self) -> None:
        """Let go, and delete the file."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def taken(path: Path) -> bool:
    """Return whether a living process holds the lock, without taking it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # the lock of a folder from elsewhere may be a FIFO
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return not _stale(read(path))
    finally:
        os.close(file)
    return False


def read(path: Path) -> dict[str, Any]:
    """Return what the holder wrote, ``pid``, ``host`` and ``since``; empty if it cannot be read."""
    try:
        with open_regular(path) as file:
            card = json.loads(file.read(1000))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def describe(path: Path) -> str:
    """Return who holds the lock, in words."""
    card = read(path)
    if not card:
        return "another process"
    return f"process {card.get('pid')} on {card.get('host')} since {card.get('since')}"


def _card() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})


def _refuse_special(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise OSError(errno.EINVAL, "its lock is not an ordinary file", str(path))


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _stale(card: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine that is gone."""
    pid = card.get("pid")
    if not card:
        return True
    if card.get("host") != socket.gethostname() or not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
