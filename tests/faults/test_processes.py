"""Two processes train as one: the same gradient, one writer, no hanging, and the same bits after a kill."""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from faults.trying import no_debris, same_run

from pyro_vae.runs import checkpoint
from pyro_vae.training import launched

# Draws differ between one process and two. Gradients do not where the noise comes with the data, so that shares get what
# the whole batch would have got: then one and two processes take the same steps, to rounding.
PAIR = '''
import os

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv


class Given(dist.Normal):
    """Draws that use the noise that they are given."""

    def __init__(self, loc, scale, noise, validate_args=None):
        self.noise = noise
        super().__init__(loc, scale, validate_args=validate_args)

    def expand(self, shape, _instance=None):
        return Given(self.loc.expand(shape), self.scale.expand(shape), self.noise.expand(shape))

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


class Model(PyroModule):
    def __init__(self, features):
        super().__init__()
        self.decode = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, features))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, features):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, 6))

    def forward(self, x, noise):
        loc, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", Given(loc, log_scale.exp(), noise).to_event(1))


def given(spec):
    """A neural pair whose noise is a field of the data."""
    return pv.Pair(Model(spec.features), Guide(spec.features))


def fails(spec):
    """Fails on the second process alone, after some steps."""
    pair = given(spec)
    from pyro_vae.training import loop

    if os.environ.get("RANK") == "1":
        step = loop.Loop._one_step

        def failing(self, batch):
            if self.state.step == 7:
                raise OSError(5, "Input/output error", "data.npz")
            return step(self, batch)

        loop.Loop._one_step = failing
    return pair


def leaves(spec):
    """Says, as the last thing that its process does, whether it is still connected to the other."""
    import atexit

    atexit.register(lambda: print("connected:", torch.distributed.is_initialized()))
    return given(spec)
'''


@pytest.fixture
def place(tmp_path):
    (tmp_path / "two.py").write_text(PAIR)
    dice = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=dice.normal(size=(203, 5)), noise=dice.normal(size=(203, 3)))
    return tmp_path


TRAIN = ["train", "two.py:given", "--data", "data.npz", "--epochs", "3", "--json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "compile"),
    [("7", "off"), ("40", "recorded"), ("1000", "off")],
    ids=["uneven shares", "recorded", "one batch larger than the data"],
)
def test_two_processes_take_the_steps_of_one(driver, place, tally, batch, compile):
    argv = [
        *TRAIN,
        "--batch_size",
        batch,
        "--compile",
        compile,
        "--precision",
        "64",
        "--optimizer",
        "sgd",
        "--lr",
        "0.01",
    ]
    one = driver(*argv, "--run", "one", cwd=place)
    two = driver(*argv, "--run", "two", cwd=place, processes=2)
    assert one.status == [0], one.err
    assert two.status == [0, 0], two.err
    assert two.out[1] == two.err[1] == "", "only process 0 speaks"
    first, second = (checkpoint.load(place / name / "last.ckpt") for name in ("one", "two"))
    for name, tensor in first["parameters"].items():
        torch.testing.assert_close(second["parameters"][name], tensor, rtol=1e-6, atol=1e-9)
    for mine, theirs in zip(first["history"], second["history"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-6)
    assert two.result["compiled"] == one.result["compiled"] == (compile == "recorded")
    assert not torch.equal(second["random"][0]["torch"], second["random"][1]["torch"]), "each has draws of its own"
    no_debris(place / "two")
    tally("two processes beside one", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("compile", "epochs"), [("off", "3"), ("recorded", "10")], ids=["eager", "recorded"])
def test_two_processes_killed_go_on_with_the_same_bits(driver, place, tally, kills, compile, epochs):
    argv = ["train", "latent", "--latent", "3", "--hidden", "[16]", "--binarize", "dynamic", "--save_every", "0"]
    argv += ["--epochs", epochs, "--warm_up", "2", "--batch_size", "127", "--compile", compile]
    whole = driver(*argv, "--run", "whole", "--json", cwd=place, processes=2)
    assert whole.status == [0, 0], whole.err
    assert whole.result["compiled"] == (compile == "recorded")
    dice, hit = random.Random(5), 0
    for i in range(kills):
        begun = (place / "run" / "config.yaml").exists()
        killed = driver(*(["resume", "run"] if begun else [*argv, "--run", "run"]), cwd=place, processes=2,
                        victim=i % 2, after=dice.uniform(0.1, whole.seconds))  # fmt: skip
        assert not killed.late, "the other process hangs"
        if -signal.SIGKILL in killed.status:
            hit += 1
            assert "Traceback" not in killed.err[1 - i % 2], killed.err
            assert killed.status[1 - i % 2] in (0, 1), killed.err
    end = driver("resume", "run", cwd=place, processes=2)
    assert end.status == [0, 0], end.err
    same_run(place / "run", place / "whole")
    no_debris(place / "run")
    tally(f"SIGKILL of one of two processes, {'eager' if compile == 'off' else compile}", hit)


@pytest.mark.slow
def test_a_signal_to_either_stops_both_after_the_same_step(driver, place, tally):
    argv = ["train", "two.py:given", "--data", "data.npz", "--epochs", "3000", "--batch_size", "20", "--compile", "off"]
    for victim in (0, 1):
        stopped = driver(*argv, "--run", f"run{victim}", cwd=place, processes=2, victim=victim, after=4.0, signal=15)
        assert stopped.status == [143, 0], stopped.err
        assert "stopped by SIGTERM; go on with `pyro-vae resume" in stopped.sentence()
        assert stopped.err[1] == ""
        assert len(checkpoint.load(place / f"run{victim}" / "last.ckpt")["random"]) == 2
    tally("SIGTERM to one of two processes", 2)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_job_with_its_message(driver, place, tally):
    argv = [word.replace("given", "fails") for word in TRAIN]
    failed = driver(*argv, "--batch_size", "20", "--run", "run", cwd=place, processes=2)
    assert failed.status == [1, 1]
    assert not failed.late
    assert failed.sentence(1) == "pyro-vae: data.npz: Input/output error"
    assert "process 0 of 2 cannot reach another process of the job" in failed.sentence(0)
    tally("one of two processes fails", 1)


@pytest.mark.slow
def test_what_cannot_be_is_refused_once(driver, place):
    refused = driver(*TRAIN, "--batch_size", "1", "--run", "run", cwd=place, processes=2)
    assert "a batch of 1 data cannot be shared by 2 processes" in refused.sentence()
    assert refused.status == [2, 0]
    assert refused.err[1] == ""
    assert not (place / "run").exists()
    (place / "used").mkdir()
    (place / "used" / "notes").write_text("")
    refused = driver(*TRAIN, "--run", "used", cwd=place, processes=2)
    assert refused.status == [2, 0]
    assert "used holds other files" in refused.sentence()
    assert refused.err[1] == ""


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_alone_and_says_that_draws_differ(driver, place):
    assert driver(*TRAIN, "--batch_size", "20", "--run", "run", cwd=place, processes=2).status == [0, 0]
    alone = driver("resume", "run", "--pair", "two.py:given", "--epochs", "4", cwd=place)
    assert alone.status == [0], alone.err
    assert "trained by 2 processes and goes on with 1: the draws will be others" in alone.err[0]


SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_JOB_NAME": "vae",
}


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, (2, 3)),
        (SLURM, (4, 2)),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, None),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({name: value for name, value in SLURM.items() if name != "SLURM_PROCID"}, None),
    ],
    ids=["alone", "torchrun", "slurm", "shell inside an allocation", "one task", "named shell inside an allocation"],
)
def test_who_started_this_process(monkeypatch, env, found):
    for name in [n for n in os.environ if n.startswith(("SLURM", "TORCHELASTIC"))]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert launched() == found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["devices", "torchrun", "slurm"])
def test_started_as_users_start_it(place, way):
    argv = [
        "two.py:leaves",
        *TRAIN[2:],
        "--batch_size",
        "20",
        "--run",
        way,
        "--compile",
        "off",
        "--on_nonfinite",
        "rollback",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if way == "devices":
        jobs = [([sys.executable, "-m", "pyro_vae", "train", *argv, "--devices", "2"], env)]
    elif way == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        jobs = [
            ([*torchrun, "-m", "--", "pyro_vae", "train", *argv], env)
        ]  # torchrun takes --run for its own without --
    else:
        facts = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
        facts |= {
            "SLURM_JOB_ID": str(10000 + os.getpid() % 9000),
            "SLURM_NODELIST": "127.0.0.1",
            "SLURM_JOB_NAME": "vae",
        }
        jobs = [
            ([sys.executable, "-m", "pyro_vae", "train", *argv], env | facts | {"SLURM_PROCID": r, "SLURM_LOCALID": r})
            for r in "01"
        ]
    running = [
        subprocess.Popen(job, env=e, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for job, e in jobs
    ]
    outputs = [process.communicate(timeout=400) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), outputs
    printed = "".join(stdout for stdout, _ in outputs)
    assert printed.count("log_evidence_stderr") == 1
    assert printed.count("connected: False") == printed.count("connected: ") == 2
    state = checkpoint.load(place / way / "last.ckpt")
    for saved in (state, state["good"]):  # what is rolled back to has each process's own draws too
        first, second = saved["random"]
        assert not torch.equal(first["torch"], second["torch"])
        assert len(saved["svi"]) == 2
