"""Checks of the latent space: what it holds, and whether the codes of data fill the prior."""

from collections.abc import Iterator

import torch

from pyro_vae.diagnostics import criticism
from pyro_vae.diagnostics.elbo_surgery import surgery
from pyro_vae.diagnostics.subject import FAIR_GAP, LeftOut, Level, Subject, Verdict, percent, require_weights
from pyro_vae.posterior import active_units, posterior_means, require_codes
from pyro_vae.program import evaluation, latents_of

LEARNED = "samples start where no codes are: try a learned prior (a mixture, VampPrior or flow)"


def use_of_latents(subject: Subject) -> Iterator[Verdict]:
    """Which dimensions and levels does the pair use?"""
    require_codes(subject.pair, subject.part(2))
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
        if used == 0 and -sites.get(name, 0.0) > 1.0:  # nat: this is not the prior
            advice = "; q is the same for all data and not the prior: train for longer"
        yield Verdict(
            f"active units of {name}",
            float(used),
            level,
            f"{used} of {total} dimensions of {name} carry information{advice}",
        )


def aggregate(subject: Subject) -> Iterator[Verdict]:
    """Do the codes of the data fill the prior?"""
    require_weights(subject)
    part = subject.part(1000)
    result = surgery(subject.pair, part, seed=subject.seed)
    subject.found["surgery"] = result
    share = result.marginal / max(result.kl, 1e-9)
    if result.information < 0.95 * result.limit:
        level: Level = "good" if share < 0.1 else "fair" if share < 0.3 else "bad"
        said = f"of {result.kl:.2f} nats of KL {result.information:.2f} inform about x "
        said += f"and {result.marginal:.2f} are lost between q(z) and p(z)"
        yield Verdict(
            "aggregate posterior", result.marginal, level, said + ("" if level == "good" else f"; {_fill(subject)}")
        )
        return
    # more information than these data can show: KL(q(z) || p(z)) is then not to be had from them,
    # but a classifier's view is
    with evaluation(subject.pair, subject.seed):
        space = latents_of(subject.pair, subject.test)
        codes, prior = space.from_guide(1)[0], space.from_prior(1)[0]
    test = criticism.two_sample(codes, prior, seed=subject.seed)
    level = "good" if test.accuracy < 0.6 else "fair" if test.accuracy < 0.75 else "bad"
    said = f"a classifier tells codes of {subject.split} data from draws of the prior "
    said += f"with accuracy {test.accuracy:.2f} (0.5: cannot)"
    yield Verdict(
        "aggregate posterior", test.accuracy, level, said + ("" if level == "good" else f"; {_fill(subject)}")
    )


def _fill(subject: Subject) -> str:
    """Return the advice that would bring codes and prior together.

    A guide far from the posterior comes first.
    """
    parts = subject.found.get("gaps")
    if parts is not None and parts.amortization > FAIR_GAP * max(subject.found["elbo"].kl, 1e-9):
        return (
            "q is not yet where the posterior is (see the amortization gap), "
            "so train for longer before changing the prior"
        )
    return LEARNED


def codes(subject: Subject) -> Iterator[Verdict]:
    """What do the codes know?"""
    means = subject.found.get("means")
    if means is None:
        raise LeftOut("probes read labels off the codes of continuous latent sites, and there are none")
    if subject.data is None:
        raise LeftOut("probes need codes of training data; give a data set with labels")
    train, _ = subject.data.subset("train", 3000, device=subject.device)
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
    told = ", ".join(f"{name} {percent(score)}" for name, score in scores.items())
    yield Verdict("probes", max(scores.values()), "note", f"labels read off the codes: {told}")
