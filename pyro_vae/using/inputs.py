"""What users pass as data, as batches that programs take."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data import Data, DataError, is_table
from pyro_vae.program import Batch, Pair, PairError, Verbs

USUAL = {"seen": True, "mask": True, "labelled": False}
"""What fields are unless they are given: all of x is seen, all items are there, no y is known."""


class Used(NamedTuple):
    """A pair, and the data that it was trained on if they are known."""

    pair: Pair
    data: Data | None

    @classmethod
    def of(cls, used: Verbs) -> "Used":
        """Take apart a pair, or what ``fit`` and ``load`` return."""
        return cls(used, None) if isinstance(used, Pair) else cls(used.pair, used.data)  # type: ignore[attr-defined]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Event shape of every field that is known."""
        seen = self.pair.bound_model.shapes | self.pair.bound_guide.shapes
        built = self.pair.shapes or {}
        return {**seen, **built, **(self.data.spec.fields if self.data else {})}

    def fields_of(self, x: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that users give: those of ``x``, and further ones.

        Args:
            x: see `Verbs`; None is the test split.
            fields: further fields, for all data or for each.

        Raises:
            PairError: there are no data, or no field has this name.
        """
        source = self.data if x is None and "x" not in fields else x
        if isinstance(source, Data):
            source = source.batch(source.choose())
        given = dict(source) if isinstance(source, Mapping) else {} if source is None else {"x": source}
        given |= fields
        if "x" not in given:
            raise PairError("there are no data: give x, or use what fit or load returned, which has its own")
        for name in fields.keys() - {"x", *self.shapes, *self.pair.fields}:
            raise PairError(f"there is no field {name!r}; the programs read {', '.join(map(repr, self.pair.fields))}")
        if self._knows_columns(given["x"]):
            given["x"] = self.array("x", given["x"])
        if "seen" in self.pair.fields and "seen" not in given:
            given |= _marked(given["x"])
        return given

    def rows_of(self, given: Mapping[str, Any]) -> int:
        """Return how many data are given.

        Raises:
            PairError: x is a single number, or there is no datum.
        """
        x = self.array("x", given["x"])
        if not x.dim() or not len(x):
            raise PairError("x has one row per datum, and there is none")
        return len(x)

    def require_support(self, batch: Batch) -> None:
        """Refuse grey values where the pair was trained on binary ones: they have no probability.

        Raises:
            PairError: there are some.
        """
        binary = self.data is not None and self.data.spec.support == "binary"
        if binary and not ((batch["x"] == 0) | (batch["x"] == 1)).all():
            raise PairError(
                "x has values between 0 and 1, and the pair was trained on binary x, which alone have a probability; "
                "draw 0 or 1 with these probabilities first, such as torch.bernoulli(x)"
            )
        for column in () if self.data is None else self.data.spec.categorical:
            self._require_one_hot(batch, column.name, column.place)

    def _require_one_hot(self, batch: Batch, name: str, place: slice) -> None:
        x = batch["x"][..., place]
        seen = batch["seen"][..., place].all(-1) if "seen" in batch else torch.ones_like(x[..., 0], dtype=torch.bool)
        one_hot = ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)
        if not one_hot[seen].all():
            raise PairError(
                f"features {place.start} to {place.stop - 1} of x are the column {name!r}, one-hot, and in some "
                "rows not exactly one of them is 1; give a table, or one-hot rows"
            )

    def filled(self, size: int, given: Mapping[str, Any]) -> Batch:
        """Return a batch of ``size`` data: fields as given, stand-ins for others that are read.

        Stand-ins are zeros. `require` refuses them where a program computes something from them.
        """
        batch = {name: self._field(name, value, size) for name, value in given.items()}
        self._require_classes(batch)
        sizes = {len(value) for value in batch.values()}
        if sizes - {size}:
            raise PairError(f"fields have {', '.join(map(str, sorted(sizes | {size})))} data; give each as many")
        if "y" in batch and "labelled" not in batch:
            batch["labelled"] = torch.ones(size, dtype=torch.bool, device=self._like.device)
        for name in dict.fromkeys(("x", *self.pair.bound_model.required, *self.pair.bound_guide.required)):
            if name not in batch:
                batch[name] = self._stand_in(name, size)
        every = self.pair.bound_model.takes_all or self.pair.bound_guide.takes_all
        return {name: value for name, value in batch.items() if every or name in self.pair.fields or name == "x"}

    def _require_classes(self, batch: Batch) -> None:
        classes, y = self.data and self.data.spec.classes, batch.get("y")
        if classes and y is not None and not y.is_floating_point() and not ((y >= 0) & (y < classes)).all():
            wrong = int(y[(y < 0) | (y >= classes)][0])
            raise PairError(f"y holds {wrong}, and the classes that the pair was trained on are 0 to {classes - 1}")

    def _stand_in(self, name: str, size: int) -> Tensor:
        if name not in self.shapes:
            raise PairError(
                f"the shape of {name!r} is not known before the pair has run once: "
                f"run check_pair, or build it as Pair(..., shapes={{{name!r}: (...)}})"
            )
        shape = (size, *self.shapes[name])
        if name in USUAL:
            return torch.full(shape, USUAL[name], device=self._like.device)
        return self._like.new_zeros(shape, dtype=torch.long if shape == (size,) else None)

    def require(self, names: Iterable[str], given: Mapping[str, Any], verb: str) -> None:
        """Refuse to go on without a field that a program computes something from.

        Raises:
            PairError: naming it.
        """
        for name in names:
            field = name.removesuffix("_in").removeprefix("the rest of ")
            hidden = field == "y" and "labelled" in self.pair.fields
            if field not in given and field not in USUAL and not hidden:
                raise PairError(f"{verb} needs {field}: the pair is given {name}; pass {field}=...")

    @property
    def _like(self) -> Tensor:
        """A tensor of the pair's float type, on its device."""
        floats = (t for t in self.pair.state_dict().values() if t.is_floating_point())
        return next(floats, torch.zeros(()))

    def _field(self, name: str, value: Any, size: int) -> Tensor:
        shape = self.shapes.get(name)
        tensor = self.array(name, value)
        if shape is not None and name != "x" and tensor.dim() == len(shape):
            tensor = tensor.expand(size, *tensor.shape)
        if shape is not None and tuple(tensor.shape[1:]) != shape:
            tensor = self._shaped(name, tensor, shape)
        if tensor.is_floating_point():
            tensor = tensor.to(self._like.dtype)
        return tensor.to(self._like.device)

    def _shaped(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tensor.dim() == 0 or math.prod(tensor.shape[1:]) != math.prod(shape):
            raise PairError(
                f"{name} has shape {tuple(tensor.shape)}, and the pair takes (data, {', '.join(map(str, shape))}); "
                "give one row per datum"
            )
        return tensor.reshape(len(tensor), *shape)

    def array(self, name: str, value: Any) -> Tensor:
        """Return a field's values as a tensor, integers of x scaled like those of training."""
        if isinstance(value, Tensor):
            value = value.detach()
            if value.is_floating_point() or name != "x":
                return value
            value = value.cpu().numpy()
        if name == "x" and self._knows_columns(value):
            return self._asked(lambda data: data.read_table(value))
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
        if array.dtype.kind in "US" or (array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat)):
            return self._classes(name, array)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
        if array.dtype.kind not in "fiub":
            raise PairError(f"{name} holds values of type {array.dtype}, and programs take numbers")
        if name == "x":
            return self._x(array)
        return torch.tensor(array)

    def _knows_columns(self, value: Any) -> bool:
        """Return whether a table's columns are those of training by name, or some of these are
        categories.
        """
        if self.data is None or not is_table(value):
            return False
        names = set(self.data.spec.feature_names or ())
        return bool(self.data.spec.categorical) or bool(names and names <= set(map(str, value.columns)))

    def _asked(self, read: Callable[[Data], Tensor]) -> Tensor:
        assert self.data is not None
        try:
            return read(self.data)
        except DataError as error:
            raise PairError(str(error)) from None

    def _x(self, array: np.ndarray) -> Tensor:
        if self.data is not None:
            return self._asked(lambda data: data.read(np.array(array)))  # a copy: a DataFrame's may not be written
        if array.dtype.kind in "iu" and array.size and array.max() > 1:
            raise PairError(
                f"x holds whole numbers up to {array.max()}, and a pair does not know how those of its training data "
                "were scaled; scale them alike, or use what fit or load returned, which knows"
            )
        return torch.tensor(array).to(torch.get_default_dtype())

    def _classes(self, name: str, array: np.ndarray) -> Tensor:
        names = list((self.data.spec.class_names if self.data is not None else None) or ())
        unknown = sorted({str(v) for v in array.flat} - set(names))
        if name != "y" or unknown:
            told = f"; its classes are {', '.join(names)}" if names and name == "y" else ""
            raise PairError(f"{name} holds the text {str(array.flat[0])!r}, and programs take numbers{told}")
        return torch.tensor([names.index(str(v)) for v in array.flat]).reshape(array.shape)


def _marked(x: Any) -> dict[str, Any]:
    """Return x with a number for every NaN, and the field that says where there was none."""
    array = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x.to_numpy() if hasattr(x, "to_numpy") else x)
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return {}
    return {"x": np.nan_to_num(array), "seen": ~np.isnan(array).reshape(len(array), -1)}
