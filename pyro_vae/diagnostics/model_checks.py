"""Checks of the model: do data that it draws look like the data?"""

from collections.abc import Iterator

import torch

from pyro_vae.diagnostics import criticism
from pyro_vae.diagnostics.coverage import classes_covered
from pyro_vae.diagnostics.judge import judge_of
from pyro_vae.diagnostics.subject import LeftOut, Level, Subject, Verdict, evenly, percent
from pyro_vae.distributions import Autoregressive
from pyro_vae.posterior import observed_sites, repeat_batch
from pyro_vae.program import evaluation, pieces, plate_nesting, run, simulate

CLASSIFIED = 1000  # samples
MANY_CLASSES = 12  # more are not listed one by one


def predictions(subject: Subject) -> Iterator[Verdict]:
    """Do data sets that the model draws look like the data?"""
    x = _observed(subject)
    sets, size = 40, subject.affordable(min(len(x), 300), least=10)
    drawn = _samples(subject, sets * size).reshape(sets, size, -1)
    checks = criticism.predictive_checks(evenly({"x": x}, size)["x"], drawn)
    subject.found["predictive"] = checks
    far = {name: abs(check.observed - check.expected) / max(check.spread, 1e-12) for name, check in checks.items()}
    name = max(far, key=lambda key: far[key])
    worst = checks[name]
    level: Level = "good" if far[name] < 4 else "fair" if far[name] < 10 else "bad"
    said = f"{name}: {worst.observed:.3g} in the data, {worst.expected:.3g} ± {worst.spread:.2g} under the model"
    tone = "; look at samples beside data, and at the likelihood's scale" if level != "good" else ""
    yield Verdict("prior predictive", far[name], level, f"of {len(checks)} statistics the furthest is {said}{tone}")


def pixels(subject: Subject) -> Iterator[Verdict]:
    """Are predicted probabilities of binary data right?"""
    _require_whole(subject)
    if not subject.meaning.inferred:
        raise LeftOut("pixel calibration compares data with predictions from their q(z | x), and the guide has none")
    with evaluation(subject.pair, subject.seed):
        nesting = plate_nesting(subject.pair, subject.test)
        _, model = run(subject.pair, subject.test, None, nesting, enumerate_sites=False)
    name = subject.x if subject.x in model.nodes else observed_sites(subject.pair, subject.test)[0]
    x = model.nodes[name]["value"]
    if not ((x == 0) | (x == 1)).all():
        raise LeftOut("pixel calibration needs binary data, and these are not")
    fn = model.nodes[name]["fn"]
    before = isinstance(fn, Autoregressive)  # a pixel is predicted from those before it
    try:
        result = criticism.pixel_calibration((fn.conditionals(x) if before else fn).mean, x)
    except NotImplementedError:  # draws stand for the mean: one half sorts the pixels, the other predicts them
        result = criticism.pixel_calibration(_mean_draw(fn), x, sorted_by=_mean_draw(fn))
    subject.found["pixels"] = result
    level: Level = "good" if result.error < 0.01 else "fair" if result.error < 0.03 else "bad"
    yield Verdict(
        "pixel calibration",
        result.error,
        level,
        f"predicted probabilities{' given the pixels before' if before else ''} and frequencies differ by "
        f"{result.error:.4f} per pixel" + ("" if level == "good" else "; the model is too sure of itself, or overfits"),
    )


def _mean_draw(fn: torch.distributions.Distribution, count: int = 50) -> torch.Tensor:
    """Return the mean of ``count`` draws, for a distribution that has no mean to give."""
    total = fn.sample()
    for _ in range(count - 1):
        total = total + fn.sample()
    return total / count


def samples(subject: Subject) -> Iterator[Verdict]:
    """Can samples be told from held-out data; are they copies of training data?"""
    x = _observed(subject, subject.affordable(subject.budget.samples, least=50))
    drawn = _samples(subject, len(x))
    subject.found["samples"] = drawn
    test = criticism.two_sample(drawn, x, seed=subject.seed)
    level: Level = "good" if test.accuracy < 0.6 else "fair" if test.accuracy < 0.8 else "bad"
    yield Verdict(
        "classifier two-sample test",
        test.accuracy,
        level,
        f"a classifier tells samples from {subject.split} data with accuracy {test.accuracy:.2f} (0.5: cannot)",
    )
    if subject.data is None:
        raise LeftOut("memorising and feature distances need training data; give a data set in place of a batch")
    train, _ = subject.data.subset("train", 10_000, device=subject.device)
    near = criticism.neighbours(drawn[:500], train[subject.x], evenly({"x": x}, 500)["x"])
    subject.found["neighbours"] = near
    level = "good" if near.closer < 0.2 else "fair" if near.closer < 0.4 else "bad"
    said = (
        f"{percent(near.closer)} of samples lie nearer to training data than the nearest 5 % of {subject.split} data do"
    )
    yield Verdict(
        "memorising",
        near.closer,
        level,
        said + ("" if level == "good" else "; samples may be blurred means or copies: look at them"),
    )
    if "y" in train and train["y"].dim() == 1 and not train["y"].is_floating_point():
        # one half to learn the features from, the other to compare with
        base, ours, theirs = criticism.classifier_features(train["x"][::2], train["y"][::2], train["x"][1::2], x, drawn)
        distance = criticism.frechet(theirs, ours)
        floor = criticism.frechet(base[:: max(1, len(base) // len(ours))], ours)
        yield Verdict(
            "Frechet distance",
            distance,
            "note",
            f"{distance:.2f} between samples and {subject.split} data in a classifier's features; "
            f"{floor:.2f} between training and {subject.split} data",
        )


def classes(subject: Subject) -> Iterator[Verdict]:
    """Which classes of the data does a classifier of them find among samples?"""
    data = subject.data
    if data is None or data.spec.classes is None or "y" not in subject.test or data.has_unlabelled:
        raise LeftOut("classes among samples are found by a classifier of the data, which needs their classes")
    _require_whole(subject)
    drawn = _samples(subject, subject.affordable(CLASSIFIED, least=CLASSIFIED // 4))
    known = data.subset(subject.split, CLASSIFIED, device=subject.device)[0]["y"]
    try:
        found = classes_covered(judge_of(data).classes(drawn), known.cpu())
    except ValueError as reason:
        raise LeftOut(str(reason)) from None
    level: Level = "good" if not found.missed else "fair" if found.covered >= 0.9 * found.of else "bad"
    said = f"a classifier finds {found.covered} of {found.of} classes among {len(drawn):,} samples"
    if found.of <= MANY_CLASSES:
        counts = ", ".join(f"{one}: {round(share * len(drawn))}" for one, share in found.shares.items())
        said += f" ({counts})"
    lacking = f"; {', '.join(map(str, found.missed[:MANY_CLASSES]))} are rare or missing" if found.missed else ""
    yield Verdict("classes covered", float(found.covered), level, said + lacking)


def _require_whole(subject: Subject) -> None:
    if "seen" in subject.test and not bool(subject.test["seen"].all()):
        raise LeftOut("some entries of x are missing, and the check compares whole data; give complete data")


def _observed(subject: Subject, count: int | None = None) -> torch.Tensor:
    _require_whole(subject)
    if subject.x not in subject.test:
        raise LeftOut(f"needs the field {subject.x!r}, and the data have {', '.join(subject.test)}")
    if count is None or subject.data is None:
        return subject.test[subject.x]
    return subject.data.subset(subject.split, count, device=subject.device)[0][subject.x]


def _samples(subject: Subject, count: int) -> torch.Tensor:
    """Draw x from the model, ``(count, features)``."""
    like = repeat_batch(subject.test, count)
    with evaluation(subject.pair, subject.seed):
        parts = [simulate(subject.pair, part)[0][subject.x] for part in pieces(like, 4096)]
    return torch.cat(parts).reshape(count, -1)
