"""A full or read-only disk stops a run with one sentence, and leaves the last good checkpoint."""

import errno
import os
import random
import subprocess
from pathlib import Path

import pytest
from faults.trying import no_debris, same_run

from pyro_vae.runs import checkpoint

SMALL = ["latent", "--latent", "3", "--hidden", "[16]", "--epochs", "2", "--batch_size", "500", "--compile", "off"]


@pytest.fixture
def whole(driver, tmp_path):
    done = driver("train", *SMALL, "--save_every", "0", "--run", "whole", cwd=tmp_path)
    assert done.status == [0], done.err
    return done


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_call_costs_nothing(driver, whole, tmp_path, tally, kills, number):
    chosen = random.Random(number).sample(range(4, whole.ops - 6), min(kills, whole.ops - 10))
    for op in chosen:
        failed = driver("train", *SMALL, "--save_every", "0", "--run", "run", cwd=tmp_path, fail_at_op=op, errno=number)
        said = failed.sentence()
        assert os.strerror(number) in said, said
        assert failed.status in ([1], [2])
        if (tmp_path / "run" / "config.yaml").exists():
            no_debris(tmp_path / "run")
            for path in (tmp_path / "run").glob("*.ckpt"):
                checkpoint.load(path)
            if "cannot save" in said:
                assert "go on with `pyro-vae resume run`" in said
            assert driver("resume", "run", cwd=tmp_path).status == [0]
            same_run(tmp_path / "run", tmp_path / "whole")
        subprocess.run(["rm", "-rf", str(tmp_path / "run")], check=True)
    tally(f"disk fails with {errno.errorcode[number]}", len(chosen))


@pytest.mark.slow
def test_a_file_that_may_grow_no_further(driver, whole, tmp_path, tally):
    """The system's own refusal, not an imitation: a limit on file sizes between config.yaml's and a checkpoint's."""
    limit = os.path.getsize(tmp_path / "whole" / "last.ckpt") // 2
    failed = driver("train", *SMALL, "--run", "run", cwd=tmp_path, file_size=limit)
    assert failed.status == [1]
    assert "cannot save to run at step" in failed.sentence()
    assert "File too large" in failed.sentence()
    no_debris(tmp_path / "run")
    assert not (tmp_path / "run" / "last.ckpt").exists()
    assert driver("resume", "run", cwd=tmp_path).status == [0]
    same_run(tmp_path / "run", tmp_path / "whole")
    tally("file size limit", 1)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(driver, whole, tmp_path, small_disk, tally):
    failed = driver("train", *SMALL, "--save_every", "0", "--run", "disk/run", cwd=tmp_path)
    assert failed.status == [1]
    assert "No space left on device" in failed.sentence()
    no_debris(small_disk / "run")
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert driver("resume", "disk/run", cwd=tmp_path).status == [0]
    same_run(small_disk / "run", tmp_path / "whole")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = driver("resume", "disk/run", "--epochs", "3", cwd=tmp_path)
    assert "cannot write to disk/run: Read-only file system" in refused.sentence()
    assert refused.status == [2]
    tally("full, then read-only tmpfs", 2)


@pytest.mark.slow
def test_the_folder_vanishes_while_training(driver, tmp_path: Path, tally):
    argv = [*SMALL[:5], "--epochs", "500", "--compile", "off", "--save_every", "0"]
    (tmp_path / "gone.py").write_text(
        "import os, shutil, threading\n"
        "import pyro_vae as pv\n"
        "def mine(spec):\n"
        "    threading.Timer(0.7, lambda: shutil.rmtree('run', ignore_errors=True)).start()\n"
        "    return pv.pairs.PAIRS['linear'](spec, latent=2)\n"
    )
    failed = driver("train", "gone.py:mine", *argv[5:], "--run", "run", cwd=tmp_path)
    assert failed.status in ([1], [2])
    assert "No such file or directory" in failed.sentence()
    tally("run folder deleted while training", 1)
