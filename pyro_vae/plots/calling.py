"""How pictures are called: with a pair and its data, or with what training returned."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from matplotlib.figure import Figure

from pyro_vae.data import Data
from pyro_vae.program import Verbs, pair_and_data


def picture(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let ``draw(pair, data, ...)`` take what ``fit`` and ``load`` return too, whose data are drawn
    unless others are given.
    """

    @wraps(draw)
    def drawn(pair: Verbs, data: Data | None = None, **options: Any) -> Figure:
        found, known = pair_and_data(pair, data)
        if not isinstance(known, Data):
            raise TypeError(
                f"a picture needs data that know what x is, from load_data, and this is a {type(known).__name__}"
            )
        return draw(found, known, **options)

    return drawn


def history_picture(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let ``draw(history)`` take what ``fit`` and ``load`` return too."""

    @wraps(draw)
    def drawn(history: Any, **options: Any) -> Figure:
        return draw(getattr(history, "history", history), **options)

    return drawn
