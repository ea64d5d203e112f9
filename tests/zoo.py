"""The registry: one row a pair. What stands here is tested by every test of ``test_battery.py``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae import Pair, Spec, pairs
from pyro_vae.conditionals import KINDS as FLOWS
from pyro_vae.data import Column
from pyro_vae.objectives import OBJECTIVES

BATCH = 12
FEATURES = 16


def spec(
    *,
    support: str = "real",
    classes: int | None = None,
    features: int = FEATURES,
    sequence: tuple[int, int] | None = None,
    counts: bool = False,
    categorical: tuple[Column, ...] = (),
    **fields: tuple[int, ...],
) -> Spec:
    """Describe data that only a test has: ``FEATURES`` numbers, a 4x4 image; ``fields`` besides x by event shape."""
    mean, std = (torch.full((features,), value) for value in ((0.4, 0.5) if support == "binary" else (0.1, 1.2)))
    return Spec(
        name="test",
        features=features,
        image=(1, 4, 4) if features == FEATURES else None,
        support=support,
        levels=None,
        classes=classes,
        fields={"x": (features,), **fields},
        mean=mean,
        std=std,
        num_data=1000,
        binarize="gray",
        description="drawn for a test",
        sequence=sequence,
        counts=counts,
        categorical=categorical,
    )


def batch(spec: Spec, size: int = BATCH) -> dict[str, Tensor]:
    """Draw a batch that fits a description, the same at every call; floats are float64."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, shape in spec.fields.items():
        drawn[name] = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
        if name == "x" and spec.counts:
            drawn[name] = (3 * drawn[name]).abs().floor()
        if name == "x" and spec.levels is not None:
            drawn[name] = torch.round(torch.sigmoid(drawn[name]) * (spec.levels - 1)) / (spec.levels - 1)
        if name == "x" and spec.support == "binary":
            drawn[name] = (drawn[name] > 0).double()
        if name == "x" and spec.strokes:
            drawn[name][:, 2::3] = (drawn[name][:, 2::3] > 0.5).double()
        if name == "x":
            for column in spec.categorical:
                number = len(column.categories)
                drawn[name][:, column.place] = torch.eye(number).double()[torch.arange(size) % number]
        if name in ("mask", "labelled", "seen"):
            drawn[name] = drawn[name] > -0.5
            drawn[name].reshape(size, -1)[:, 0] |= shape != ()  # no group without an item
        if name == "mask" and spec.sequence is not None:
            drawn[name] = torch.arange(shape[0]) <= torch.arange(size)[:, None] % shape[0]
        if name == "y" and spec.classes is not None:
            drawn[name] = torch.arange(size) % spec.classes
    return drawn


@dataclass(frozen=True)
class Row:
    """A pair, and the data that it is tried on.

    ``options`` keep its nets small. ``exact`` says that the guide claims to be the posterior,
    ``density`` that its density is known at any value, not only at its own draws; ``implicit`` that
    x has none.
    """

    pair: Callable[..., Pair]
    options: Mapping[str, Any] = field(default_factory=dict)
    spec: Spec = field(default_factory=spec)
    exact: bool = False
    density: bool = True
    implicit: bool = False

    def build(self, seed: int = 0) -> Pair:
        """Build the pair in float64, with parameters drawn from ``seed``."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pair = self.pair(self.spec, **self.options)
        for module in pair.modules().values():
            module.double()
        return pair.train(False)

    def batch(self, size: int = BATCH) -> dict[str, Tensor]:
        """Draw data for the pair."""
        return batch(self.spec, size)


SMALL = {"latent": 3, "hidden": [8]}
WORDS = {"codes": 5, "places": 3, "size": 2, "hidden": [8]}
STEPS = {"steps": 4, "width": 8, "blocks": 1}
BINARY = spec(support="binary")
LEVELS = replace(BINARY, support="levels", levels=17)
LABELS = spec(classes=3, y=())
FEW_LABELS = spec(classes=3, y=(), labelled=())
GROUPS = spec(mask=(4,))
ATTRIBUTES = spec(support="binary", y=(2,))
UNSEEN = spec(seen=(FEATURES,))
SERIES = spec(mask=(4,), sequence=(4, 4))
NOTES = spec(support="binary", mask=(4,), sequence=(4, 4))
STROKES = replace(spec(features=12, mask=(4,), sequence=(4, 3)), strokes=True)
COLUMNS = spec(features=7, categorical=(Column("kind", 2, ("a", "b", "c")), Column("old", 5, ("no", "yes"))))
NODES = spec(support="binary", features=4, seen=(4,))

ROWS: dict[str, Row] = {
    "latent": Row(pairs.latent, SMALL),
    "latent-bernoulli": Row(pairs.latent, SMALL, BINARY),
    "latent-conv": Row(pairs.latent, {"latent": 3, "net": "conv"}, BINARY),
    "latent-autoregressive": Row(pairs.latent, {**SMALL, "decoder": "autoregressive", "field": 2}, BINARY),
    "latent-counts": Row(
        pairs.latent, {**SMALL, "likelihood": "zero-inflated-negative-binomial"}, spec(counts=True, features=5)
    ),
    "latent-columns": Row(pairs.latent, SMALL, COLUMNS),
    "latent-full": Row(pairs.latent, {**SMALL, "covariance": "full"}),
    "latent-low-rank": Row(pairs.latent, {**SMALL, "covariance": "low-rank"}),
    **{f"latent-{p}": Row(pairs.latent, {**SMALL, "prior": p, "components": 4}) for p in ("mixture", "vamp")},
    "latent-flow": Row(pairs.latent, {**SMALL, "prior": "flow"}),
    **{
        f"latent-{o}": Row(pairs.latent, {**SMALL, "objective": o, "particles": 3})
        for o in OBJECTIVES
        if o not in ("enumeration", "one-level")
    },
    **{f"flow-{k}": Row(pairs.flow, {**SMALL, "kind": k, "layers": 2}, density=k != "planar") for k in FLOWS},
    "autoencoder": Row(pairs.autoencoder, SMALL),
    "incomplete": Row(pairs.incomplete, SMALL, UNSEEN),
    "quantized": Row(pairs.quantized, {**WORDS, "codebook": "gradient"}),
    "quantized-averages": Row(pairs.quantized, {**WORDS, "places": 2}, BINARY),
    "quantized-autoregressive": Row(pairs.quantized, {**WORDS, "prior": "autoregressive"}, BINARY),
    "quantized-conv": Row(pairs.quantized, {"codes": 5, "size": 2, "net": "conv"}, BINARY),
    "conditional": Row(pairs.conditional, SMALL, LABELS),
    "conditional-learned": Row(pairs.conditional, {**SMALL, "prior": "learned"}, LABELS),
    "conditional-attributes": Row(pairs.conditional, SMALL, ATTRIBUTES),
    "attribute": Row(pairs.attribute, SMALL, ATTRIBUTES),
    "attribute-labels": Row(pairs.attribute, SMALL, LABELS),
    "hierarchical": Row(pairs.hierarchical, {"latent": [3, 2], "hidden": [8]}),
    "hierarchical-1": Row(pairs.hierarchical, {"latent": [3], "hidden": [8]}),
    "hierarchical-3": Row(pairs.hierarchical, {"latent": [4, 3, 2], "hidden": [8, 7]}, BINARY),
    "hierarchical-bottom-up": Row(pairs.hierarchical, {"latent": [4, 3, 2], "hidden": [8], "guide": "bottom-up"}),
    "hierarchical-dreg": Row(
        pairs.hierarchical, {"latent": [3, 2], "hidden": [8], "objective": "dreg", "particles": 3}
    ),
    "diffusion": Row(pairs.diffusion, STEPS),
    "diffusion-binary": Row(pairs.diffusion, {**STEPS, "steps": 6, "spread": "posterior"}, BINARY),
    "diffusion-conv": Row(pairs.diffusion, {"steps": 4, "width": 8, "net": "conv", "channels": 2}, BINARY),
    "diffusion-cosine": Row(pairs.diffusion, {**STEPS, "noise": "cosine", "spread": "forward", "objective": "elbo"}),
    "semi_supervised": Row(pairs.semi_supervised, SMALL, FEW_LABELS),
    "semi_supervised-conv": Row(
        pairs.semi_supervised, {**SMALL, "classifier": "conv", "dropout": 0.2, "scaling": "common"}, FEW_LABELS
    ),
    "semi_supervised-drawn": Row(pairs.semi_supervised, {**SMALL, "classes": "drawn"}, FEW_LABELS),
    **{f"structured-{q}": Row(pairs.structured, {**SMALL, "quadrants": q}, BINARY) for q in (1, 2, 3)},
    "structured-real": Row(pairs.structured, SMALL),
    "grouped": Row(pairs.grouped, {"group_latent": 2, **SMALL}, GROUPS),
    "grouped-items": Row(pairs.grouped, {"items": 2, "group_latent": 2, **SMALL}),
    "grouped-iwae": Row(pairs.grouped, {"group_latent": 2, **SMALL, "objective": "iwae", "particles": 3}, GROUPS),
    "semi_amortized": Row(pairs.semi_amortized, SMALL, BINARY),
    "autoregressive": Row(pairs.autoregressive, {"hidden": [8, 7], "order": "random"}),
    "autoregressive-made": Row(pairs.autoregressive, {"hidden": [8]}, BINARY, exact=True),
    "autoregressive-pixelcnn": Row(pairs.autoregressive, {"net": "pixelcnn", "hidden": [4, 4]}, BINARY, exact=True),
    "boltzmann": Row(pairs.boltzmann, {"units": 5}, BINARY, exact=True),
    "reversible": Row(pairs.reversible, {"hidden": [8]}, exact=True),
    "reversible-coupling": Row(pairs.reversible, {"hidden": [8], "kind": "coupling"}, BINARY),
    "reversible-uniform": Row(pairs.reversible, {"hidden": [8], "dequantization": "uniform"}, BINARY),
    "adversarial": Row(pairs.adversarial, SMALL, density=False, implicit=True),
    "adversarial-binary": Row(pairs.adversarial, SMALL, BINARY, density=False, implicit=True),
    "adversarial-levels": Row(pairs.adversarial, {"latent": 3, "net": "conv"}, LEVELS, density=False, implicit=True),
    "linear": Row(pairs.linear, {"latent": 3}, exact=True),
    "mixture": Row(pairs.mixture, {"components": 3, "variance": "diagonal"}, exact=True),
    "mixture-missing": Row(pairs.mixture, {"components": 3}, UNSEEN, exact=True),
    "mixture-bernoulli": Row(pairs.mixture, {"components": 3}, BINARY, exact=True),
    "mixture-nearest": Row(pairs.mixture, {"components": 3, "posterior": "nearest"}),
    "mixture-amortized": Row(pairs.mixture, {"components": 3, "posterior": "amortized"}),
    "bayes_net": Row(pairs.bayes_net, {"graph": "sprinkler", "start": "random"}, NODES, exact=True),
    "markov": Row(pairs.markov, {"latent": 3, "hidden": 8}, NOTES),
    "markov-filter": Row(pairs.markov, {"latent": 3, "hidden": 8, "posterior": "filter"}, SERIES),
    "markov-mean-field": Row(pairs.markov, {"latent": 3, "hidden": 8, "posterior": "mean-field"}, SERIES),
    "markov-linear": Row(pairs.markov, {"transition": "linear", "latent": 3}, SERIES, exact=True),
    "markov-linear-smoother": Row(
        pairs.markov, {"transition": "linear", "posterior": "smoother", "latent": 3, "hidden": 8}, SERIES
    ),
    "markov-table": Row(pairs.markov, {"transition": "table", "latent": 3, "hidden": 8}, NOTES, exact=True),
    "sequence": Row(pairs.sequence, {"latent": 3, "hidden": 8, "dropout": 0.3}, NOTES),
    "sequence-vamp": Row(pairs.sequence, {"latent": 3, "hidden": 8, "prior": "vamp", "components": 4}, SERIES),
    "sequence-strokes": Row(pairs.sequence, {"latent": 3, "hidden": 8, "covariance": "full"}, STROKES),
    "linear-per-feature": Row(pairs.linear, {"latent": 3, "noise": "per-feature"}, exact=True),
}
