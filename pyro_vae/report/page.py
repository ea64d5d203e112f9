"""Pages that need no other file: HTML from templates, and pictures inside it."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_vae import pages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXEL = 0.75  # of a screen, for each of a picture


class Picture(NamedTuple):
    """A PNG of the page, ``width`` pixels wide; below it a sentence and what draws it."""

    name: str
    source: str
    width: int
    command: str = ""
    caption: str = ""


def png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def embedded(picture: bytes, name: str, command: str = "", caption: str = "") -> Picture:
    """Return a PNG as part of the page."""
    # the width in a PNG's header; one scale for all, so that letters have one size
    pixels = int.from_bytes(picture[16:20])
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return Picture(name, source, round(PIXEL * pixels), command, caption)


def rendered(template: str, **shown: Any) -> str:
    """Return a page of this folder's templates."""
    return pages.rendered(Path(__file__).parent / template, **shown)
