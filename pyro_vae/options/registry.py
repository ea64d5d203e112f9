"""What may be chosen by name."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pyro_vae.options.names import one_of

Entry = TypeVar("Entry")


class Registry(Mapping[str, Any]):
    """What may be chosen by name: builders in the order of their registration, each with a line of
    help.

    Args:
        option: what is chosen, such as "likelihood".

    >>> shapes = Registry("shape")
    >>> @shapes.enter("square", "four equal sides")
    ... def square(side): return side**2
    >>> shapes["square"](3), shapes.lines
    (9, {'square': 'four equal sides'})
    """

    def __init__(self, option: str) -> None:
        self.option = option
        self.lines: dict[str, str] = {}
        self._builders: dict[str, Any] = {}

    def enter(self, name: str, line: str) -> Callable[[Entry], Entry]:
        """Return a decorator that enters a builder under ``name``; the command line and its help
        follow.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._builders:
            raise ValueError(f"there is a {self.option} called {name!r} already; choose another name")

        def enter(builder: Entry) -> Entry:
            self._builders[name], self.lines[name] = builder, line
            return builder

        return enter

    def __getitem__(self, name: str) -> Any:
        """Return the builder called ``name``.

        Raises:
            KeyError: there is none; the message suggests a near name.
        """
        if name not in self._builders:
            raise KeyError(one_of(self.option, self, name))
        return self._builders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Registry({self.option}: {', '.join(self)})"
