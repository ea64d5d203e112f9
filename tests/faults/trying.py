"""What the tests of this folder share: the driver's other end, and how two runs are compared."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vae.runs import checkpoint


@dataclass
class Outcome:
    """How the processes of one try ended, and what they said."""

    status: list[int]
    out: list[str]
    err: list[str]
    seconds: float
    late: bool
    ops: int | None

    @property
    def result(self) -> dict:
        """What --json printed: one object and nothing else."""
        return json.loads(self.out[0])

    def sentence(self, rank: int = 0) -> str:
        """The one line that a user reads, which must be no traceback."""
        lines = [line for line in self.err[rank].strip().splitlines() if line.startswith("pyro-vae: ")]
        assert "Traceback" not in self.err[rank], self.err[rank]
        assert len(lines) == 1, self.err[rank]
        return lines[0]


class Driver:
    """Speaks to driver.py."""

    def __init__(self) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )

    def __call__(self, *argv: str, cwd: Path, **plan: Any) -> Outcome:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"argv": argv, "cwd": str(cwd), **plan}) + "\n")
        self.process.stdin.flush()
        return Outcome(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def same_run(one: Path, two: Path) -> None:
    """Assert that two run folders hold the same training, bit for bit."""
    first, second = (checkpoint.load(folder / "last.ckpt") for folder in (one, two))
    equal(first, second, "last.ckpt")
    equal(checkpoint.load(one / "best.ckpt"), checkpoint.load(two / "best.ckpt"), "best.ckpt")
    assert (one / "history.csv").read_bytes() == (two / "history.csv").read_bytes()


def equal(one: Any, two: Any, place: str) -> None:
    """Assert that two nests of tensors and plain values are the same, bit for bit."""
    assert type(one) is type(two), place
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, place
        assert torch.equal(one, two), place
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), place
        for name in one:
            equal(one[name], two[name], f"{place}[{name}]")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), place
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            equal(a, b, f"{place}[{i}]")
    else:
        assert one == two, place


def no_debris(folder: Path) -> None:
    """Assert that nothing half written is left in a run folder."""
    known = {"config.yaml", "last.ckpt", "previous.ckpt", "best.ckpt", "history.csv", "figures", "report.html"}
    left = set(os.listdir(folder)) - known - {"bad_batch.pt"}
    assert not left
