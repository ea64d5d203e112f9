"""Where data come from: named sets, the user's files and folders, arrays in memory.

Each becomes one `Source`.

Named sets lie in torchvision's layout, and torchvision downloads those that are absent.
"""

import difflib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.columns import Column, Named
from pyro_vae.data.image_folders import progress, read_image_folder, read_images
from pyro_vae.data.objects import Objects, dense, numbered, objects_in
from pyro_vae.data.readers import DataError, brief, read_idx, read_npy, read_npy_folder, read_npz, read_table
from pyro_vae.data.sequences import FILES, mark_lengths, named_sequences, pendulums, phrases, read_chorales
from pyro_vae.data.shards import INDEX, holds_shards, is_url, read_shards
from pyro_vae.data.sprinkler import sprinkler_days

DATASETS: dict[str, str] = {
    "digits": "1,797 handwritten digits, 8x8, 17 grey levels; comes with scikit-learn, nothing to download",
    "mnist": "70,000 handwritten digits, 28x28, binarized dynamically; 10 classes",
    "fashion_mnist": "70,000 articles of clothing, 28x28, binarized dynamically; 10 classes",
    "kmnist": "70,000 cursive Japanese characters, 28x28, binarized dynamically; 10 classes",
    "emnist": "131,600 handwritten letters and digits (balanced), 28x28, binarized dynamically; 47 classes",
    "omniglot": "32,460 characters of 50 alphabets, 28x28, binarized dynamically; 1,623 classes, 659 of them test only",
    "cifar10": "60,000 colour photographs, 32x32, 256 levels; 10 classes",
    "svhn": "99,289 house numbers in colour, 32x32, 256 levels; 10 classes",
    "celeba": "202,599 faces in colour, cropped and resized to 64x64, 256 levels; 40 attributes",
    "sprinkler": "5,000 days of cloud, sprinkler, rain and wet grass, 30% of it missing; comes with the package",
    "chorales": "382 chorales by Bach as piano rolls of 88 keys, 25 to 160 quarter notes",
    "phrases": "phrases of 16 quarter notes out of the chorales, as piano rolls",
    "sketches": "32,000 drawings of characters as pen strokes, 2 to 157 points",
    "pendulum": "1,200 swings of a pendulum, 32 to 64 places seen with noise, and its state; comes with the package",
    "digit_rows": "the digits, read row by row: 8 steps of 8 grey values; comes with scikit-learn",
}
"""What `load_data` knows by name."""

_IDX = {  # torchvision's class, start of the file names for training and test, classes
    "mnist": ("MNIST", "train", "t10k", 10),
    "fashion_mnist": ("FashionMNIST", "train", "t10k", 10),
    "kmnist": ("KMNIST", "train", "t10k", 10),
    "emnist": ("EMNIST", "emnist-balanced-train", "emnist-balanced-test", 47),
}


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing", "tst", "evaluation"), "test"),
}
"""Endings of arrays' names, and names of folders of images, that mean a split; in any case."""


@dataclass(frozen=True)
class Source:
    """Raw arrays, before they are checked and split.

    ``parts`` has the arrays by field under "all", or under "train" and, where they are given,
    "valid" and "test". ``valid`` is how much of the training part becomes the validation split,
    ``test`` the test split.
    """

    name: str
    parts: Mapping[str, Mapping[str, np.ndarray]]
    binarize: str = "gray"
    valid: float = 0.1
    test: float = 0.1
    levels: int | None = None
    image: tuple[int, int, int] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None  # of class 0, 1, ...
    resized: bool = False  # images have other sizes in their files
    curated: bool = False  # a published set: copies of a datum are part of it
    sequence: tuple[int, int] | None = None  # (steps, features), side by side in x
    feature_names: tuple[str, ...] | None = None  # of columns
    categorical: tuple[Column, ...] = ()


def open_source(
    source: object,
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    y: str | None = None,
    categories: Named | None = None,
) -> Source:
    """Return the arrays of ``source``: see `load_data`."""
    if image_size is not None and not 1 <= image_size <= 4096:
        raise DataError(f"image_size={image_size} is not a size of an image: give 1 to 4096 pixels.")
    sized = {"omniglot", "celeba"}
    held = _held(source, y, categories)
    if held is not None:
        opened = held
    elif isinstance(source, str) and source in DATASETS:
        folder = Path(data_dir or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
        if source in sized:
            return _SIZED[source](folder, image_size)
        opened = _named(source, folder)
    elif isinstance(source, str) and is_url(source):
        opened = Source(source.rstrip("/").rpartition("/")[2], {"all": read_shards(source)})
    elif isinstance(source, str | os.PathLike):
        path = _path(source)
        if path.is_dir() and not holds_shards(path) and not any(path.glob("*.npy")):
            parts, names = read_image_folder(path, image_size, SPLIT_NAMES)
            height, width, channels = next(iter(parts.values()))["x"].shape[1:]
            shape, resized = (channels, height, width), image_size is not None
            return Source(path.name, _ordered(parts), image=shape, class_names=names, resized=resized)
        opened = _from_path(path, str(source))
    else:
        raise DataError(
            f"Data cannot be loaded from {type(source).__name__}: give a name such as 'digits', a path, an array, "
            "a table, a data set with __len__ and __getitem__, or a mapping such as {'x': array}."
        )
    marked, sequence = mark_lengths(opened.parts, opened.name)
    opened = replace(opened, parts=marked, sequence=sequence or opened.sequence)
    if image_size is not None:
        raise DataError(f"image_size={image_size} resizes folders of images, omniglot and celeba, not {opened.name}.")
    return opened


def _held(source: object, y: str | None, categories: Named | None) -> Source | None:
    """Return the arrays of what is no name and no path, or of a table in a file."""
    name = "arrays"
    if isinstance(source, str | os.PathLike):
        if not (isinstance(source, str) and source in DATASETS) and Path(source).suffix.lower() in (".csv", ".tsv"):
            name, source = Path(source).stem, read_table(_path(source))
        elif y is not None:
            raise DataError(f"y={y!r} names a column of a table, and {source} is none: leave it out.", unused="y")
        else:
            return None
    found = objects_in(source, y, categories)
    if found is None and isinstance(source, Mapping):
        if y is not None:
            raise DataError(f"y={y!r} names a column of a table: name the array y instead.", unused="y")
        found = Objects({str(key): dense(value) for key, value in source.items()})
    if found is None:
        return None
    arrays, classes = numbered(found.arrays, found.class_names)
    parts = _parts({key: _array(value, key) for key, value in arrays.items()}, name)
    names: dict[str, Any] = {
        "feature_names": found.feature_names,
        "class_names": classes,
        "categorical": found.categorical,
    }
    return Source(name, parts, classes=len(classes) if classes else None, **names)


def _path(source: str | os.PathLike) -> Path:
    if not os.fspath(source):  # which would be this folder
        raise DataError("The name of the data is empty: give a name such as 'digits', or a path.")
    try:
        path = Path(source).expanduser()
        path.stat()
    except FileNotFoundError:
        pass  # the caller knows what else the name may mean
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a null character, of an unknown user, ...
        raise DataError(f"{brief(Exception(source))} cannot be opened ({brief(error)}): check the name.") from None
    return path


def _shards_in(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the fields of a folder of shards, or of those for its splits."""
    if (folder / INDEX).is_file():
        return {"all": read_shards(str(folder))}
    named = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{INDEX}"))}
    splits = {SPLIT_NAMES.get(name.lower(), name): read_shards(str(path)) for name, path in named.items()}
    if odd := splits.keys() - {"train", "valid", "test"}:
        raise DataError(f"{folder} has shards in {min(odd)}, which names no split: call it train, valid or test.")
    if "train" not in splits:
        raise DataError(f"{folder} has shards for {', '.join(splits)} and none for train: add them.")
    return _ordered(splits)


def _from_path(path: Path, given: str) -> Source:
    if path.is_dir():
        if holds_shards(path):
            return Source(path.name, _shards_in(path))
        return Source(path.name, _parts(read_npy_folder(path), str(path)))
    if path.suffix == ".npy":
        return Source(path.stem, {"all": {"x": read_npy(path)}})
    if path.suffix == ".json":
        return Source(path.stem, _ordered(read_chorales(path)))
    if path.suffix == ".npz":
        return Source(path.stem, _parts(read_npz(path), str(path)))
    if path.exists():
        raise DataError(
            f"{path} is neither .npy, .npz, .csv, .tsv, .json nor a folder: save the arrays with "
            "numpy.savez(path, x=..., y=...)."
        )
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"There is no file or folder {path}: check the name.")
    near = difflib.get_close_matches(given, DATASETS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(DATASETS)}, or give a path."
    raise DataError(f"There is no data set called {given!r}: {hint}")


def _array(value: object, key: str) -> np.ndarray:
    """Return a tensor, array or nested list as an array that shares its memory if it can."""
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to_dense()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.getmaskarray(value).any():
            raise DataError(
                f"{key} is masked in {np.ma.count_masked(value):,} places: fill them, or leave those data out."
            )
        value = value.data
    try:
        return value if isinstance(value, np.memmap) else np.asarray(value)  # what lies in a file stays there
    except ValueError:
        raise DataError(f"{key} is not an array: its rows differ in length.") from None


def _parts(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, dict[str, np.ndarray]]:
    """Sort arrays named x, y or x_train, x_test, y_train into parts."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        field, _, ending = name.rpartition("_")
        split = SPLIT_NAMES.get(ending.lower()) if field else None
        part, key = (split, field) if split else ("all", name)
        if key in parts.setdefault(part, {}):
            raise DataError(f"{where} has {key} of the {part} split twice: leave {name} out.")
        parts[part][key] = array
    if not any("x" in part for part in parts.values()):
        raise DataError(f"{where} has no array x (it has {', '.join(arrays) or 'none'}): name the data x.")
    if "all" in parts and len(parts) > 1:
        names = ", ".join(sorted(parts["all"]))
        raise DataError(f"{where} has both {names} and arrays of single splits such as x_train: give one or the other.")
    if "all" not in parts and not all("x" in part for part in (*parts.values(), parts.get("train", {}))):
        raise DataError(f"{where} has {', '.join(arrays)}: every split needs its x, and x_train must be there.")
    return _ordered(parts)


def _ordered(parts: Mapping[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    return {part: parts[part] for part in ("all", "train", "valid", "test") if part in parts}


def _named(name: str, folder: Path) -> Source:
    if name == "digits":
        x, y = _bundled_digits()
        return Source(name, {"all": {"x": x, "y": y}}, levels=17, image=(1, 8, 8), classes=10)
    if name == "digit_rows":
        x, y = _bundled_digits()
        steps = np.ones((len(x), 8), bool)
        return Source(
            name,
            {"all": {"x": x, "y": y, "mask": steps}},
            levels=17,
            image=(1, 8, 8),
            classes=10,
            sequence=(8, 8),
        )
    if name == "pendulum":
        return Source(name, {"all": pendulums()}, curated=True)
    if name in FILES:
        return Source(name, _ordered(named_sequences(name, folder)), curated=True)
    if name == "phrases":
        return Source(name, _ordered(phrases(named_sequences("chorales", folder))), curated=True)
    if name == "sprinkler":
        return Source(name, {"all": sprinkler_days()}, curated=True)
    if name in _IDX:
        return _idx(name, folder)
    if name == "cifar10":
        return _cifar10(folder)
    return _svhn(folder)


def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits and labels without the seconds that its import takes."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits come with scikit-learn, which is not installed: install it, or choose other data.")
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.uint8, delimiter=",")
    return table[:, :-1], table[:, -1]


def _idx(name: str, folder: Path) -> Source:
    kind, train, test, classes = _IDX[name]
    raw = folder / kind / "raw"
    files = {
        (part, key): raw / f"{start}-{key}"
        for part, start in (("train", train), ("test", test))
        for key in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
    if not all(path.exists() for path in files.values()):
        options = {"split": "balanced"} if name == "emnist" else {}
        _torchvision(name, folder, kind, **options)
    parts = {}
    for part in ("train", "test"):
        try:
            x = read_idx(files[part, "images-idx3-ubyte"], dims=3)
            y = read_idx(files[part, "labels-idx1-ubyte"], dims=1)
        except DataError as error:
            raise DataError(f"{error} Delete the file to have it downloaded again.") from None
        if x.shape[1:] != (28, 28):
            raise DataError(
                f"{files[part, 'images-idx3-ubyte']} has images of {x.shape[1:]}, not (28, 28): it is damaged."
            )
        # the letters of EMNIST are stored lying down
        parts[part] = {"x": x.transpose(0, 2, 1) if name == "emnist" else x, "y": y}
    return Source(name, parts, "dynamic", valid=5000, classes=classes, curated=True)


def _cifar10(folder: Path) -> Source:
    parts = {}
    for part in ("train", "test"):
        found = _torchvision("cifar10", folder, "CIFAR10", train=part == "train")
        parts[part] = {"x": found.data, "y": np.asarray(found.targets)}
    return Source("cifar10", parts, valid=5000, classes=10, curated=True)


def _svhn(folder: Path) -> Source:
    parts = {}
    for part in ("train", "test"):
        found = _torchvision("svhn", folder, "SVHN", split=part)
        parts[part] = {"x": found.data, "y": found.labels}
    return Source("svhn", parts, valid=5000, classes=10, curated=True)


def _omniglot(folder: Path, image_size: int | None) -> Source:
    size = image_size or 28
    parts, known = {}, 0
    for part in ("train", "test"):
        found = _torchvision("omniglot", folder, "Omniglot", background=part == "train")
        place = Path(found.target_folder)
        paths = [place / found._characters[label] / name for name, label in found._flat_character_images]
        labels = np.array([label for _, label in found._flat_character_images])
        ink = _decoded(paths, folder / f"omniglot-py/pyro_vae_{size}_{part}.npy", (size, size, 1))
        # alphabets lie one after the other; the first hundred data should not all be of one
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(paths))
        parts[part] = {"x": 255 - np.asarray(ink)[order], "y": labels[order] + known}
        known += len(found._characters)
    return Source("omniglot", parts, "dynamic", valid=2000, classes=known, curated=True)


def _celeba(folder: Path, image_size: int | None) -> Source:
    size = image_size or 64
    parts = {}
    for part in ("train", "valid", "test"):
        found = _torchvision("celeba", folder, "CelebA", split=part)
        paths = [folder / "celeba/img_align_celeba" / name for name in found.filename]
        # 148 pixels from the middle of the aligned 218 x 178 hold the face: the crop of most
        # published figures
        x = _decoded(paths, folder / f"celeba/pyro_vae_{size}_{part}.npy", (size, size, 3), crop=148)
        parts[part] = {"x": x, "y": found.attr.numpy()}
    return Source("celeba", parts, image=(3, size, size), curated=True)


_SIZED: dict[str, Callable[[Path, int | None], Source]] = {"omniglot": _omniglot, "celeba": _celeba}


def _decoded(paths: Sequence[Path], cache: Path, shape: tuple[int, ...], *, crop: int | None = None) -> np.ndarray:
    """Return the images as uint8, memory-mapped from ``cache``; write it first if missing."""
    if cache.exists():
        x = read_npy(cache)
        if x.shape != (len(paths), *shape) or x.dtype != np.uint8:
            raise DataError(
                f"{cache} has the shape {x.shape}, not {(len(paths), *shape)}: delete it to have it made again."
            )
        return x
    partial = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        x = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(paths), *shape))
        read_images(progress(paths, f"decoding {cache.parent.name}"), x, crop=crop)
        x.flush()
        partial.replace(cache)
    except OSError as error:
        raise DataError(
            f"{cache} cannot be written ({error.strerror or error}): choose another folder with --data-dir."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return read_npy(cache)


def _torchvision(name: str, folder: Path, kind: str, **options: Any) -> Any:
    """Return torchvision's data set ``kind``, which downloads and verifies missing files."""
    import torchvision.datasets

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy about the pickles inside published sets
            return getattr(torchvision.datasets, kind)(folder, download=True, **options)
    except Exception as error:  # urllib, zipfile, pickle, scipy and torchvision raise whatever they like
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name} is not complete in {folder} and could not be downloaded ({reason}): "
            "put its files there, or name the folder that has them with --data-dir."
        ) from error
