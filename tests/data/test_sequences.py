"""Sequences: lengths become a mask; chorales and drawings from files; what is wrong with them in one sentence."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_vae import DataError, load_data
from pyro_vae.data import sequences


def test_lengths_become_a_mask_and_moments_count_what_is_there() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (20, 5, 2))
    lengths = np.arange(20) % 5 + 1
    for row, length in zip(x, lengths, strict=True):
        row[length:] = np.nan  # never looked at
    data = load_data({"x": x, "lengths": lengths}, valid=0, test=0)
    batch = data.batch("train")
    assert data.spec.sequence == (5, 2)
    assert data.spec.fields == {"x": (10,), "mask": (5,)}
    assert sorted(batch["mask"].sum(1).tolist()) == sorted(lengths)
    assert not batch["x"].unflatten(-1, (5, 2))[~batch["mask"]].any()
    steps = np.concatenate([row[:length] for row, length in zip(x, lengths, strict=True)])
    np.testing.assert_allclose(data.spec.mean, np.tile(steps.mean(0), 5), rtol=1e-6)
    np.testing.assert_allclose(data.spec.std, np.tile(steps.std(0), 5), rtol=1e-6)
    assert "sequences of 5 steps of 2 features" in data.spec.description


def test_a_series_of_numbers_has_one_feature() -> None:
    assert load_data({"x": np.random.randn(30, 6), "lengths": np.full(30, 6)}).spec.sequence == (6, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lengths": np.array([1, 2, 6])},
            "the length of datum 2 is 6, and x has 5 steps: give whole numbers from 1 to 5",
        ),
        ({"lengths": np.array([1, 0, 5])}, "the length of datum 1 is 0"),
        ({"lengths": np.array([-2, 1, 5])}, "the length of datum 0 is -2"),
        ({"lengths": np.array([2.5, 1, 5])}, "the length of datum 0 is 2.5"),
        ({"lengths": np.array([np.nan, 1, 5])}, "the length of datum 0 is nan"),
        ({"lengths": np.array([1, 5])}, "lengths hold int64 of shape \\(2,\\) for 3 data"),
        ({"lengths": np.array(["1", "2", "3"])}, "lengths hold <U1"),
        ({"lengths": np.ones(3, int), "mask": np.ones((3, 5), bool)}, "there are both lengths and mask"),
        ({"lengths": np.ones(3, int), "x": np.ones((3, 5, 2, 2))}, "and this has \\(3, 5, 2, 2\\)"),
    ],
)
def test_lengths_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data({"x": np.zeros((3, 5, 2)), **change})


def test_splits_of_unequal_steps_or_without_lengths() -> None:
    one, other = np.zeros((3, 5, 2)), np.zeros((3, 6, 2))
    with pytest.raises(DataError, match="5 steps of 2 features and 6 steps of 2 features: pad all to the same"):
        load_data({"x_train": one, "lengths_train": [1, 2, 3], "x_test": other, "lengths_test": [1, 2, 3]})
    with pytest.raises(DataError, match="other splits have lengths and this has none"):
        load_data({"x_train": one, "lengths_train": [1, 2, 3], "x_test": one})


def test_longer_sequences_are_left_out_and_the_others_padded_to_what_is_left() -> None:
    x = np.arange(60.0).reshape(10, 3, 2)
    lengths = np.array([1, 2, 3] * 3 + [2])
    data = load_data({"x": x, "lengths": lengths, "y": np.arange(10) % 2}, valid=0, test=0, longest=2)
    batch = data.batch("train")
    assert data.spec.sequence == (2, 2)
    assert sorted(batch["mask"].sum(1).tolist()) == [1, 1, 1, 2, 2, 2, 2]
    kept = {tuple(row) for row in x[lengths <= 2][:, :2].reshape(-1, 4).tolist()}
    for row, there in zip(batch["x"].tolist(), batch["mask"], strict=True):
        assert any(row[: 2 * int(there.sum())] == list(one[: 2 * int(there.sum())]) for one in kept)
    assert data.recipe is None
    assert load_data("digit_rows", longest=8).recipe == {"name": "digit_rows", "options": {"longest": 8}}


@pytest.mark.parametrize(
    ("source", "longest", "message"),
    [
        ("digits", 5, "longest=5 is of sequences, and digits has none: leave it out"),
        ("pendulum", 40, "longest=40 cuts x, and pendulum has state too"),
        ("digit_rows", 7, "no sequence of digit_rows \\(all\\) has 7 steps or fewer: give a larger longest"),
        ("digit_rows", 9, "sequences of digit_rows have up to 8 steps; give 1 to 8"),
        ("digit_rows", 0, "longest=0 is not possible"),
    ],
)
def test_a_longest_that_cannot_be(source: str, longest: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(source, longest=longest)


def test_phrases_are_cut_from_pieces() -> None:
    x = np.zeros((2, 40, 88), np.uint8)
    x[:, np.arange(40), np.arange(40)] = 1
    pieces = {"x": x, "lengths": np.array([40, 15])}
    found = sequences.phrases({"train": pieces, "test": pieces})
    begins = {part: arrays["x"][:, 0].argmax(1).tolist() for part, arrays in found.items()}
    assert begins == {"train": [0, 4, 8, 12, 16, 20, 24], "test": [0, 16]}
    assert (found["test"]["lengths"] == 16).all()
    assert (found["test"]["x"].argmax(2)[1] == np.arange(16, 32)).all()


def chorales(path: Path, **change: Any) -> Path:
    pieces = {"train": [[[60, 64], []], [[21]], [[108], [60], [61]]], "test": [[[60]]]}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**pieces, **change}))
    return path


def test_chorales_are_piano_rolls(tmp_path: Path) -> None:
    chorales(tmp_path / "sequences" / sequences.FILES["chorales"].name)
    data = load_data("chorales", data_dir=tmp_path, valid=0)
    assert data.spec.sequence == (3, 88)
    x = data.batch("train")["x"].unflatten(-1, (3, 88))
    found = sorted(tuple(map(tuple, roll.nonzero().tolist())) for roll in x)
    assert found == [((0, 0),), ((0, 39), (0, 43)), ((0, 87), (1, 39), (2, 40))]
    assert data.batch("train")["mask"].sum(1).sort().values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": [[[60, 20]]]},
            "piece 0 of train has the pitch 20 in step 0: give MIDI numbers of a piano, 21 to 108",
        ),
        ({"test": [[[60]], [[60], [109]]]}, "piece 1 of test has the pitch 109 in step 1"),
        ({"train": [[[60.5]]]}, "has the pitch 60.5 in step 0"),
        ({"train": [[[True]]]}, "has the pitch True"),
        ({"train": [[]]}, "piece 0 of train is no list of chords"),
        ({"train": [[60, 61]]}, "piece 0 of train is no list of chords"),
        ({"train": []}, "holds no pieces by split"),
        ({"more": [[[60]]]}, "holds no pieces by split"),
    ],
)
def test_chorales_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(chorales(tmp_path / "own.json", **change))


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(DataError, match=r"own.json cannot be read as JSON"):
        load_data(tmp_path / "own.json")


def strokes(folder: Path, **change: Any) -> Path:
    moves = np.array([[3, 0, 0], [0, 4, 1], [1, 1, 0], [0, 0, 1], [5, 0, 1]], np.int16)
    arrays = {"train_strokes": moves, "train_lengths": np.array([2, 3]), **change}
    (folder / "sequences").mkdir()
    np.savez(
        folder / "sequences" / sequences.FILES["sketches"].name, **{k: v for k, v in arrays.items() if v is not None}
    )
    return folder


def test_sketches_are_moves_in_units_of_their_deviation(tmp_path: Path) -> None:
    data = load_data("sketches", data_dir=strokes(tmp_path), valid=0, test=0)
    assert data.spec.sequence == (3, 3)
    first = min(data.batch("train")["x"], key=lambda x: x[6].abs() + x[8])
    unit = np.array([3, 0, 0, 4, 1, 1, 0, 0, 5, 0]).std()
    torch.testing.assert_close(first, torch.tensor([3 / unit, 0, 0, 0, 4 / unit, 1, 0, 0, 0]).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_strokes": np.zeros((5, 2))}, "strokes are numbers \\(dx, dy, pen up\\)"),
        ({"train_strokes": np.full((5, 3), 2)}, "row 0 of train_strokes is \\[2, 2, 2\\]"),
        ({"train_strokes": np.full((5, 3), np.nan)}, "moves are finite"),
        ({"train_lengths": np.array([2, 4])}, "train_lengths add up to 6 and train_strokes has 5 points"),
        ({"train_lengths": np.array([5, 0])}, "must be a whole number from 1 on"),
        ({"train_lengths": None}, "must be a whole number from 1 on"),
        ({"train_strokes": None}, "give train_strokes and train_lengths"),
    ],
)
def test_strokes_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("sketches", data_dir=strokes(tmp_path, **change))


def test_sketches_say_where_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sketches is not in .*sequences, and there is nowhere to download it from"):
        load_data("sketches", data_dir=tmp_path)


class Answer(io.BytesIO):
    headers: dict[str, str] = {}  # noqa: RUF012


def test_a_download_is_checked_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = chorales(tmp_path / "a" / "x.json").read_bytes()
    monkeypatch.setattr(sequences.urllib.request, "urlopen", lambda address, timeout: Answer(content))
    with pytest.raises(DataError, match=r"has the SHA-256 .* it has changed or was cut off"):
        load_data("chorales", data_dir=tmp_path)
    assert not list((tmp_path / "sequences").iterdir())
    known = sequences.FILES["chorales"]._replace(sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(sequences.FILES, "chorales", known)
    assert load_data("chorales", data_dir=tmp_path, valid=0).size("train") == 3
    assert [path.name for path in (tmp_path / "sequences").iterdir()] == [known.name]


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, timeout: float) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(sequences.urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded \(no route to host\): put jsb-.*--data-dir"):
        load_data("chorales", data_dir=tmp_path)


def test_pendulums_swing_as_pendulums_do() -> None:
    drawn = sequences.pendulums()
    angle, speed = drawn["state"].reshape(sequences.COUNT, sequences.STEPS, 2).transpose(2, 0, 1).astype(float)
    energy = speed**2 / 2 - np.cos(angle)
    assert (energy[:, -1] < energy[:, 0] + 1e-2).all()  # friction
    noise = drawn["x"] - np.stack([np.sin(angle), -np.cos(angle)], -1)
    assert noise.std() == pytest.approx(sequences.NOISE, rel=0.01)
    np.testing.assert_array_equal(drawn["x"], sequences.pendulums()["x"])


def test_digits_row_by_row_are_images_and_sequences() -> None:
    spec = load_data("digit_rows").spec
    assert (spec.sequence, spec.image, spec.classes) == ((8, 8), (1, 8, 8), 10)
