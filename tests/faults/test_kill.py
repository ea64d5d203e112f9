"""Killed at any moment, a run goes on and ends with the bits of one that was never touched."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from faults.trying import no_debris, same_run

# dropout draws in training; running averages are buffers that training changes
PAIR = '''
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv


class Model(PyroModule):
    def __init__(self, features):
        super().__init__()
        self.decode = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, features))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, features):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(features, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x):
        loc, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def noisy(spec):
    """Dropout in both nets, running averages in one."""
    return pv.Pair(Model(spec.features), Guide(spec.features))
'''
SMALL = ["--latent", "3", "--hidden", "[16]", "--binarize", "dynamic", "--save_every", "0"]
SCHEDULED = ["--warm_up", "2", "--beta", "2", "--schedule", "one-cycle", "--clip", "1", "--free_bits", "0.1"]
WAYS = {
    "eager": (["latent", *SMALL, *SCHEDULED, "--epochs", "4", "--compile", "off"], []),
    "recorded": (["latent", *SMALL, *SCHEDULED, "--epochs", "10", "--optimizer", "adamw"], []),
    "dropout": (
        ["pair.py:noisy", *SMALL[4:], "--epochs", "4", "--optimizer", "adamax", "--compile", "off"],
        ["--pair", "pair.py:noisy"],
    ),
}
FIGURES = ("epochs", "elbo", "reconstruction", "kl", "log_evidence", "log_evidence_stderr")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "pair.py").write_text(PAIR)
    return tmp_path


def go_on(driver, place, resume, **plan):
    """Resume the run, or begin it anew where it was killed before there was one."""
    begun = (place / "run" / "config.yaml").exists()
    return driver(
        *(["resume", "run", *resume[1]] if begun else ["train", *resume[0], "--run", "run"]),
        "--json",
        cwd=place,
        **plan,
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_random_moments(driver, place, tally, kills, way):
    settings = WAYS[way]
    whole = driver("train", *settings[0], "--run", "whole", "--json", cwd=place)
    assert whole.status == [0], whole.err
    dice = random.Random(way)
    hit = 0
    for i in range(kills):
        if i and i % 5 == 0:  # begin again, so that also hundreds of kills meet every phase of a run
            shutil.rmtree(place / "run")
        killed = go_on(driver, place, settings, after=dice.uniform(0, whole.seconds))
        assert killed.status in ([0], [-signal.SIGKILL]), killed.err
        hit += killed.status == [-signal.SIGKILL]
    end = go_on(driver, place, settings)
    assert end.status == [0], end.err
    assert {k: end.result[k] for k in FIGURES} == {k: whole.result[k] for k in FIGURES}
    same_run(place / "run", place / "whole")
    no_debris(place / "run")
    tally(f"SIGKILL at a random moment, {way}", hit)


@pytest.mark.slow
def test_killed_at_every_call_that_changes_the_folder(driver, place, tally, kills):
    """Each fsync, rename, link and deletion of a run of four steps; with few `--kills`, a sample of them."""
    settings = (["latent", *SMALL, "--epochs", "2", "--batch_size", "700", "--compile", "off"], [])
    whole = driver("train", *settings[0], "--run", "whole", "--json", cwd=place)
    assert whole.ops is not None
    assert whole.ops > 30
    chosen = list(range(1, whole.ops + 1))
    if 4 * kills < len(chosen):
        chosen = sorted(random.Random(0).sample(chosen, 4 * kills))
    for op in chosen:
        killed = driver("train", *settings[0], "--run", "run", cwd=place, kill_at_op=op)
        assert killed.status == [-signal.SIGKILL], (op, killed.err)
        end = go_on(driver, place, settings)
        assert end.status == [0], (op, end.err)
        assert {k: end.result[k] for k in FIGURES} == {k: whole.result[k] for k in FIGURES}, op
        same_run(place / "run", place / "whole")
        no_debris(place / "run")
        shutil.rmtree(place / "run")
    tally("power cut at a write, rename or deletion (files torn)", len(chosen))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_finishes_the_step_and_says_how_to_go_on(driver, place, tally, kills, signum):
    settings = (["latent", *SMALL[:-2], "--epochs", "5000", "--compile", "off"], [])
    dice, stopped, patience = random.Random(1), 0, 1.0
    for _ in range(kills):
        asked = go_on(driver, place, settings, after=dice.uniform(0.3, 2.0) * patience, signal=signum)
        if (place / "run" / "last.ckpt").exists() and asked.status == [128 + signum]:
            stopped += 1
            assert asked.sentence() == f"pyro-vae: stopped by {signum.name}; go on with `pyro-vae resume run`"
            no_debris(place / "run")
        else:  # before training began, when there was nothing to save
            assert asked.status in ([-signum], [128 + signum])
            patience *= 2  # a busy machine takes longer to begin
    assert stopped
    tally(f"{signum.name}", kills)


@pytest.mark.slow
def test_a_damaged_checkpoint_never_takes_the_good_ones_place(driver, place, tally):
    """Last one damaged, resumed from the one before, killed while saving: the one before must still be good."""
    settings = (["latent", *SMALL, "--epochs", "2", "--compile", "off"], [])
    assert driver("train", *settings[0], "--run", "whole", cwd=place).status == [0]
    assert driver("train", *settings[0], "--run", "run", cwd=place, kill_at_op=70).status == [-signal.SIGKILL]
    tried = heard = 0
    for op in range(2, 26, 2):
        last = place / "run" / "last.ckpt"
        cut = last.read_bytes()[:-1]
        last.unlink()  # killed between two renames it may be a second name of previous.ckpt
        last.write_bytes(cut)
        killed = driver("resume", "run", cwd=place, kill_at_op=op)
        assert killed.status == [-signal.SIGKILL], killed.err
        heard += "going on from the checkpoint before it" in killed.err[0]  # not when killed before it loads
        tried += 1
    assert heard > tried // 2
    end = driver("resume", "run", cwd=place)
    assert end.status == [0], end.err
    same_run(place / "run", place / "whole")
    tally("last.ckpt damaged, then killed while saving", tried)


@pytest.mark.slow
def test_killed_while_compiled_by_inductor(driver, place, tally, kills):
    settings = (["latent", *SMALL, *SCHEDULED, "--epochs", "6", "--compile", "on"], [])
    whole = driver("train", *settings[0], "--run", "whole", "--json", cwd=place, timeout=600)
    assert whole.status == [0], whole.err
    assert whole.result["compiled"]
    dice = random.Random(3)
    hit = 0
    for _ in range(max(2, kills // 2)):
        killed = go_on(driver, place, settings, after=dice.uniform(0, whole.seconds), timeout=600)
        hit += killed.status == [-signal.SIGKILL]
    end = go_on(driver, place, settings, timeout=600)
    assert end.status == [0], end.err
    assert {k: end.result[k] for k in FIGURES} == {k: whole.result[k] for k in FIGURES}
    same_run(place / "run", place / "whole")
    tally("SIGKILL at a random moment, inductor", hit)


@pytest.mark.slow
def test_a_run_without_its_checkpoints_begins_anew_and_says_so(driver, place):
    settings = (["latent", *SMALL, "--epochs", "1", "--compile", "off"], [])
    assert driver("train", *settings[0], "--run", "whole", cwd=place).status == [0]
    shutil.copytree(place / "whole", place / "run")
    for name in os.listdir(place / "run"):
        if name.endswith(".ckpt"):
            (place / "run" / name).unlink()
    end = driver("resume", "run", cwd=place)
    assert end.status == [0]
    assert "run has no checkpoint yet: beginning anew" in end.err[0]
    same_run(place / "run", place / "whole")
