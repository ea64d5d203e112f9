"""Run folders that strangers bring: links, FIFOs and devices in the place of files harm nothing, hang nothing and fill no memory."""

import os
import shutil

import pytest
import yaml

from pyro_vae.runs import Run, RunError, checkpoint, runs_in, taken

CONFIG = {"pair": None, "data": None, "training": {"epochs": 2}}
RUN = ("train", "latent", "--hidden", "[8]", "--latent", "2", "--epochs", "1", "--run", "run")


def _odd(path, kind):
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere/at/all")


KINDS = ("fifo", "device", "folder", "dangling link")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, driver):
    folder = tmp_path_factory.mktemp("trained")
    assert driver(*RUN, cwd=folder).status == [0]
    return folder / "run"


@pytest.mark.parametrize(
    ("name", "command", "kind"), [("best.ckpt", "evaluate", "fifo"), ("last.ckpt", "resume", "device")]
)
def test_no_ordinary_file_is_one_sentence(trained, driver, tmp_path, tally, name, command, kind):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "previous.ckpt").unlink(missing_ok=True)
    _odd(tmp_path / "run" / name, kind)
    outcome = driver(command, "run", cwd=tmp_path)
    assert outcome.status == [2]
    assert f"{name} cannot be read: it is not an ordinary file" in outcome.sentence()
    tally("no ordinary file in a run", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_an_ordinary_file_is_opened(tmp_path, kind):
    _odd(tmp_path / "best.ckpt", kind)
    with pytest.raises(checkpoint.CheckpointError, match=r"not an ordinary file|does not exist"):
        checkpoint.load(tmp_path / "best.ckpt")


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_folder_leaves_its_neighbours_listed(tmp_path, kind):
    for name in "abcd":
        Run.create(tmp_path / name, CONFIG).release()
    _odd(tmp_path / "a" / "history.csv", kind)
    _odd(tmp_path / "b" / ".lock", kind)
    _odd(tmp_path / "c" / "config.yaml", kind)
    rows = {row["run"][-1]: row["state"] for row in (run.summary() for run in runs_in(tmp_path))}
    assert rows["d"] == "stopped"
    assert rows["a"] == ("stopped" if kind == "dangling link" else "damaged")
    assert rows["b"] == "stopped"


def test_a_fifo_is_no_lock_that_somebody_holds(tmp_path):
    Run.create(tmp_path / "run", CONFIG).release()
    os.mkfifo(tmp_path / "run" / ".lock")
    assert not taken(tmp_path / "run" / ".lock")
    with pytest.raises(RunError, match="not an ordinary file"):
        Run.open(tmp_path / "run").lock()


def test_a_lock_is_not_written_through_a_link(tmp_path):
    Run.create(tmp_path / "run", CONFIG).release()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(RunError, match="cannot write"):
        Run.open(tmp_path / "run").lock()
    assert victim.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["posterior.nc", "report.html"])
def test_diagnose_replaces_a_link_and_leaves_its_target(trained, driver, tmp_path, name):
    shutil.copytree(trained, tmp_path / "run")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(victim)
    assert driver("diagnose", "run", cwd=tmp_path).status == [0]
    assert victim.read_text() == "precious"
    assert not (tmp_path / "run" / name).is_symlink()


def test_pictures_are_not_written_through_a_link(trained, driver, tmp_path):
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "elsewhere")
    outcome = driver("draw", "run", "samples", cwd=tmp_path)
    assert outcome.status == [2]
    assert "figures" in outcome.sentence()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_failed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "posterior.nc"
    path.write_text("old")

    def fail() -> None:
        with checkpoint.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["posterior.nc"]


@pytest.mark.parametrize("name", ["\udcff.npz", "\ud800"])
def test_what_config_yaml_cannot_hold_is_refused_before_there_is_a_folder(tmp_path, name):
    config = {**CONFIG, "data": {"name": name, "options": {}}}
    with pytest.raises(RunError, match="cannot be stored"):
        Run.create(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name",
    ["ünï.npz", "a: b #c", "[1]", "no", "1e3", "new\nline", "tab\t", " edge ", "'\"", "\x7f", "a\x00b", "\u2028", "🙂"],
)
def test_odd_names_come_back_as_they_were(tmp_path, name):
    config = {**CONFIG, "data": {"name": name, "options": {"split_by": name}}}
    Run.create(tmp_path / "run", config).release()
    assert Run.open(tmp_path / "run").config["data"] == config["data"]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["name"] == name


def test_a_long_field_of_a_history_is_one_sentence(tmp_path):
    run = Run.create(tmp_path / "run", CONFIG)
    run.release()
    (tmp_path / "run" / "history.csv").write_text("epoch,elbo\n1," + "1" * 200_000 + "\n")
    with pytest.raises(RunError, match="cannot be read"):
        _ = run.history
    assert run.summary()["state"] == "damaged"
