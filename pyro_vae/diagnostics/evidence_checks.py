"""Checks of log p(x): how large it is, and whether two ways of estimating it agree."""

import math
from collections.abc import Iterator

from pyro_vae.diagnostics.subject import Level, Subject, Verdict, percent, require_weights
from pyro_vae.evidence import (
    ElboTable,
    Evidence,
    Meaning,
    annealed_words,
    believable,
    draws_for,
    elbo,
    evidence_words,
    folded,
    log_evidence,
    own_figure,
    sandwich,
)
from pyro_vae.program import evaluation, simulate


def evidence(subject: Subject) -> Iterator[Verdict]:
    """How large is log p(x), and how far is the ELBO from it?"""
    meaning = subject.meaning
    if meaning.implicit:
        yield Verdict("log p(x)", None, "left out", meaning.unweighable or "")
        yield _critic(subject)
        return
    looks = 1 if meaning.exact else draws_for(len(meaning.latent), 16)
    table = elbo(subject.pair, subject.test, num_samples=looks, seed=subject.seed)
    subject.found["elbo"] = table
    whole = meaning.is_evidence(table.sites)
    if not whole:
        parts = ", ".join(f"{name} {nats:.2f}" for name, nats in folded(table.sites).items())
        said = f"{table.elbo:.2f} nats{subject.per_step(table.elbo)} = {parts}"
        yield Verdict(meaning.bound, table.elbo, "note", said)
    gap = f"{meaning.evidence} - ELBO"
    if meaning.unweighable:
        yield from (Verdict(name, None, "left out", meaning.unweighable) for name in (meaning.evidence, gap))
        return
    draws = 1 if meaning.exact else draws_for(len(meaning.latent), subject.budget.draws, 25)
    result = log_evidence(subject.pair, subject.test, num_samples=draws, seed=subject.seed)
    subject.found["evidence"] = result
    if result.mean == -math.inf:
        yield _impossible(subject, result)
        return
    if log_z := subject.found.get("log_z"):
        level: Level = "good" if log_z.agrees else "fair"
        said = f"{annealed_words(result.mean, log_z)} nats, log Z annealed; errs high"
        yield Verdict(meaning.evidence, result.mean, level, said)
    elif meaning.exact:
        said = f"{result.mean:.2f} nats{subject.per_step(result.mean)}, exact: no latent variable is drawn"
        yield Verdict(meaning.evidence, result.mean, "good", said)
    else:
        yield _estimated(subject, result)
    if whole:
        yield Verdict(gap, None, "left out", f"no q enters the ELBO, which is {meaning.evidence}")
        return
    yield _gap(gap, meaning, table, result)


def _gap(name: str, meaning: Meaning, table: ElboTable, result: Evidence) -> Verdict:
    """Judge how far the ELBO is below log p(x), by the KL."""
    below = result.mean - (table.elbo if meaning.exact else result.elbo.mean().item())
    kl = max(table.kl, 1e-9)
    level: Level = "good" if below < 0.1 * kl else "fair" if below < 0.3 * kl else "bad"
    least = "" if meaning.exact or believable(result.khat_share) else "at least "
    shown = 0.0 if abs(below) < 0.005 else below  # not -0.00
    said = f"the ELBO is {least}{shown:.2f} nats below {meaning.evidence}, {percent(shown / kl)} of the KL"
    return Verdict(name, below, level, said)


def _critic(subject: Subject) -> Verdict:
    """Say how well a pair's own critic tells its draws from data: a note, since critics differ."""
    own = own_figure(subject.pair, [subject.test], seed=subject.seed)
    how = f"as the pair's own critic tells draws from {subject.split} data; another may tell more"
    return Verdict(own.name, own.value, "note", f"{own.words} nats of at most 0.693, {how}")


def _impossible(subject: Subject, result: Evidence) -> Verdict:
    """Name the first datum that the model gives probability 0."""
    never = (result.estimate == -math.inf).nonzero().flatten().tolist()
    said = (
        f"-inf nats, for {len(never):,} of {len(result.estimate):,} data: the model gives what is seen of datum "
        f"{subject.positions[never[0]]} of the {subject.split} split probability 0"
    )
    return Verdict(subject.meaning.evidence, -math.inf, "bad", said)


def _estimated(subject: Subject, result: Evidence) -> Verdict:
    """Judge an estimate by the draws that carry it."""
    draws = subject.budget.draws
    ess = result.ess.median().item()
    share = None if result.khat.isnan().all() else result.khat_share
    # with fewer than 5 a handful of draws carry everything
    level: Level = "bad" if ess < 5 else "good" if believable(share) and ess >= 0.05 * draws else "fair"
    more = "; use more draws" if believable(share) else "; the estimate is low: use more draws"
    low = "" if level == "good" else more
    said = evidence_words(result.mean, result.mean_stderr, share, result.proposal) + subject.per_step(result.mean)
    counted = f"with {draws} draws per datum, of which {ess:.0f} count (median)"
    counted += ", weighed step by step" if result.proposal == "filter" else ""
    return Verdict(subject.meaning.evidence, result.mean, level, f"{said} {counted}{low}")


def annealed(subject: Subject) -> Iterator[Verdict]:
    """Do annealing and importance sampling agree on data whose log p(x) has two-sided bounds?"""
    budget = subject.budget
    if not budget.temperatures:
        return
    require_weights(subject)
    part = subject.part(budget.annealed)
    bounds = sandwich(subject.pair, part, temperatures=budget.temperatures, chains=8, seed=subject.seed)
    with evaluation(subject.pair, subject.seed):
        drawn, _ = simulate(subject.pair, part)  # the same draws: the same seed
    sampled = log_evidence(subject.pair, drawn, num_samples=budget.draws, seed=subject.seed).mean
    low, high = bounds.lower.mean().item(), bounds.upper.mean().item()
    short = max(low - sampled, 0.0)
    subject.found["sandwich"] = bounds
    level: Level = "good" if short < 0.5 else "fair" if short < 2 else "bad"
    said = f"on {budget.annealed} simulated data log p(x) lies in [{low:.2f}, {high:.2f}], "
    said += f"and importance sampling gives {sampled:.2f}"
    yield Verdict(
        "annealing",
        short,
        level,
        said + ("" if level == "good" else "; trust annealing: the draws miss part of the posterior"),
    )
