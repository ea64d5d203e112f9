"""How pictures are called: with a pair and its data, or with what training returned."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.data import Data
from pyro_vae.plots.tiles import drawn_into
from pyro_vae.program import Verbs, pair_and_data


def takes_axes(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let a picture that has one panel be drawn into the user's own matplotlib axes, ``ax``."""

    @wraps(draw)
    def drawn(*args: Any, ax: Axes | None = None, **options: Any) -> Figure:
        with drawn_into(ax):
            return draw(*args, **options)

    shown = signature(draw)
    own = Parameter("ax", Parameter.KEYWORD_ONLY, default=None, annotation=Axes | None)
    drawn.__signature__ = shown.replace(parameters=[*shown.parameters.values(), own])  # type: ignore[attr-defined]
    return drawn


def picture(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let ``draw(pair, data, ...)`` take what ``fit`` and ``load`` return too, whose data are drawn
    unless others are given; and ``ax``.
    """

    @wraps(draw)
    def drawn(pair: Verbs, data: Data | None = None, **options: Any) -> Figure:
        found, known = pair_and_data(pair, data)
        if not isinstance(known, Data):
            raise TypeError(
                f"a picture needs data that know what x is, from load_data, and this is a {type(known).__name__}"
            )
        return draw(found, known, **options)

    return takes_axes(drawn)


def history_picture(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let ``draw(history)`` take what ``fit`` and ``load`` return too, and ``ax``."""

    @wraps(draw)
    def drawn(history: Any, **options: Any) -> Figure:
        return draw(getattr(history, "history", history), **options)

    return takes_axes(drawn)
