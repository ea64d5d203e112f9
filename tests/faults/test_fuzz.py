"""Files from strangers: thousands of damaged ones, and the hostile ones that people really build."""

import hashlib
import io
import pickle
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pyro_vae.cli import main
from pyro_vae.data import DataError, load_data, read_idx
from pyro_vae.runs import CheckpointError, Run, RunError, checkpoint
from pyro_vae.training import Training

CASES = 700  # of each kind of file
ROOM = 250_000  # kilobytes that no case may add to the memory in use


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Return the content cut, with bits flipped, bytes replaced, doubled or left out, or nothing but noise."""
    at = dice.randrange(len(content))
    way = dice.randrange(7)
    if way == 0:
        return content[:at]
    if way == 1:
        flipped = bytearray(content)
        for _ in range(dice.choice([1, 1, 3, 30])):
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        return bytes(flipped)
    if way == 2:
        return content[:at] + dice.randbytes(dice.randrange(1, 50)) + content[at + dice.randrange(50) :]
    if way == 3:
        return content[:at] + content[at : at + 64] * dice.randrange(2, 20) + content[at:]
    if way == 4:  # numbers in headers: huge, negative, zero
        return content[:at] + struct.pack("<q", dice.choice([-1, 0, 2**31 - 1, 2**62, 10**12])) + content[at + 8 :]
    if way == 5:
        return content[:at] + content[at + dice.randrange(1, 100) :]
    return dice.randbytes(dice.randrange(300))


def one_sentence(error: Exception) -> None:
    said = str(error)
    assert said
    assert "\n" not in said
    assert len(said) < 700, said
    assert "Traceback" not in said


def signed(archive: bytes) -> bytes:
    return archive + b"PYROVAE1" + hashlib.sha256(archive).digest()


STATE = {
    "parameters": {"w": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(3)},
    "history": [{"epoch": 1, "elbo": -3.5}],
    "random": (3, (1, 2, 3), None),
}


@pytest.mark.parametrize("resigned", [False, True], ids=["by accident", "with a right checksum"])
def test_damaged_checkpoints(tmp_path, tally, resigned):
    path = tmp_path / "last.ckpt"
    checkpoint.save(path, STATE)
    content = path.read_bytes()
    refused = 0
    for case in range(CASES):
        dice = random.Random(case)
        broken = signed(damaged(content[:-40], dice)) if resigned else damaged(content, dice)
        path.write_bytes(broken)
        try:
            state = checkpoint.load(path)
        except CheckpointError as error:
            one_sentence(error)
            refused += 1
        else:
            assert resigned or broken == content, case
            assert isinstance(state, dict)
    assert refused > (CASES // 3 if resigned else CASES - 5)
    tally("damaged checkpoint" + (", resigned" if resigned else ""), CASES)


class Runs:
    """Would run a command when unpickled."""

    def __reduce__(self):
        return (eval, ("__import__('os').system('touch /tmp/pyro_vae_was_here')",))


class Allocates:
    def __reduce__(self):
        return (bytearray, (10**11,))


def archive(payload: bytes, *, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", b"3\n")
        for name, content in (extra or {}).items():
            file.writestr(name, content)
    return buffer.getvalue()


def stretched() -> bytes:
    """A tensor that claims a terabyte of a file of a kilobyte."""
    buffer = io.BytesIO()
    torch.save({"format": 1, "x": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(io.BytesIO(buffer.getvalue())) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    name = next(n for n in entries if n.endswith("data.pkl"))
    place = entries[name].index(b"K\x01\x85")  # the size (1,)
    entries[name] = entries[name][:place] + b"\x8a\x05" + (2**38).to_bytes(5, "little") + entries[name][place + 2 :]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for entry, content in entries.items():
            file.writestr(entry, content)
    return out.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "code": (lambda: archive(pickle.dumps(Runs(), 2)), "it names __builtin__.eval, which no checkpoint needs"),
    "code, new protocol": (lambda: archive(pickle.dumps(Runs(), 4)), "STACK_GLOBAL"),
    "allocation": (lambda: archive(pickle.dumps(Allocates(), 2)), "bytearray, which no checkpoint needs"),
    "zip bomb": (
        lambda: archive(b"", compression=zipfile.ZIP_DEFLATED, extra={"archive/data/0": bytes(10**8)}),
        "an entry is compressed",
    ),
    "no pickle": (lambda: signed(b"PK\x05\x06" + bytes(18)), "not one"),
    "deep nesting": (lambda: archive(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."), "has format None"),
    "stretched tensor": (stretched, "cannot be read safely"),
    "not an archive": (lambda: b"hello", "cannot be read safely"),
    "bare pickle": (lambda: pickle.dumps({"format": 1}), "cannot be read safely"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints(tmp_path, tally, kind):
    make, said = HOSTILE[kind]
    path = tmp_path / "last.ckpt"
    path.write_bytes(signed(make()))
    with pytest.raises(CheckpointError, match=said) as refusal:
        checkpoint.load(path)
    one_sentence(refusal.value)
    assert not (tmp_path.parent / "pyro_vae_was_here").exists()
    tally("hostile checkpoint", 1)


CONFIG = {
    "format": 1,
    "version": "0.1.0",
    "pair": {"name": "latent", "options": {"latent": 2, "hidden": [4]}},
    "data": {"name": "digits", "options": {"binarize": "dynamic"}},
    "training": {"epochs": 2, "lr": 0.001, "clip": None, "compile": "off"},
}
JUNK = [None, True, -1, 10**30, 1.5, "nan", ".inf", "", "é" * 50, [], [[]], {}, {"a": 1}, "2024-01-01", "!!python/none"]


def read(run: Run) -> None:
    Training.read(run.config["training"])


def test_damaged_configs(tmp_path, tally):
    run = Run.create(tmp_path / "run", CONFIG)
    run.release()
    path = run.folder / "config.yaml"
    content = path.read_bytes()
    for case in range(CASES):
        path.write_bytes(damaged(content, random.Random(case)))
        try:
            read(run)
        except (RunError, ValueError) as error:
            one_sentence(error)
    tally("damaged config.yaml", CASES)


def test_configs_with_other_values(tmp_path, tally):
    run = Run.create(tmp_path / "run", CONFIG)
    run.release()
    tried = 0
    for section in CONFIG:
        for name in [None, *(CONFIG[section] if isinstance(CONFIG[section], dict) else [])]:
            for junk in JUNK:
                changed = yaml.safe_load(yaml.safe_dump(CONFIG))
                if name is None:
                    changed[section] = junk
                else:
                    changed[section][name] = junk
                (run.folder / "config.yaml").write_text(yaml.safe_dump(changed))
                tried += 1
                try:
                    read(run)
                except (RunError, ValueError) as error:
                    one_sentence(error)
    tally("config.yaml with values of other kinds", tried)


BOMB = "a: &a [1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "it has an alias"),
        ("[" * 100_000, "nested more than 20 levels"),
        ("a: " + "9" * 900_000, "cannot be read|does not describe"),
        ("x" * 2_000_000, "more than 1,000,000 bytes"),
        ("!!python/object/apply:os.system ['touch /tmp/pyro_vae_was_here']", "could not determine a constructor"),
        ("a: 2024-99-99", "cannot be read|does not describe"),
        ("\x00\x01", "cannot be read"),
        ("? {a: b}\n: c", "cannot be read|does not describe"),
    ],
    ids=["aliases", "depth", "a long number", "a large file", "code", "no such day", "control characters", "odd key"],
)
def test_hostile_configs(tmp_path, tally, text, said):
    run = Run.create(tmp_path / "run", CONFIG)
    run.release()
    (run.folder / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=said) as refusal:
        _ = run.config
    one_sentence(refusal.value)
    tally("hostile config.yaml", 1)


def write(path: Path, kind: str) -> None:
    dice = np.random.default_rng(0)
    x = dice.random((30, 4)).astype(np.float32)
    if kind == "npz":
        np.savez(path, x=x, y=np.arange(30) % 3)
    elif kind == "compressed npz":
        np.savez_compressed(path, x=x, y=np.arange(30) % 3)
    elif kind == "object npy":
        np.save(path, np.array([{"a": 1}, None], object), allow_pickle=True)
    elif kind == "npy":
        np.save(path, x)
    elif kind == "idx":
        path.write_bytes(struct.pack(">IIII", 0x803, 5, 4, 4) + dice.bytes(80))
    else:
        from PIL import Image

        path.parent.mkdir()
        for name in (path, path.with_name("whole" + path.suffix)):
            Image.fromarray(dice.integers(0, 255, (8, 6), np.uint8)).save(name)


DATA: dict[str, tuple[str, Callable[[Path], object]]] = {
    "npz": ("data.npz", load_data),
    "compressed npz": ("data.npz", load_data),
    "npy": ("data.npy", load_data),
    "object npy": ("data.npy", load_data),
    "idx": ("train-images-idx3-ubyte", lambda path: read_idx(path, dims=3)),
    "png": ("pictures/a.png", lambda path: load_data(path.parent)),
    "jpeg": ("pictures/a.jpg", lambda path: load_data(path.parent)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
def test_damaged_data(tmp_path, tally, kind):
    name, load = DATA[kind]
    path = tmp_path / name
    write(path, kind)
    content = path.read_bytes()
    for case in range(CASES):
        path.write_bytes(damaged(content, random.Random(case)))
        try:
            load(path)
        except DataError as error:
            one_sentence(error)
    tally(f"damaged {kind}", CASES)


@pytest.mark.slow
def test_the_command_line_shows_no_traceback(tmp_path, tally, capsys, monkeypatch):
    """The same files through `evaluate`, `resume` and `list`, as a user meets them."""
    monkeypatch.chdir(tmp_path)
    train = ["train", "--run", "run", "--latent", "2", "--hidden", "[4]", "--epochs", "1", "--compile", "off", "--json"]
    assert main(train) == 0
    contents = {
        name: (tmp_path / "run" / name).read_bytes()
        for name in ("config.yaml", "last.ckpt", "best.ckpt", "history.csv")
    }
    capsys.readouterr()
    tried = 0
    for case in range(60):
        dice = random.Random(case)
        name = dice.choice(list(contents))
        (tmp_path / "run" / name).write_bytes(damaged(contents[name], dice))
        if name == "history.csv":
            argv = ["list", "--runs", "."]
        else:
            argv = ["resume", "run"] if name == "last.ckpt" else ["evaluate", "run", "--samples", "1", "--json"]
        status = main(argv)
        said = capsys.readouterr().err
        assert status in (0, 2), said
        assert "Traceback" not in said
        assert status == 0 or said.strip().splitlines()[-1].startswith("pyro-vae: "), said
        tried += 1
        for other, content in contents.items():
            (tmp_path / "run" / other).write_bytes(content)
    tally("damaged file in a run folder, through the command line", tried)
