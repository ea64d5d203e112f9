"""One table of runs on the same data: density, sampling, representation, cost."""

import os
from collections.abc import Callable, Sequence

from pyro_vae.comparison.cost import Cost, seconds_to_score
from pyro_vae.comparison.density import density_of, figures_of
from pyro_vae.comparison.entries import Entry, entry_of, require_comparable, with_names
from pyro_vae.comparison.representation import references, representation_of
from pyro_vae.comparison.sampling import MOST, Yardstick, drawn, judged, why_unlabelled, yardstick
from pyro_vae.comparison.table import Row, Table
from pyro_vae.comparison.words import as_text
from pyro_vae.data import Data
from pyro_vae.evidence import FAILURES, Figures
from pyro_vae.program import PairError
from pyro_vae.training import Fitted

SHOWN = 12  # samples of each that pictures show


class Comparison(Table):
    """Runs side by side, and references; `print` shows the tables."""

    def __str__(self) -> str:
        return as_text(self)


def compare(
    *runs: Fitted | str | os.PathLike,
    names: Sequence[str] | None = None,
    split: str | None = None,
    num_samples: int | None = None,
    draws: int = MOST,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Return one table of what runs on the same data reach.

    Density is log p(x) of the split with how it is known; sampling holds draws against held-out
    data, in x and in the features of one classifier of the training split; representation reads
    labels off codes; cost is in seconds. Beside them stand validation data as if they were
    samples, and x itself and PCA as codes.

    Args:
        runs: folders, or what ``fit`` and ``load`` returned; two or more.
        names: of the rows; those of the folders, or pairs, by default.
        split: train, valid or test; by default test, or valid or train if that is empty.
        num_samples: draws per datum for log p(x); by default as many as take seconds.
        draws: samples of each model, at most; no more than there are held-out data.
        seed: of all draws.
        progress: called with what is being done.

    Raises:
        DataError: two runs cannot be compared: other data, splits or binarization, or a density
            beside a probability.
        ValueError: there are fewer than two runs, or names that do not fit.
        TypeError: something is no run.
    """
    entries = with_names([entry_of(run) for run in runs], names)
    return compare_entries(
        entries, split=split, num_samples=num_samples, draws=draws, seed=seed, progress=progress or (lambda _: None)
    )


def compare_entries(
    entries: Sequence[Entry],
    *,
    split: str | None,
    num_samples: int | None,
    draws: int,
    seed: int,
    progress: Callable[[str], None],
) -> Comparison:
    """See `compare`."""
    if len(entries) < 2:
        raise ValueError(f"compare takes two runs or more, and got {len(entries)}; evaluate looks at one")
    for name, value in (("num_samples", num_samples), ("draws", draws)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    data = entries[0].data
    split = data.choose(split)
    require_comparable(entries, split)
    data = next((entry.data for entry in entries if not entry.data.has_unlabelled), data)
    against = yardstick(data, split, most=draws)
    rows = []
    for entry in entries:
        progress(entry.name)
        rows.append(_row(entry, split, against, num_samples, seed))
    left_out = dict(against.left_out) if isinstance(against, Yardstick) else {"sampling": against}
    if why := why_unlabelled(data):
        left_out["probes"] = why
    progress("references")
    real = _references(data, split, against, rows)
    count, accuracy = (against.wanted, against.accuracy) if isinstance(against, Yardstick) else (None, None)
    if count and not any(row.sampling for row in real):
        left_out["row of real data"] = "there are no validation data that could stand for samples"
    return Comparison(data, split, rows, real, count, accuracy, left_out)


def _row(entry: Entry, split: str, against: Yardstick | str, num_samples: int | None, seed: int) -> Row:
    left_out: dict[str, str] = {}
    figures = figures_of(entry, split, num_samples=num_samples, seed=seed)
    density = density_of(figures, entry.data.spec.features)
    if density.why:
        left_out["density"] = density.why
    sampling, shown, per_sample = None, None, None
    if isinstance(against, Yardstick):
        try:
            samples, per_sample = drawn(entry, split, against.wanted, seed=seed)
            sampling, shown = judged(samples, against), samples[:SHOWN]
        except FAILURES as reason:
            left_out["sampling"] = _told(reason)
    representation = None
    try:
        representation = representation_of(
            entry,
            split,
            why_unlabelled=why_unlabelled(entry.data),
            units=(figures.active_units, figures.latent) if isinstance(figures, Figures) else (None, None),
            seed=seed,
        )
    except FAILURES as reason:
        left_out["representation"] = _told(reason)
    cost = Cost(entry.seconds, per_sample, seconds_to_score(entry, split, density, seed=seed))
    return Row(entry.name, entry.pair.title, density, sampling, representation, cost, left_out, shown)


def _told(reason: Exception) -> str:
    """Return a refusal's sentence; of what a pair from elsewhere raises, the first line."""
    if isinstance(reason, PairError):
        return str(reason)
    first = (str(reason).splitlines() or ["no message"])[0]
    return f"could not be computed ({type(reason).__name__}: {first})"


def _references(data: Data, split: str, against: Yardstick | str, rows: Sequence[Row]) -> list[Row]:
    """Return what real data reach as samples, and x and PCA as codes."""
    found = []
    if isinstance(against, Yardstick) and split != "valid" and data.size("valid") >= against.wanted:
        real, _ = data.subset("valid", against.wanted)
        found.append(Row("validation data", "", sampling=judged(real["x"], against), shown=real["x"][:SHOWN]))
    codes = [row.representation for row in rows if row.representation is not None]
    if codes:
        smaller = [code.latent for code in codes if code.latent and code.latent < data.spec.features]
        known = references(data, split, max(smaller, default=None), why_unlabelled(data))
        found += [Row(name, "", representation=code) for name, code in known.items()]
    return found
