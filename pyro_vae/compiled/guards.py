"""Whether dictionaries still hold the very objects that they held; asked before every replayed step."""

import operator
from collections.abc import Collection, Iterable
from itertools import compress, count
from typing import Any

from pyro_vae.compiled._torch import optional

GONE = object()


class Held:
    """What a dictionary, or the attributes of a class, must go on to hold.

    Args:
        holder: the dictionary.
        names: the keys that matter; None for all.
        what: what its entries are called, by default by their keys.
    """

    def __init__(self, holder: Any, names: Collection[Any] | None = None, what: str = "") -> None:
        self.holder, self.names = holder, None if names is None else frozenset(names)
        self.what = what
        self.skipped: set[Any] = set()  # keys that are looked at no more
        self.renew()

    def renew(self) -> None:
        """Take what is there now for what must be there."""
        self.keys, self.values = self._now()

    def _now(self) -> tuple[list[Any], list[Any]]:
        holder, names = self.holder, self.names
        kind: Any = dict if isinstance(holder, dict) else type(holder)  # whatever a class of one's own makes of it
        if names is None and not self.skipped:
            return [*kind.keys(holder)], [*kind.values(holder)]
        keys = [key for key in kind.keys(holder) if (names is None or key in names) and key not in self.skipped]
        return keys, [kind.__getitem__(holder, key) for key in keys]

    def same(self) -> bool:
        """Return whether it holds the very objects under the very keys."""
        keys, values = self._now()
        return (
            len(keys) == len(self.keys)
            and all(map(operator.is_, values, self.values))
            and all(map(operator.is_, keys, self.keys))
        )

    def pairs(self) -> list[tuple[Any, Any, Any]]:
        """Return each key whose object is another one, with the old and the new one, `GONE` where there is none."""
        old, new = (dict(zip(*both, strict=True)) for both in ((self.keys, self.values), self._now()))
        found = [(key, old.get(key, GONE), new.get(key, GONE)) for key in {**old, **new}]
        return [(key, one, other) for key, one, other in found if one is not other]

    def put_back(self) -> None:
        """Undo what was replaced, added or taken away, where the holder allows it."""
        if not isinstance(self.holder, dict):
            return
        for key, old, _ in self.pairs():
            if old is GONE:
                del self.holder[key]
            else:
                self.holder[key] = old


class Same:
    """True while dictionaries hold the very objects that they were seen to hold.

    Only those are gone through that were written to since: torch counts the writes to a dictionary. A step asks this when the caches
    hold nothing of it, and each object looked at then costs as much as a hundred operations.

    Args:
        held: what is to be held.

    Attributes:
        written: whether any of them had been written to when this was last asked.
    """

    def __init__(self, held: Iterable[Held]) -> None:
        self.held = list(held)
        self.written = True
        self._of_classes = [one for one in self.held if not isinstance(one.holder, dict)]  # nobody counts theirs
        self._of_dicts = [one for one in self.held if isinstance(one.holder, dict)]
        self._dicts = [one.holder for one in self._of_dicts]
        self._versions: list[Any] = [-1] * len(self._dicts)
        numbers = count()
        # Without torch's count of writes every dictionary is taken for written to.
        self._version = optional("dict_version") or (lambda _: next(numbers))

    def __bool__(self) -> bool:
        versions = list(map(self._version, self._dicts))
        self.written = versions != self._versions
        if self.written:
            changed = map(operator.ne, versions, self._versions)
            if not all(one.same() for one in compress(self._of_dicts, changed)):
                return False
            self._versions = versions
        return all(one.same() for one in self._of_classes)
