"""One writer a run folder, and a lock that dies with its holder."""

import json
import os
import signal
import time

import pytest
import yaml

from pyro_vae.cli import main
from pyro_vae.runs import Lock, Run, RunError, runs_in

CONFIG = {"pair": None, "data": None, "training": {"epochs": 2}}


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    with pytest.raises(
        RunError, match=rf"is being written by process {os.getpid()} on \S+ since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    ):
        Run.open(tmp_path / "run").lock()
    run.lock()  # its holder may ask again
    run.release()
    other = Run.open(tmp_path / "run")
    other.lock()
    other.release()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_trains(driver, tmp_path, tally):
    """In both orders of commands; the first run is not disturbed."""
    (tmp_path / "slow.py").write_text(
        "import subprocess, sys\nimport pyro_vae as pv\nfrom pyro_vae.runs import Run\n"
        "def mine(spec):\n    return pv.pairs.PAIRS['linear'](spec, latent=2)\n"
    )
    argv = ["train", "slow.py:mine", "--epochs", "2", "--compile", "off", "--run", "run"]
    assert driver(*argv, cwd=tmp_path).status == [0]
    holder = Run.open(tmp_path / "run")
    holder.lock()
    refused = driver("resume", "run", "--pair", "slow.py:mine", "--epochs", "3", cwd=tmp_path)
    assert refused.status == [2]
    assert refused.sentence().startswith(f"pyro-vae: run is being written by process {os.getpid()} on ")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["epochs"] == 2
    holder.release()
    assert driver("resume", "run", "--pair", "slow.py:mine", "--epochs", "3", cwd=tmp_path).status == [0]
    tally("second writer refused", 1)


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_stale(tmp_path, tally):
    Run.create(tmp_path / "run", CONFIG).release()
    read_end, write_end = os.pipe()
    import subprocess
    import sys

    code = (
        "import os, sys, time; from pathlib import Path; from pyro_vae.runs import Lock\n"
        "lock = Lock(Path(sys.argv[1])); assert lock.acquire() is None; os.write(int(sys.argv[2]), b'x'); time.sleep(100)"
    )
    path = tmp_path / "run" / ".lock"
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(write_end)], pass_fds=[write_end])
    os.read(read_end, 1)
    assert f"process {process.pid} on" in str(Lock(path).acquire())
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(read_end)
    os.close(write_end)
    assert json.loads(path.read_text())["pid"] == process.pid
    mine = Lock(path)
    assert mine.acquire() is None
    assert json.loads(path.read_text())["pid"] == os.getpid()
    mine.release()
    tally("lock of a killed process", 1)


def test_without_flock_the_process_number_decides(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    path = tmp_path / ".lock"
    one, two = Lock(path), Lock(path)
    assert one.acquire() is None
    assert f"process {os.getpid()}" in str(two.acquire())
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 2**22 + 1}))  # above the largest process number
    assert two.acquire() is None
    path.write_text(json.dumps({"pid": 1, "host": "another.machine", "since": "2026-01-01"}))
    assert Lock(path).acquire() == "process 1 on another.machine since 2026-01-01"
    two.release()
    one.release()


def test_two_processes_that_create_one_run_at_once(tmp_path):
    """Whatever the order, one gets it and the other is refused."""
    first = Run.create(tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match="already holds a run"):
        Run.create(tmp_path / "run", CONFIG)
    first.release()
    (tmp_path / "early").mkdir()
    early = Lock(tmp_path / "early" / ".lock")
    assert early.acquire() is None  # the other process has locked and not yet written config.yaml
    with pytest.raises(RunError, match="early is being written by process"):
        Run.create(tmp_path / "early", CONFIG)
    early.release()


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    run.release()
    for name in (".last.ckpt-abc123", ".config.yaml-x_y", ".previous.ckpt", ".bad_batch.pt-q"):
        (run.folder / name).write_text("half")
    (run.folder / "notes.txt").write_text("the user's own")
    run.lock()
    run.release()
    assert sorted(os.listdir(run.folder)) == ["config.yaml", "notes.txt"]
    (tmp_path / "unborn").mkdir()
    (tmp_path / "unborn" / ".config.yaml-k2j").write_text("half")  # killed before config.yaml was there
    Run.create(tmp_path / "unborn", CONFIG).release()
    assert os.listdir(tmp_path / "unborn") == ["config.yaml"]


@pytest.mark.slow
def test_hundreds_of_runs_are_listed_quickly_and_damaged_ones_named(tmp_path, capsys):
    training = {"epochs": 50, "patience": None}
    config = {
        "pair": {"name": "latent", "options": {}},
        "data": {"name": "digits", "options": {}},
        "training": training,
    }
    lines = ["epoch,step,loss,elbo\n", *(f"{i},{i},1.0,{-100 + i}\n" for i in range(1, 51))]
    for i in range(300):
        run = Run.create(tmp_path / f"run-{i:03}", config)
        (run.folder / "history.csv").write_text("".join(lines if i % 2 else lines[:20]))
        run.release()
    (tmp_path / "run-007" / "config.yaml").write_bytes(b"\xff\xfe[")
    (tmp_path / "run-009" / "history.csv").write_text("elbo\nmany\n")
    writer = Run.open(tmp_path / "run-011")
    writer.lock()
    (tmp_path / "notes").mkdir()
    begun = time.process_time()
    assert main(["list", "--runs", str(tmp_path), "--json"]) == 0
    seconds = time.process_time() - begun
    rows = {row["run"].rsplit("/", 1)[1]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    writer.release()
    print(f"{seconds:.2f} s for {len(rows)} runs")
    assert len(rows) == 300
    assert rows["run-013"] == {
        **{"run": str(tmp_path / "run-013"), "pair": "latent", "data": "digits", "state": "finished"},
        **{"epochs": 50, "planned": 50, "elbo": -50.0, "classes": None, "evaluation": None},
    }
    assert rows["run-012"]["state"] == "stopped"
    assert rows["run-011"]["state"] == "running"
    assert rows["run-007"]["state"] == rows["run-009"]["state"] == "damaged"
    assert main(["list", "--runs", str(tmp_path)]) == 0
    assert "50/50" in capsys.readouterr().out
    assert main(["list", "--runs", str(tmp_path / "nowhere")]) == 2
    assert "cannot list" in capsys.readouterr().err
    assert len(list(runs_in(tmp_path))) == 300
