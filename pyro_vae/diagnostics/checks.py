"""The checks of ``diagnose``, one function a question; each judges a few figures and says what they mean.

Thresholds are rules of thumb and stand beside their reasons. A check that does not apply raises ``LeftOut`` or ``PairError``.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch

from pyro_vae.diagnostics import criticism
from pyro_vae.diagnostics.calibration import averaged, calibrate
from pyro_vae.diagnostics.elbo_surgery import surgery
from pyro_vae.diagnostics.inference_gaps import gaps, refit_guide
from pyro_vae.diagnostics.reference import compare, nuts
from pyro_vae.diagnostics.subject import LeftOut, Level, Subject, Verdict, evenly
from pyro_vae.evidence import TOLERATED, Evidence, believable, elbo, evidence_words, log_evidence, sandwich, spread
from pyro_vae.posterior import active_units, observed_sites, posterior_means, spread_over
from pyro_vae.program import evaluation, latents_of, pieces, plate_nesting, run, simulate

FAIR_GAP = 0.2  # of the KL; more is bad
RARE = 0.01  # a p-value below it is evidence against
FAMILY = "try a richer family, such as a full covariance (--covariance full) or a flow (the pair flow)"
LEARNED = "samples start where no codes are: try a learned prior (a mixture, VampPrior or flow)"
ENCODER = "try a larger encoder or train for longer"


def evidence(subject: Subject) -> Iterator[Verdict]:
    """How large is log p(x), and how far is the ELBO from it?"""
    meaning = subject.meaning
    table = elbo(subject.pair, subject.test, num_samples=1 if meaning.exact else 16, seed=subject.seed)
    subject.found["elbo"] = table
    parts = ", ".join(f"{name} {nats:.2f}" for name, nats in table.sites.items())
    yield Verdict(meaning.bound, table.elbo, "note", f"{table.elbo:.2f} nats = {parts}")
    gap = f"{meaning.evidence} - ELBO"
    if meaning.unweighable:
        yield from (Verdict(name, None, "left out", meaning.unweighable) for name in (meaning.evidence, gap))
        return
    draws = 1 if meaning.exact else subject.budget.draws
    result = log_evidence(subject.pair, subject.test, num_samples=draws, seed=subject.seed)
    subject.found["evidence"] = result
    if meaning.exact:
        yield Verdict(
            meaning.evidence, result.mean, "good", f"{result.mean:.2f} nats, exact: no latent variable is drawn"
        )
    else:
        yield _estimated(subject, result)
    if not meaning.latent:
        yield Verdict(gap, None, "left out", f"the model has no latent variable, so the ELBO is {meaning.evidence}")
        return
    below = result.mean - (table.elbo if meaning.exact else result.elbo.mean().item())
    kl = max(table.kl, 1e-9)
    level: Level = "good" if below < 0.1 * kl else "fair" if below < 0.3 * kl else "bad"
    least = "" if meaning.exact or believable(result.khat_share) else "at least "
    said = f"the ELBO is {least}{below:.2f} nats below {meaning.evidence}, {_percent(below / kl)} of the KL"
    yield Verdict(gap, below, level, said)


def _estimated(subject: Subject, result: Evidence) -> Verdict:
    """Judge an estimate by the draws that carry it."""
    draws = subject.budget.draws
    ess = result.ess.median().item()
    share = None if result.khat.isnan().all() else result.khat_share
    # with fewer than 5 a handful of draws carry everything
    level: Level = "bad" if ess < 5 else "good" if believable(share) and ess >= 0.05 * draws else "fair"
    advice = (
        "" if level == "good" else "; use more draws" if believable(share) else "; the estimate is low: use more draws"
    )
    said = evidence_words(result.mean, result.mean_stderr, share, result.proposal)
    counted = f"with {draws} draws a datum, of which {ess:.0f} count (median)"
    return Verdict(subject.meaning.evidence, result.mean, level, f"{said} {counted}{advice}")


def _weighable(subject: Subject) -> None:
    """Leave a check out that weighs draws of the guide, where they weigh nothing."""
    if subject.meaning.unweighable:
        raise LeftOut(subject.meaning.unweighable)


def pareto(subject: Subject) -> Iterator[Verdict]:
    """For how many data can importance sampling from q be believed?"""
    _weighable(subject)
    if "evidence" not in subject.found:
        raise LeftOut("needs log p(x), which could not be estimated")
    if subject.meaning.exact:
        raise LeftOut(f"{subject.meaning.evidence} is exact: no draws are weighted")
    draws = subject.budget.draws
    result = log_evidence(subject.pair, subject.test, num_samples=draws, proposal="guide", seed=subject.seed)
    khat = result.khat
    subject.found["khat"] = khat
    if khat.isnan().all():
        raise LeftOut(f"k-hat needs at least 25 draws per datum, and there are {draws}; use a larger budget")
    share = result.khat_share
    level: Level = "good" if share <= TOLERATED else "fair" if share < 0.2 else "bad"
    said = f"{_percent(share)} of {subject.split} data have k-hat > 0.7 (median {khat.median().item():.2f})"
    worst = ", ".join(str(subject.positions[i]) for i in khat.argsort(descending=True)[:5].tolist())
    advice = "" if level == "good" else f"; worst served are data {worst}"
    if level == "bad":
        advice += f"; {_cure(subject)}"
    yield Verdict("k-hat", share, level, said + advice)


def _cure(subject: Subject) -> str:
    """Say which half of the guide to change: the one with the larger gap."""
    parts = subject.found.get("gaps")
    if parts is None:
        return "q misses part of the posterior: try a richer family or a larger encoder"
    if parts.approximation >= parts.amortization:
        return f"the family is the larger part of it: {FAMILY}"
    return f"the encoder is the larger part of it: {ENCODER}"


def suboptimality(subject: Subject) -> Iterator[Verdict]:
    """Why is the ELBO low: the family of q, the encoder, or an encoder that overfits?"""
    _weighable(subject)
    budget = subject.budget
    result = gaps(
        subject.pair, subject.part(budget.refined), steps=budget.steps, num_samples=budget.draws, seed=subject.seed
    )
    subject.found["gaps"] = result
    kl = max(
        (result.elbo - result.log_evidence).neg().mean().item(),
        subject.found["elbo"].kl if "elbo" in subject.found else 0,
    )
    for name, value, advice in (
        ("approximation gap", result.approximation, FAMILY),
        ("amortization gap", result.amortization, ENCODER),
    ):
        level: Level = "good" if value < 0.05 * kl else "fair" if value < FAIR_GAP * kl else "bad"
        what = "the best q of its family" if name.startswith("approx") else "the encoder"
        loses = f"{what} loses {value:.2f} nats"
        yield Verdict(name, value, level, loses if level == "good" else f"{loses}; {advice}")
    if subject.train is None:
        return
    train = evenly(subject.train, budget.refined)
    other = gaps(subject.pair, train, steps=budget.steps, num_samples=budget.draws, seed=subject.seed)
    subject.found["gaps_train"] = other
    excess = result.amortization - other.amortization
    level = "good" if excess < 0.05 * kl else "fair" if excess < 0.2 * kl else "bad"
    said = f"the encoder's gap is {result.amortization:.2f} nats on {subject.split} data and {other.amortization:.2f} on training data"
    yield Verdict(
        "encoder overfitting",
        excess,
        level,
        said + ("" if level == "good" else "; stop earlier, or regularise the encoder"),
    )


def retraining(subject: Subject) -> Iterator[Verdict]:
    """Would more training of the guide alone help?"""
    if not subject.budget.refit:
        return
    if subject.data is None:
        raise LeftOut("refitting the guide needs training data; give a data set in place of a batch")
    data = subject.data
    batches = (b for epoch in range(subject.budget.refit) for b in data.epoch(epoch, 128, seed=subject.seed))
    result = refit_guide(subject.pair, batches, subject.test, seed=subject.seed)
    level: Level = "good" if result.gain < 0.2 else "fair"
    said = f"{subject.budget.refit} epochs on the frozen model raise the ELBO by {result.gain:.2f} nats"
    yield Verdict("guide refit", result.gain, level, said + ("" if level == "good" else "; train the guide for longer"))


def use_of_latents(subject: Subject) -> Iterator[Verdict]:
    """Which dimensions and levels does the pair use?"""
    means = posterior_means(subject.pair, subject.test, seed=subject.seed)
    means = {name: mean for name, mean in means.items() if name in subject.meaning.real}
    if not means:
        raise LeftOut(
            "active units are counted for continuous latent sites in the data plate alone, and there are none"
        )
    active = active_units(means)
    subject.found["means"] = means
    sites = subject.found["elbo"].sites if "elbo" in subject.found else {}
    for name, mean in means.items():
        total, used = mean.shape[1], active[name]
        share = used / total
        collapsed = used == 0 or -sites.get(name, -1.0) < 0.05
        level: Level = "bad" if collapsed else "good" if share >= 0.5 else "fair"
        advice = {
            "good": "",
            "fair": "; the rest only costs time: use fewer, or warm_up and free_bits to wake them",
            "bad": "; this level has collapsed to its prior: try warm_up, free_bits or a weaker decoder",
        }[level]
        if used == 0 and -sites.get(name, 0.0) > 1.0:  # nat: this is no prior
            advice = "; q is the same for all data and not the prior: train for longer"
        yield Verdict(
            f"active units of {name}",
            float(used),
            level,
            f"{used} of {total} dimensions of {name} carry information{advice}",
        )


def aggregate(subject: Subject) -> Iterator[Verdict]:
    """Do the codes of the data fill the prior?"""
    _weighable(subject)
    part = subject.part(1000)
    result = surgery(subject.pair, part, seed=subject.seed)
    subject.found["surgery"] = result
    share = result.marginal / max(result.kl, 1e-9)
    if result.information < 0.95 * result.limit:
        level: Level = "good" if share < 0.1 else "fair" if share < 0.3 else "bad"
        said = f"of {result.kl:.2f} nats of KL {result.information:.2f} inform about x and {result.marginal:.2f} are lost between q(z) and p(z)"
        yield Verdict(
            "aggregate posterior", result.marginal, level, said + ("" if level == "good" else f"; {_fill(subject)}")
        )
        return
    # more information than these data can show: KL(q(z) || p(z)) is then not to be had from them, but a classifier's view is
    with evaluation(subject.pair, subject.seed):
        space = latents_of(subject.pair, subject.test)
        codes, prior = space.from_guide(1)[0], space.from_prior(1)[0]
    test = criticism.two_sample(codes, prior, seed=subject.seed)
    level = "good" if test.accuracy < 0.6 else "fair" if test.accuracy < 0.75 else "bad"
    said = f"a classifier tells codes of {subject.split} data from draws of the prior with accuracy {test.accuracy:.2f} (0.5: cannot)"
    yield Verdict(
        "aggregate posterior", test.accuracy, level, said + ("" if level == "good" else f"; {_fill(subject)}")
    )


def _fill(subject: Subject) -> str:
    """Say what would bring codes and prior together: a guide that is far from the posterior comes first."""
    parts = subject.found.get("gaps")
    if parts is not None and parts.amortization > FAIR_GAP * max(subject.found["elbo"].kl, 1e-9):
        return "q is not yet where the posterior is (see the amortization gap), so train for longer before changing the prior"
    return LEARNED


def calibration(subject: Subject) -> Iterator[Verdict]:
    """Is q calibrated on data that the model draws?"""
    like = spread_over(subject.test, subject.budget.simulated)
    ranks, coverage = calibrate(subject.pair, like, seed=subject.seed)
    subject.found["calibration"], subject.found["coverage"] = ranks, coverage
    level: Level = "good" if ranks.pvalue > RARE else "bad"
    said = f"ranks of {len(ranks.ranks)} quantities over {subject.budget.simulated} simulated data: {_p(ranks.pvalue)}"
    wrong = f", worst for {ranks.worst}, where {ranks.fault(ranks.worst)}; q is not the posterior of this model: see the plot of ranks"
    yield Verdict("simulation-based calibration", ranks.pvalue, level, said + ("" if level == "good" else wrong))
    inside = coverage.at(0.9)
    level = "good" if coverage.pvalue > RARE else "fair" if abs(inside - 0.9) < 0.03 else "bad"
    tone = (
        "q is too narrow"
        if inside < 0.87
        else "q is too wide"
        if inside > 0.93
        else "other regions are off: see the plot"
    )
    yield Verdict(
        "coverage (TARP)",
        inside,
        level,
        f"90 % regions hold the truth {_percent(inside)} of the time ({_p(coverage.pvalue)})"
        + ("" if level == "good" else f"; {tone}"),
    )
    test = averaged(subject.pair, spread_over(subject.test, 4 * subject.budget.simulated), seed=subject.seed)
    level = "good" if test.pvalue > RARE else "fair" if test.accuracy < 0.6 else "bad"
    said = f"a classifier tells draws of q averaged over simulated data from the prior with accuracy {test.accuracy:.2f} ({_p(test.pvalue)})"
    tone = "" if level == "good" else "; q is wrong in the same way over many data"
    yield Verdict("data-averaged posterior", test.accuracy, level, said + tone)


def annealed(subject: Subject) -> Iterator[Verdict]:
    """Does annealing agree with importance sampling, on data whose log p(x) it bounds from both sides?"""
    budget = subject.budget
    if not budget.temperatures:
        return
    _weighable(subject)
    part = subject.part(budget.annealed)
    bounds = sandwich(subject.pair, part, temperatures=budget.temperatures, chains=8, seed=subject.seed)
    with evaluation(subject.pair, subject.seed):
        drawn, _ = simulate(subject.pair, part)  # the same draws: the same seed
    sampled = log_evidence(subject.pair, drawn, num_samples=budget.draws, seed=subject.seed).mean
    low, high = bounds.lower.mean().item(), bounds.upper.mean().item()
    short = max(low - sampled, 0.0)
    subject.found["sandwich"] = bounds
    level: Level = "good" if short < 0.5 else "fair" if short < 2 else "bad"
    said = f"on {budget.annealed} simulated data log p(x) lies in [{low:.2f}, {high:.2f}] and importance sampling gives {sampled:.2f}"
    yield Verdict(
        "annealing",
        short,
        level,
        said + ("" if level == "good" else "; trust annealing: the draws miss part of the posterior"),
    )


def reference(subject: Subject) -> Iterator[Verdict]:
    """Are draws from q told from draws by NUTS?"""
    count = subject.budget.nuts
    if not count:
        return
    part = subject.part(count)
    result = nuts(subject.pair, part, seed=subject.seed)
    subject.found["nuts"] = result
    tests = compare(subject.pair, part, result, seed=subject.seed)
    accuracy = max(test.accuracy for test in tests)
    pvalue = min(1.0, count * min(test.pvalue for test in tests))
    agree = result.rhat.max().item() < 1.01 and result.ess.min().item() > 400
    level: Level = "note" if not agree else "good" if pvalue > RARE else "fair" if accuracy < 0.75 else "bad"
    chains = f"R-hat {result.rhat.max().item():.3f}, ESS {result.ess.min().item():.0f}"
    said = (
        f"of {count} data a classifier tells q from NUTS with accuracy {accuracy:.2f} at most ({_p(pvalue)}; {chains})"
    )
    tone = "; the chains have not converged, so this is no reference" if not agree else ""
    if level in ("fair", "bad"):
        tone = f"; {_cure(subject)}"
    yield Verdict("NUTS", accuracy, level, said + tone)


def predictions(subject: Subject) -> Iterator[Verdict]:
    """Do data sets that the model draws look like the data?"""
    x = _observed(subject)
    size = min(len(x), 300)
    sets = 40
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
    with evaluation(subject.pair, subject.seed):
        nesting = plate_nesting(subject.pair, subject.test)
        _, model = run(subject.pair, subject.test, None, nesting, enumerate_sites=False)
    name = subject.x if subject.x in model.nodes else observed_sites(subject.pair, subject.test)[0]
    x = model.nodes[name]["value"]
    if not ((x == 0) | (x == 1)).all():
        raise LeftOut("pixel calibration needs binary data, and these are not")
    fn = model.nodes[name]["fn"]
    try:
        result = criticism.pixel_calibration(fn.mean, x)
    except NotImplementedError:  # draws stand for the mean: one half sorts the pixels, the other predicts them
        result = criticism.pixel_calibration(_mean_draw(fn), x, sorted_by=_mean_draw(fn))
    subject.found["pixels"] = result
    level: Level = "good" if result.error < 0.01 else "fair" if result.error < 0.03 else "bad"
    yield Verdict(
        "pixel calibration",
        result.error,
        level,
        f"predicted probabilities and frequencies differ by {result.error:.4f} a pixel"
        + ("" if level == "good" else "; the decoder is too sure of itself, or overfits"),
    )


def samples(subject: Subject) -> Iterator[Verdict]:
    """Can samples be told from held-out data; are they copies of training data?"""
    x = _observed(subject, subject.budget.samples)
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
    train, _ = spread(subject.data, "train", 10_000, subject.device)
    near = criticism.neighbours(drawn[:500], train[subject.x], evenly({"x": x}, 500)["x"])
    subject.found["neighbours"] = near
    level = "good" if near.closer < 0.2 else "fair" if near.closer < 0.4 else "bad"
    said = f"{_percent(near.closer)} of samples lie nearer to training data than the nearest 5 % of {subject.split} data do"
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
            f"{distance:.2f} between samples and {subject.split} data in a classifier's features, which is {floor:.2f} between training and {subject.split} data",
        )


def codes(subject: Subject) -> Iterator[Verdict]:
    """What do the codes know?"""
    means = subject.found.get("means")
    if means is None:
        raise LeftOut("probes read labels off the codes of continuous latent sites, and there are none")
    if subject.data is None:
        raise LeftOut("probes need codes of training data; give a data set with labels")
    train, _ = spread(subject.data, "train", 3000, subject.device)
    if "y" not in train:
        raise LeftOut("probes need labels, and these data have none")
    known = posterior_means(subject.pair, train, seed=subject.seed)
    first, second = (torch.cat([part[name] for name in means], 1) for part in (known, means))
    if train["y"].is_floating_point() or train["y"].dim() > 1:
        value = criticism.disentanglement(second, subject.test["y"])
        yield Verdict(
            "disentanglement", value, "note", f"mutual information gap {value:.2f} (1: each factor in one dimension)"
        )
        return
    scores = criticism.probes(first, train["y"], second, subject.test["y"])
    subject.found["probes"] = scores
    told = ", ".join(f"{name} {_percent(score)}" for name, score in scores.items())
    yield Verdict("probes", max(scores.values()), "note", f"labels read off the codes: {told}")


CHECKS: dict[str, Callable[[Subject], Iterable[Verdict]]] = {
    "log p(x)": evidence,
    "gaps": suboptimality,
    "k-hat": pareto,
    "guide refit": retraining,
    "active units": use_of_latents,
    "aggregate posterior": aggregate,
    "simulation-based calibration": calibration,
    "annealing": annealed,
    "NUTS": reference,
    "prior predictive": predictions,
    "pixel calibration": pixels,
    "samples": samples,
    "probes": codes,
}


def _mean_draw(fn: torch.distributions.Distribution, count: int = 50) -> torch.Tensor:
    """Return the mean of ``count`` draws, for a distribution that has no mean to give."""
    total = fn.sample()
    for _ in range(count - 1):
        total = total + fn.sample()
    return total / count


def _observed(subject: Subject, count: int | None = None) -> torch.Tensor:
    if subject.x not in subject.test:
        raise LeftOut(f"needs the field {subject.x!r}, and the data have {', '.join(subject.test)}")
    if count is None or subject.data is None:
        return subject.test[subject.x]
    return spread(subject.data, subject.split, count, subject.device)[0][subject.x]


def _samples(subject: Subject, count: int) -> torch.Tensor:
    """Draw x from the model, ``(count, features)``."""
    like = spread_over(subject.test, count)
    with evaluation(subject.pair, subject.seed):
        parts = [simulate(subject.pair, part)[0][subject.x] for part in pieces(like, 4096)]
    return torch.cat(parts).reshape(count, -1)


def _p(pvalue: float) -> str:
    return f"p = {pvalue:.2g}" if pvalue > 1e-6 else "p < 0.000001"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if not math.isnan(share) else "?"
