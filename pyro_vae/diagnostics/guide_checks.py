"""Checks of q(z | x): is it the posterior, and if not, why not?"""

from collections.abc import Iterator

from pyro_vae.diagnostics.calibration import averaged, calibrate
from pyro_vae.diagnostics.inference_gaps import gaps, refit_guide
from pyro_vae.diagnostics.reference import compare, nuts
from pyro_vae.diagnostics.subject import (
    FAIR_GAP,
    RARE,
    LeftOut,
    Level,
    Subject,
    Verdict,
    evenly,
    percent,
    pvalue_words,
    require_weights,
)
from pyro_vae.evidence import TOLERATED, draws_for, log_evidence
from pyro_vae.posterior import repeat_batch

FAMILY = "try a richer family, such as a full covariance (--covariance full) or a flow (the pair flow)"
DREAM = "on data that the model draws too (--dream 1)"


def pareto(subject: Subject) -> Iterator[Verdict]:
    """For how many data can importance sampling from q be trusted?"""
    require_weights(subject)
    if "evidence" not in subject.found:
        raise LeftOut("needs log p(x), which could not be estimated")
    if subject.meaning.exact:
        raise LeftOut(f"{subject.meaning.evidence} is exact: no draws are weighted")
    draws = draws_for(len(subject.meaning.latent), subject.budget.draws, 25)
    result = log_evidence(subject.pair, subject.test, num_samples=draws, proposal="guide", seed=subject.seed)
    khat = result.khat
    subject.found["khat"] = khat
    if khat.isnan().all():
        raise LeftOut(f"k-hat needs at least 25 draws per datum, and there are {draws}; use a larger budget")
    share = result.khat_share
    level: Level = "good" if share <= TOLERATED else "fair" if share < 0.2 else "bad"
    said = f"{percent(share)} of {subject.split} data have k-hat > 0.7 (median {khat.median().item():.2f})"
    worst = ", ".join(str(subject.positions[i]) for i in khat.argsort(descending=True)[:5].tolist())
    advice = "" if level == "good" else f"; worst served are data {worst}"
    if level == "bad":
        advice += f"; {_cure(subject)}"
    yield Verdict("k-hat", share, level, said + advice)


def suboptimality(subject: Subject) -> Iterator[Verdict]:
    """Why is the ELBO low: the family of q, the encoder, or an encoder that overfits?"""
    require_weights(subject)
    budget = subject.budget
    result = gaps(
        subject.pair, subject.part(budget.refined), steps=budget.steps, num_samples=budget.draws, seed=subject.seed
    )
    subject.found["gaps"] = result
    subject.found["kl"] = kl = max(
        (result.elbo - result.log_evidence).neg().mean().item(),
        subject.found["elbo"].kl if "elbo" in subject.found else 0,
    )
    if subject.train is not None:
        train = evenly(subject.train, budget.refined)
        subject.found["gaps_train"] = gaps(
            subject.pair, train, steps=budget.steps, num_samples=budget.draws, seed=subject.seed
        )
    for name, value, advice in (
        ("approximation gap", result.approximation, FAMILY),
        ("amortization gap", result.amortization, _encoder_cure(subject)),
    ):
        level: Level = "good" if value < 0.05 * kl else "fair" if value < FAIR_GAP * kl else "bad"
        what = "the best q of its family" if name.startswith("approx") else "the encoder"
        loses = f"{what} loses {value:.2f} nats"
        yield Verdict(name, value, level, loses if level == "good" else f"{loses}; {advice}")
    if subject.train is None:
        return
    level, excess = _overfitting(subject)
    said = f"the encoder's gap is {result.amortization:.2f} nats on {subject.split} data "
    said += f"and {subject.found['gaps_train'].amortization:.2f} on training data"
    yield Verdict(
        "encoder overfitting", excess, level, said + ("" if level == "good" else f"; {_encoder_cure(subject)}")
    )


def _overfitting(subject: Subject) -> tuple[Level, float]:
    """Judge by how much the encoder's gap is larger than on training data, against the KL."""
    excess = subject.found["gaps"].amortization - subject.found["gaps_train"].amortization
    kl = subject.found["kl"]
    return "good" if excess < 0.05 * kl else "fair" if excess < 0.2 * kl else "bad", excess


def _encoder_cure(subject: Subject) -> str:
    """Return what helps an encoder, the likeliest first: nothing that has been done already, and no
    larger one where it overfits.
    """
    if "gaps_train" in subject.found and _overfitting(subject)[0] != "good":
        if subject.dreams:
            return f"train it {DREAM} or on more data, not a larger one"
        longer = "train for longer, since the model's draws never run out; else " if subject.dream else ""
        return f"{longer}train it on more data, or a smaller one"
    return f"train it for longer, {f'{DREAM}, ' if subject.dreams else ''}or try a larger encoder"


def _cure(subject: Subject) -> str:
    """Return which half of the guide to change: the one with the larger gap."""
    parts = subject.found.get("gaps")
    if parts is None:
        return "q misses part of the posterior: try a richer family or train the encoder for longer"
    if parts.approximation >= parts.amortization:
        return f"the family is the larger part of it: {FAMILY}"
    return f"the encoder is the larger part of it: {_encoder_cure(subject)}"


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


def calibration(subject: Subject) -> Iterator[Verdict]:
    """Is q calibrated on data that the model draws?"""
    if subject.meaning.implicit:
        require_weights(subject)
    fixed = subject.meaning.points + subject.meaning.modes
    if fixed:
        raise LeftOut(
            f"the guide is a point at {' and '.join(map(repr, fixed))}: "
            "it claims no spread that could be right or wrong"
        )
    simulated = subject.affordable(subject.budget.simulated, least=200)
    like = repeat_batch(subject.test, simulated)
    ranks, coverage = calibrate(subject.pair, like, seed=subject.seed)
    subject.found["calibration"], subject.found["coverage"] = ranks, coverage
    level: Level = "good" if ranks.pvalue > RARE else "bad"
    said = f"ranks of {len(ranks.ranks)} quantities over {simulated} simulated data: "
    said += pvalue_words(ranks.pvalue)
    wrong = f", worst for {ranks.worst}, where {ranks.fault(ranks.worst)}; "
    wrong += "q is not the posterior of this model: see the plot of ranks"
    yield Verdict("simulation-based calibration", ranks.pvalue, level, said + ("" if level == "good" else wrong))
    inside = coverage.at(0.9)
    level = "good" if coverage.pvalue > RARE else "fair" if abs(inside - 0.9) < 0.03 else "bad"
    narrow, wide = inside < 0.87, inside > 0.93
    tone = f"q is too {'narrow' if narrow else 'wide'}" if narrow or wide else "other regions are off: see the plot"
    yield Verdict(
        "coverage (TARP)",
        inside,
        level,
        f"90 % regions hold the truth {percent(inside)} of the time ({pvalue_words(coverage.pvalue)})"
        + ("" if level == "good" else f"; {tone}"),
    )
    test = averaged(subject.pair, repeat_batch(subject.test, 4 * simulated), seed=subject.seed)
    level = "good" if test.pvalue > RARE else "fair" if test.accuracy < 0.6 else "bad"
    said = "a classifier tells draws of q averaged over simulated data from the prior "
    said += f"with accuracy {test.accuracy:.2f} ({pvalue_words(test.pvalue)})"
    tone = "" if level == "good" else "; q is wrong in the same way over many data"
    yield Verdict("data-averaged posterior", test.accuracy, level, said + tone)


def reference(subject: Subject) -> Iterator[Verdict]:
    """Can draws from q be told from draws by NUTS?"""
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
    said = f"a classifier tells q from NUTS with accuracy {accuracy:.2f} at most, "
    said += f"over {count} data ({pvalue_words(pvalue)}; {chains})"
    tone = "; the chains have not converged, so this is not a reference" if not agree else ""
    if level in ("fair", "bad"):
        tone = f"; {_cure(subject)}"
    yield Verdict("NUTS", accuracy, level, said + tone)
