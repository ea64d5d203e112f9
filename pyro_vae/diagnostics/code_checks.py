"""Checks of latents that are words of codes."""

from collections.abc import Iterator

from pyro_vae.diagnostics.subject import Level, Subject, Verdict
from pyro_vae.posterior import code_use, use_in_words
from pyro_vae.program import pieces

ROWS = 500  # data at a time


def use_of_codes(subject: Subject) -> Iterator[Verdict]:
    """How many codes do the data use? Nothing is said of a pair without a codebook."""
    data = subject.test if subject.data is None else None
    split = pieces(data, ROWS) if data is not None else subject.data.batches(subject.split, ROWS)  # type: ignore[union-attr]
    found = code_use(subject.pair, ({n: f.to(subject.device) for n, f in batch.items()} for batch in split))
    if not found:
        return
    subject.found["codes"] = found
    for site, use in found.items():
        share = use.perplexity / use.codes
        level: Level = "good" if share >= 0.5 else "fair" if share >= 0.1 else "bad"
        advice = {
            "good": "",
            "fair": "; the rest only costs time: use fewer, or more places",
            "bad": "; the codebook has collapsed: train for longer, or with a larger pull",
        }[level]
        yield Verdict(f"codes of {site}", use.perplexity, level, use_in_words(site, use) + advice)
