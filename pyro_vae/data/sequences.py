"""Sequences: steps of features, padded to one length, with a ``mask`` that says which are there.

A field ``lengths`` beside ``x`` of shape (data, steps) or (data, steps, features) makes sequences
of them; chorales and drawings are read from files, pendulums are drawn here.
"""

import hashlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_vae.data.readers import DataError, brief
from pyro_vae.data.schema import Arrays

LOWEST, PITCHES = 21, 88  # of a piano, as MIDI numbers them
PHRASE = 16  # steps
COUNT, STEPS, INTERVAL, NOISE = 1200, 64, 0.15, 0.2  # of the pendulums


def mark_lengths(parts: Mapping[str, Arrays], name: str) -> tuple[Mapping[str, Arrays], tuple[int, int] | None]:
    """Return the arrays with a ``mask``, bool (data, steps), for their ``lengths``, and (steps,
    features); None where there are no lengths.

    What stands in ``x`` beyond a length is replaced by 0.

    Raises:
        DataError: lengths that are none.
    """
    if not any("lengths" in arrays for arrays in parts.values()):
        return parts, None
    marked: dict[str, Arrays] = {}
    shapes = set()
    for part, arrays in parts.items():
        where = name if len(parts) == 1 else f"{name} ({part})"
        if "lengths" not in arrays:
            raise DataError(f"{where}: other splits have lengths and this has none: give lengths for each.")
        x, mask = arrays["x"], _mask(arrays, where)
        x = x.reshape(*x.shape[:2], -1)
        shapes.add((x.shape[1], x.shape[2]))
        blank = np.where(mask[..., None], x, x.dtype.type(0))
        rest = {key: array for key, array in arrays.items() if key != "lengths"}
        marked[part] = {**rest, "x": blank.reshape(len(x), -1), "mask": mask}
    if len(shapes) > 1:
        told = " and ".join(f"{steps} steps of {features} features" for steps, features in sorted(shapes))
        raise DataError(f"{name}: its splits have {told}: pad all to the same.")
    return marked, shapes.pop()


def _mask(arrays: Arrays, name: str) -> np.ndarray:
    x, lengths = arrays["x"], np.asarray(arrays["lengths"])
    if "mask" in arrays:
        raise DataError(f"{name}: there are both lengths and mask, which say the same: give one or the other.")
    if x.ndim not in (2, 3):
        raise DataError(
            f"{name}: x of sequences has the shape (data, steps) or (data, steps, features), and this has {x.shape}: "
            "reshape it, or leave out lengths."
        )
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iuf":
        raise DataError(
            f"{name}: lengths hold {lengths.dtype} of shape {lengths.shape} for {len(x):,} data: "
            "give one whole number for each."
        )
    with np.errstate(invalid="ignore"):
        bad = ~((lengths >= 1) & (lengths <= x.shape[1]) & (lengths == np.floor(lengths)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{name}: the length of datum {row:,} is {lengths[row]:g}, and x has {x.shape[1]:,} steps: "
            f"give whole numbers from 1 to {x.shape[1]:,}."
        )
    return np.arange(x.shape[1]) < lengths[:, None]


def keep_short(
    parts: Mapping[str, Arrays], sequence: tuple[int, int] | None, longest: int, name: str
) -> tuple[Mapping[str, Arrays], tuple[int, int]]:
    """Return the sequences of at most ``longest`` steps, padded to so many, and (steps, features).

    Args:
        parts: arrays as `mark_lengths` returns them.
        sequence: (steps, features).
        longest: steps.
        name: of the data, for messages.

    Raises:
        DataError: the data are no sequences, none is that short, or there is a field besides whose
            steps are not known.
    """
    if sequence is None:
        raise DataError(f"longest={longest} is of sequences, and {name} has none: leave it out.", unused="longest")
    steps, features = sequence
    if not 1 <= longest <= steps:
        raise DataError(
            f"longest={longest} is not possible: sequences of {name} have up to {steps} steps; give 1 to {steps}."
        )
    short: dict[str, Arrays] = {}
    for part, arrays in parts.items():
        others = [key for key, array in arrays.items() if key not in ("x", "mask") and array.ndim > 1]
        if others:
            raise DataError(
                f"longest={longest} cuts x, and {name} has {others[0]} too, which may be of its steps: "
                "leave longest out, or that field."
            )
        keep = arrays["mask"].sum(1) <= longest
        if not keep.any():
            raise DataError(f"no sequence of {name} ({part}) has {longest} steps or fewer: give a larger longest.")
        kept = {key: array[keep] for key, array in arrays.items()}
        x = kept["x"].reshape(-1, steps, features)[:, :longest]
        short[part] = {**kept, "x": x.reshape(len(x), -1), "mask": kept["mask"][:, :longest]}
    return short, (longest, features)


def padded(sequences: Iterable[np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """Return sequences, each (its length, features), as ``x`` (data, steps, features) and
    ``lengths``.
    """
    sequences = list(sequences)
    x = np.zeros((len(sequences), steps, *sequences[0].shape[1:]), sequences[0].dtype)
    for row, one in zip(x, sequences, strict=True):
        row[: len(one)] = one
    return {"x": x, "lengths": np.array([len(one) for one in sequences])}


def read_chorales(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the pieces of a JSON file as piano rolls: {split: [piece: [step: [MIDI pitches]]]}.

    ``x`` is uint8 (pieces, steps, 88), 1 where a key of the piano sounds.

    Raises:
        DataError: the file is no such file, or a pitch is none of a piano's.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({brief(error)}): check the file.") from None
    whole = isinstance(found, dict) and "train" in found and found.keys() <= {"train", "valid", "test"}
    if not whole or not all(isinstance(pieces, list) and pieces for pieces in found.values()):
        raise DataError(f"{path} holds no pieces by split: give lists of them as train, and valid and test if need be.")
    rolls = {
        part: [_roll(piece, f"{path}: piece {i} of {part}") for i, piece in enumerate(pieces)]
        for part, pieces in found.items()
    }
    longest = max(len(roll) for pieces in rolls.values() for roll in pieces)
    return {part: padded(pieces, longest) for part, pieces in rolls.items()}


def _roll(piece: Any, where: str) -> np.ndarray:
    if not isinstance(piece, list) or not piece or not all(isinstance(chord, list) for chord in piece):
        raise DataError(f"{where} is no list of chords, each a list of MIDI pitches: correct or remove it.")
    roll = np.zeros((len(piece), PITCHES), np.uint8)
    for step, chord in enumerate(piece):
        for pitch in chord:
            if isinstance(pitch, bool) or not isinstance(pitch, int) or not LOWEST <= pitch < LOWEST + PITCHES:
                raise DataError(
                    f"{where} has the pitch {brief(Exception(pitch))} in step {step}: give MIDI numbers of a piano, "
                    f"{LOWEST} to {LOWEST + PITCHES - 1}."
                )
            roll[step, pitch - LOWEST] = 1
    return roll


def phrases(chorales: Mapping[str, Arrays]) -> dict[str, dict[str, np.ndarray]]:
    """Return phrases of 16 steps out of pieces as `read_chorales` returns them.

    In training one begins at every fourth step, else one follows the other; what is left at a
    piece's end is left out.
    """
    cut: dict[str, dict[str, np.ndarray]] = {}
    for part, pieces in chorales.items():
        hop = PHRASE // 4 if part == "train" else PHRASE
        rolls = zip(pieces["x"], pieces["lengths"], strict=True)
        found = [x[i : i + PHRASE] for x, length in rolls for i in range(0, length - PHRASE + 1, hop)]
        cut[part] = {"x": np.stack(found), "lengths": np.full(len(found), PHRASE)}
    return cut


def read_strokes(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the drawings of a .npz file: points one after the other, each (dx, dy, pen up).

    The file has for each split SPLIT_strokes, (points, 3), all drawings joined, and SPLIT_lengths,
    the points of each. ``x`` is float32 (drawings, points, 3) with moves in units of their
    deviation in training.

    Raises:
        DataError: the file is no such file, or its strokes are none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as .npz ({brief(error)}): check the file.") from None
    parts = [key.removesuffix("_strokes") for key in arrays if key.endswith("_strokes")]
    if "train" not in parts:
        raise DataError(f"{path} has {', '.join(arrays) or 'nothing'}: give train_strokes and train_lengths.")
    drawings = {part: _drawings(arrays, part, path) for part in parts}
    unit = np.concatenate(drawings["train"])[:, :2].std() or 1.0
    scale = np.array([unit, unit, 1.0], np.float32)
    longest = max(len(one) for part in drawings.values() for one in part)
    return {part: padded([(one / scale).astype(np.float32) for one in drawings[part]], longest) for part in parts}


def _drawings(arrays: Mapping[str, np.ndarray], part: str, path: Path) -> list[np.ndarray]:
    strokes, lengths = arrays[f"{part}_strokes"], arrays.get(f"{part}_lengths")
    if strokes.ndim != 2 or strokes.shape[1] != 3 or strokes.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {part}_strokes hold {strokes.dtype} of shape {strokes.shape}, and strokes are numbers "
            "(dx, dy, pen up), one row for each point: correct them."
        )
    if not np.isfinite(strokes).all() or not np.isin(strokes[:, 2], (0, 1)).all():
        row = int(np.flatnonzero(~(np.isfinite(strokes).all(1) & np.isin(strokes[:, 2], (0, 1))))[0])
        raise DataError(
            f"{path}: row {row:,} of {part}_strokes is {strokes[row].tolist()}: moves are finite, and the pen "
            "is 0 (down) or 1 (up)."
        )
    if lengths is None or lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not len(lengths) or lengths.min() < 1:
        raise DataError(f"{path}: {part}_lengths must be a whole number from 1 on for each drawing: correct them.")
    if lengths.sum() != len(strokes):
        raise DataError(
            f"{path}: {part}_lengths add up to {lengths.sum():,} and {part}_strokes has {len(strokes):,} points: "
            "correct one of them."
        )
    return np.split(strokes, np.cumsum(lengths)[:-1])


class _File(NamedTuple):
    name: str
    read: Callable[[Path], dict[str, dict[str, np.ndarray]]]
    address: str | None = None
    sha256: str = ""


FILES = {
    "chorales": _File(
        "jsb-chorales-quarter.json",
        read_chorales,
        "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/master/jsb-chorales-quarter.json",
        "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91",
    ),
    "sketches": _File("sketch-omniglot.npz", read_strokes),
}
"""Sets of sequences that are files, in the folder ``sequences`` of the data."""


def named_sequences(name: str, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the splits of a set of ``FILES``, downloaded if it is absent and has an address.

    Raises:
        DataError: it can be neither found nor downloaded, or is damaged.
    """
    file = FILES[name]
    path = folder / "sequences" / file.name
    if not path.exists():
        if file.address is None:
            raise DataError(
                f"{name} is not in {path.parent}, and there is nowhere to download it from: put {file.name} there "
                "(see the documentation of the data), or name the folder that has sequences/ with --data-dir."
            )
        _download(name, file.address, file.sha256, path)
    return file.read(path)


def _download(name: str, address: str, sha256: str, path: Path) -> None:
    """Put the file at ``address`` at ``path``, if it is the one with this SHA-256; a bar on stderr
    counts its bytes.
    """
    from rich.console import Console
    from rich.progress import Progress

    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(address, timeout=30) as answer,
            partial.open("wb") as out,
            Progress(console=Console(stderr=True), transient=True) as bar,
        ):
            size = answer.headers.get("Content-Length")
            task = bar.add_task(f"downloading {name}", total=int(size) if size else None)
            while piece := answer.read(2**16):
                bar.advance(task, out.write(piece))
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found != sha256:
            raise DataError(
                f"{address} has the SHA-256 {found[:16]}... and not {sha256[:16]}...: it has changed or was cut off; "
                f"put {path.name} into {path.parent} yourself."
            )
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{name} is not in {path.parent} and could not be downloaded ({brief(error)}): put {path.name} there, "
            "or name the folder that has sequences/ with --data-dir."
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def pendulums() -> dict[str, np.ndarray]:
    """Return swings of a pendulum, seen with noise: ``x``, float32 (data, steps, 2), its place;
    ``state``, float32 (data, 2 * steps), angle and speed of every step, as they were; ``lengths``.

    theta'' = -sin theta - .1 theta', from angles within 2.5 and speeds within 1; a third of a turn
    and more, where it is far from linear.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    angle, speed = generator.uniform(-2.5, 2.5, COUNT), generator.uniform(-1.0, 1.0, COUNT)
    states = []
    for _ in range(STEPS):
        states.append(np.stack([angle, speed], -1))
        for _ in range(10):  # semi-implicit Euler, which keeps the energy
            speed = speed - INTERVAL / 10 * (np.sin(angle) + 0.1 * speed)
            angle = angle + INTERVAL / 10 * speed
    state = np.stack(states, 1)
    place = np.stack([np.sin(state[..., 0]), -np.cos(state[..., 0])], -1)
    x = place + NOISE * generator.standard_normal(place.shape)
    lengths = generator.integers(STEPS // 2, STEPS + 1, COUNT)
    return {
        "x": x.astype(np.float32),
        "state": state.reshape(COUNT, -1).astype(np.float32),
        "lengths": lengths,
    }
