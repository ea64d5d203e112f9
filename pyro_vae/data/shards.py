"""Data in shards, of which memory holds a few at a time: litdata's folders, here or in a bucket.

litdata (Apache-2.0) reads a shard, fetches it first where it is not on this disk, and lets go of
others as its cache fills. Which shard is read when is decided here, so that the order of an epoch
is a function of (seed, epoch) as it is for all other data, and a run resumes to the bit.

Only ``x`` stays in the shards; other fields are read into memory. Nothing is unpickled.
"""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.data.memory_maps import Elsewhere
from pyro_vae.data.readers import DataError, brief

INDEX = "index.json"
AT_ONCE = 8
"""Shards that memory holds, and whose data an epoch mixes."""
PLAIN = frozenset("bool int float numpy no_header_numpy tensor no_header_tensor jpeg jpeg_array pil".split())
"""litdata's formats that are numbers or images, whose reading runs no code."""


def is_url(source: object) -> bool:
    """Return whether a name is one that litdata fetches shards from, such as s3://bucket/folder."""
    return isinstance(source, str) and re.match(r"(s3|gs|r2|azure)://|local:", source) is not None


def holds_shards(folder: Path) -> bool:
    """Return whether a folder, or one in it, is litdata's."""
    return any(folder.glob(INDEX)) or any(folder.glob(f"*/{INDEX}"))


def read_shards(place: str) -> dict[str, Any]:
    """Return the fields of a folder or URL of shards: ``x`` as `ShardedX`, others as arrays.

    Raises:
        DataError: litdata is not installed, a shard is missing or damaged, or items are no dicts of
            numbers.
    """
    shards = Shards(place)
    fields: dict[str, Any] = {"x": ShardedX(shards)}
    others: dict[str, list[np.ndarray]] = {name: [] for name in shards.fields if name != "x"}
    for number in range(len(shards.sizes)) if others else ():
        part = shards.shard(number, keep=False)
        for name, found in others.items():
            found.append(part[name])
    return fields | {name: np.concatenate(found) for name, found in others.items()}


class Shards:
    """The shards of one folder or URL, the last few that were read in memory.

    Args:
        place: a folder, or a URL that litdata knows.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._lock, self._held = threading.Lock(), OrderedDict[int, dict[str, np.ndarray]]()
        if not is_url(place):
            _check_folder(Path(place))
        self._data = _opened(place)
        self.index = _index(Path(self._data.input_dir.path or place))
        _check_plain(self.index["config"], place)
        self.sizes = [int(chunk["chunk_size"]) for chunk in self.index["chunks"]]
        self.ends = np.cumsum(self.sizes)
        self.fields = {name: (array.dtype, array.shape) for name, array in self._items(0, 1)[0].items()}

    def shard(self, number: int, *, keep: bool = True) -> dict[str, np.ndarray]:
        """Return all data of a shard, by field."""
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
                return self._held[number]
            start = int(self.ends[number]) - self.sizes[number]
            items = self._items(start, start + self.sizes[number])
            for row, item in enumerate(items, start):
                found = {name: (array.dtype, array.shape) for name, array in item.items()}
                if found != self.fields:
                    raise DataError(
                        f"{self.place}: datum {row:,} is {_told(found)} and the first is {_told(self.fields)}: write "
                        "items alike."
                    )
            read = {name: np.stack([item[name] for item in items]) for name in self.fields}
            while keep and len(self._held) >= AT_ONCE:
                self._held.popitem(last=False)
            if keep:
                self._held[number] = read
            return read

    def held(self) -> set[int]:
        """Return the numbers of the shards in memory."""
        return set(self._held)

    def _items(self, start: int, stop: int) -> list[dict[str, np.ndarray]]:
        """Return items of one shard: as a slice, for which litdata fetches all of the shard."""
        try:
            read = self._data[start:stop]
        except Exception as error:  # of a damaged shard litdata raises whatever its decoders do
            raise DataError(
                f"{self.place}: data {start:,} to {stop - 1:,} cannot be read ({brief(error)}): write the shard again."
            ) from error
        return [self._fields(item) for item in read]

    def _fields(self, item: Any) -> dict[str, np.ndarray]:
        if not isinstance(item, Mapping):
            item = {"x": item} if not isinstance(item, tuple | list) else dict(zip("xy", item, strict=False))
        if "x" not in item:
            raise DataError(f"{self.place} has items of {', '.join(map(str, item))} and no x: name the data x.")
        return {str(name): _array(value, f"{name} of {self.place}") for name, value in item.items()}


class ShardedX(Elsewhere):
    """``x`` of all data, in shards: rows are read when they are asked for.

    Args:
        shards: where they lie.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.dtype, shape = shards.fields["x"]
        self.shape = (int(shards.ends[-1]), *shape)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows, in this order."""
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        number = np.searchsorted(self.shards.ends, rows, side="right")
        held = self.shards.held()
        for one in sorted(np.unique(number).tolist(), key=lambda one: one not in held):  # before they go
            here = np.flatnonzero(number == one)
            start = self.shards.ends[one] - self.shards.sizes[one]
            taken[here] = self.shards.shard(one)["x"][rows[here] - start]
        return taken

    def order(self, rows: np.ndarray | None, generator: torch.Generator) -> np.ndarray:
        """Return an order of a split's data for an epoch: shards in a random order, and the data of
        `AT_ONCE` of them mixed.

        Args:
            rows: of the split; None for all.
            generator: decides it, alone.
        """
        number = np.searchsorted(self.shards.ends, np.arange(len(self)) if rows is None else rows, side="right")
        by_shard = np.argsort(number, kind="stable")
        starts = np.searchsorted(number[by_shard], np.arange(len(self.shards.sizes) + 1))
        present = np.flatnonzero(np.diff(starts))
        mixed = present[torch.randperm(len(present), generator=generator).numpy()]
        order = []
        for first in range(0, len(mixed), AT_ONCE):
            together = np.concatenate([by_shard[starts[k] : starts[k + 1]] for k in mixed[first : first + AT_ONCE]])
            order.append(together[torch.randperm(len(together), generator=generator).numpy()])
        return np.concatenate(order)

    def groups(self) -> np.ndarray | None:
        """Return the shard of each datum, so that splits are cut between shards; None for few."""
        few = len(self.shards.sizes) < 20
        return None if few else np.repeat(np.arange(len(self.shards.sizes)), self.shards.sizes)

    def digest(self) -> bytes:
        """Return what tells these shards from others: their names and sizes, and the first data of
        some.
        """
        found = hashlib.blake2b(json.dumps(self.shards.index["chunks"], sort_keys=True).encode())
        for number in np.unique(np.linspace(0, len(self.shards.sizes) - 1, AT_ONCE).astype(int)).tolist():
            found.update(self.shards.shard(number)["x"][:1].tobytes())
        return found.digest()


def _opened(place: str) -> Any:
    try:
        from litdata import StreamingDataset
    except ImportError:
        raise DataError(
            f"{place} holds shards, which litdata reads, and it is not installed: pip install 'pyro-vae[shards]'."
        ) from None
    try:
        return StreamingDataset(place)
    except Exception as error:  # clients of buckets raise whatever they like
        raise DataError(f"{place} cannot be opened by litdata ({brief(error)}): check the name and access.") from error


def _check_folder(folder: Path) -> None:
    """Compare what the index announces with the files: litdata would wait for what is not there."""
    index = _index(folder)
    _check_plain(index["config"], str(folder))
    files = [(folder / str(chunk["filename"]), int(chunk["chunk_bytes"])) for chunk in index["chunks"]]
    for path, size in files:
        actual = path.stat().st_size if path.is_file() else None
        if actual is None:
            raise DataError(f"{path} is not there, and {INDEX} lists it: copy it too, or write the shards again.")
        if actual != size and not index["config"].get("compression"):
            how = "cut short" if actual < size else "damaged"
            raise DataError(f"{path} is {how}: {INDEX} announces {size:,} bytes, the file has {actual:,}.")


def _index(folder: Path) -> dict[str, Any]:
    """Return litdata's list of the shards: ``config``, and ``chunks`` with names and sizes."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        whole = [chunk["filename"] and chunk["chunk_size"] > 0 <= chunk["chunk_bytes"] for chunk in index["chunks"]]
        if not all(whole) or not isinstance(index["config"], dict):
            raise ValueError("an entry is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / INDEX} is no index of litdata's ({brief(error)}): write the shards again."
        ) from None
    if not whole:
        raise DataError(f"{folder / INDEX} lists no shard: write at least one datum.")
    return index


def _check_plain(config: Mapping[str, Any], place: str) -> None:
    """Refuse shards whose reading could run code, or whose items are no data.

    Raises:
        DataError: they are of pickles, text or another format.
    """
    formats = {str(one).partition(":")[0] for one in config.get("data_format") or ()}
    if config.get("item_loader") not in (None, "PyTreeLoader") or not formats <= PLAIN:
        odd = ", ".join(sorted(formats - PLAIN)) or config.get("item_loader")
        raise DataError(
            f"{place} holds shards of {odd}, and numbers or images are needed: write items such as "
            "{'x': array, 'y': 3} with litdata.optimize."
        )


def _array(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} holds {type(value).__name__}, not numbers: write arrays, or numbers.")
    return array


def _told(fields: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in fields.items())
