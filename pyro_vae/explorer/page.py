"""One HTML file with a decoder in it: no server, no network, no torch."""

import json
import os
from pathlib import Path
from typing import Any

from pyro_vae.data import Data
from pyro_vae.explorer.contents import contents
from pyro_vae.pages import rendered
from pyro_vae.program import Pair, PairError, Verbs
from pyro_vae.runs import write_whole

HERE = Path(__file__).parent


def explore(
    used: Verbs,
    path: str | os.PathLike,
    data: Data | None = None,
    *,
    count: int = 500,
    split: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a page that moves z and shows E[x | z] at once; return its path.

    The decoder's weights are in the page, as float32, and the page's own code runs them; its
    results agree with torch's to about 1e-6 of their size.

    Args:
        used: a pair, or what ``fit`` and ``load`` return, which has its data.
        path: of the .html file.
        data: that the pair was trained on, for a pair by itself.
        count: number of data whose codes are shown, at most.
        split: train, valid or test; by default test, or valid or train if that is empty.
        seed: of draws from the prior.

    Raises:
        NotDrawable: there is nothing to move: no latent value per datum.
        PairError: there are no data, or the mean of x needs what a page cannot do.
    """
    pair = used if isinstance(used, Pair) else used.pair  # type: ignore[attr-defined]
    known = data if data is not None else getattr(used, "data", None)
    if known is None:
        raise PairError("a pair by itself has no data to show: give data, or use what fit or load returned")
    target = Path(path)
    if target.suffix != ".html":
        raise PairError(f"the explorer is a page: let its name end in .html, and not {target.name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, page_of(pair, known, count=count, split=split, seed=seed).encode())
    return target


def page_of(pair: Pair, data: Data, *, count: int = 500, split: str | None = None, seed: int = 0) -> str:
    """Return the page's HTML: see `explore`."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise PairError(f"count is a number of data, from 1 on, and it is {count!r}")
    shown: dict[str, Any] = contents(pair, data, count=count, split=split, seed=seed)
    weights = shown.pop("weights")
    return rendered(
        HERE / "explorer.html.j2",
        title=f"{pair.title} on {data.spec.name}",
        contents=json.dumps(shown).replace("<", "\\u003c"),
        weights=weights,
        forward=(HERE / "forward.js").read_text(encoding="utf-8"),
        script=(HERE / "explorer.js").read_text(encoding="utf-8"),
    )
