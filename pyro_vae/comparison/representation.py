"""What the codes of data are worth: what labels can be read off them, and how many are in use."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vae.comparison.entries import Entry
from pyro_vae.data import Data
from pyro_vae.diagnostics import probes
from pyro_vae.evidence import FEW, maximum_likelihood
from pyro_vae.posterior import class_sites, codebooks, codes_of, kind_of_codes, latent_vectors, words
from pyro_vae.program import Batch, Pair, PairError

TAUGHT = 3000  # training data whose codes and labels the probes learn from
ASKED = 2000  # held-out data


@dataclass(frozen=True)
class Representation:
    """Codes of data, and what is read off them.

    Attributes:
        kind: what a code is.
        size: numbers in it.
        linear: accuracy of a linear classifier of codes, on held-out data; None without labels.
        neighbours: accuracy of the nearest ten neighbours, likewise.
        active_units: continuous latent dimensions in use; None of other codes.
        latent: of how many.
    """

    kind: str
    size: int
    linear: float | None
    neighbours: float | None
    active_units: int | None = None
    latent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON holds them."""
        return asdict(self)


def representation_of(
    entry: Entry, split: str, *, why_unlabelled: str, units: tuple[int | None, int | None], seed: int
) -> Representation:
    """Return what an entry's codes are worth.

    Args:
        entry: what is compared.
        split: whose codes are asked for their labels.
        why_unlabelled: why there are no labels to read off; empty where there are.
        units: active units and of how many, as its figures have them.
        seed: of the draws, for guides without a mean.

    Raises:
        PairError: it has no codes, or none that x alone gives.
    """
    meaning = entry.meaning(split)
    if meaning.latent and not meaning.inferred:
        raise PairError("no codes: the guide does not infer the latent variables")
    if len(meaning.latent) > FEW:
        raise PairError(f"no codes: {len(meaning.latent)} steps of a chain")
    if (given := set(entry.pair.bound_guide.required) & {"y"}) and "labelled" not in entry.pair.fields:
        raise PairError(f"no codes of x alone: q(z | x, {', '.join(given)}) is given the label")
    kind, code = _coder(entry.pair, entry.data.batch(split, 2), seed)
    scores, size = _scores(entry.data, split, code, why_unlabelled)
    active, latent = units
    return Representation(kind, size, *scores, active if latent else None, latent or None)


def _coder(pair: Pair, few: Batch, seed: int) -> tuple[str, Callable[[Batch], Tensor]]:
    """Return what codes are, and the function that gives those of a batch."""
    books = {} if latent_vectors(pair, few) or class_sites(pair, few) else codebooks(pair, few)
    if not books:
        try:
            codes_of(pair, few)
        except PairError:
            raise PairError("no codes") from None
        return kind_of_codes(pair, few), lambda batch: codes_of(pair, _hidden(pair, batch), seed=seed)

    def of_words(batch: Batch) -> Tensor:
        found = words(pair, batch)
        return torch.cat([one_hot(found[name], books[name].num_codes).flatten(1).float() for name in found], -1)

    return "words of a codebook, one-hot", of_words


def _hidden(pair: Pair, batch: Batch) -> Batch:
    """Return the batch without what it says of labels, where the guide can do without."""
    if "labelled" not in pair.fields:
        return batch
    return {**batch, "labelled": torch.zeros(len(batch["x"]), dtype=torch.bool, device=batch["x"].device)}


def _scores(
    data: Data, split: str, code: Callable[[Batch], Tensor], why_unlabelled: str
) -> tuple[tuple[float | None, float | None], int]:
    """Return how well labels are read off codes, and the size of a code."""
    test, _ = data.subset(split, ASKED)
    theirs = code(test)
    if why_unlabelled:
        return (None, None), theirs.shape[1]
    train, _ = data.subset("train", TAUGHT)
    found = probes(code(train), train["y"], theirs, test["y"])
    return (found["linear"], found["nearest neighbours"]), theirs.shape[1]


def references(data: Data, split: str, size: int | None, why_unlabelled: str) -> dict[str, Representation]:
    """Return what x itself is worth as its own code, and PCA of a size, fitted to the training
    split.
    """
    found = {"x": _of("x itself", data, split, lambda batch: batch["x"], why_unlabelled)}
    if size is None:
        return found
    train, _ = data.subset("train", 10_000)
    try:
        fitted = maximum_likelihood(train["x"], size)
    except ValueError:  # so many directions hold all variance
        return found
    axes = torch.linalg.qr(fitted.weight).Q
    project = lambda batch: ((batch["x"].double() - fitted.loc) @ axes).float()  # noqa: E731
    return found | {f"PCA {size}": _of("principal components", data, split, project, why_unlabelled)}


def _of(kind: str, data: Data, split: str, code: Callable[[Batch], Tensor], why: str) -> Representation:
    scores, size = _scores(data, split, code, why)
    return Representation(kind, size, *scores)
