"""What other libraries hold as data: tables, AnnData, data sets of items; names of columns and of classes."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import DataError

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(40, 3))
Y = GENERATOR.integers(0, 3, 40)
NAMES = np.array(["ash", "birch", "cedar"])
FRAME = pd.DataFrame(X, columns=["height", "width", "age"]).assign(kind=NAMES[Y], target=Y)


def whole(source, **options):
    """Return all data in order, and their description."""
    data = pv.load_data(source, valid=0, test=0, **options)
    return data.batch("train"), data.spec


class Items(Dataset):
    def __init__(self, *, form):
        self.form = form

    def __len__(self):
        return 40

    def __getitem__(self, i):
        x = torch.tensor(X[i])
        return {"pair": (x, int(Y[i])), "x": x, "alone": (x,), "dict": {"x": x, "y": Y[i]}, "three": (x, 1, 2)}[
            self.form
        ]


class Annotated:
    """AnnData as far as it is read."""

    def __init__(self, x):
        self.X, self.var_names = x, pd.Index(["g1", "g2", "g3"])
        self.obs = pd.DataFrame({"cell_type": pd.Categorical(NAMES[Y]), "batch": Y})


class Label:
    names = ("ash", "birch", "cedar")


class Faces:
    """A data set of Hugging Face as far as it is read."""

    def __init__(self, columns, features=None):
        self.columns, self.column_names = columns, list(columns)
        self.features = dict.fromkeys(columns) | (features or {})

    def __len__(self):
        return 40

    def __getitem__(self, name):
        return self.columns[name]


SAME = {
    "an array": (X, {}),
    "a tensor": (torch.tensor(X), {}),
    "a sparse matrix": (scipy.sparse.csr_matrix(X), {}),
    "a pair": ((X, Y), {}),
    "a pair of tensors": ((torch.tensor(X), torch.tensor(Y)), {}),
    "a mapping with a sparse matrix": ({"x": scipy.sparse.csc_matrix(X), "y": Y}, {}),
    "a table": (FRAME[["height", "width", "age"]], {}),
    "a table with y": (FRAME.drop(columns="kind"), {"y": "target"}),
    "a TensorDataset": (TensorDataset(torch.tensor(X), torch.tensor(Y)), {}),
    "items": (Items(form="x"), {}),
    "items of one": (Items(form="alone"), {}),
    "items of two": (Items(form="pair"), {}),
    "items by name": (Items(form="dict"), {}),
    "a subset": (Subset(Items(form="pair"), range(40)), {}),
    "a DataLoader": (DataLoader(Items(form="pair"), batch_size=7, shuffle=True), {}),
    "AnnData": (Annotated(X), {"y": "batch"}),
    "sparse AnnData": (Annotated(scipy.sparse.csr_matrix(X)), {"y": "batch"}),
    "Hugging Face": (Faces({"a": list(X[:, 0]), "b": list(X[:, 1]), "c": list(X[:, 2]), "label": list(Y)}), {}),
    "Hugging Face's rows": (Faces({"row": list(X), "kind": list(Y)}), {"y": "kind"}),
}


@pytest.mark.parametrize("what", SAME)
def test_the_same_data_in_any_form(what):
    source, options = SAME[what]
    batch, spec = whole(source, **options)
    assert torch.equal(batch["x"], torch.tensor(X).float())
    if "y" in batch:
        assert torch.equal(batch["y"], torch.tensor(Y))
        assert spec.classes == 3
    else:
        assert what in ("an array", "a tensor", "a sparse matrix", "a table", "items", "items of one")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (FRAME.drop(columns="target"), {"y": "kind"}),
        (FRAME.drop(columns="target").astype({"kind": "category"}), {"y": "kind"}),
        ({"x": X, "y": NAMES[Y]}, {}),
        ((X, list(NAMES[Y])), {}),
        (Annotated(X), {"y": "cell_type"}),
        (Faces({"row": list(X), "label": list(Y)}, {"label": Label}), {}),
        (Faces({"row": list(X), "label": list(NAMES[Y])}), {}),
    ],
)
def test_text_in_y_is_classes_with_names(source, options):
    batch, spec = whole(source, **options)
    assert torch.equal(batch["y"], torch.tensor(Y))
    assert spec.class_names == tuple(NAMES)
    assert spec.classes == 3


def test_missing_text_is_an_unknown_class():
    y = [None, np.nan, "", *NAMES[Y[3:]]]
    for source in (
        FRAME[["age"]].assign(y=y),
        FRAME[["age"]].assign(y=pd.array([v or None for v in y], dtype="string")),
    ):
        with pytest.warns(match="y is unknown for 3 of 40 data"):
            batch, spec = whole(source, y="y")
        assert batch["labelled"].tolist() == [False] * 3 + [True] * 37
        assert spec.class_names == tuple(NAMES)


def test_columns_keep_their_names_and_missing_numbers_are_marked():
    frame = pd.DataFrame({"a": pd.array([1, None, 3, 4], dtype="Int64"), "b": [1, 0, 1, 1], 3: [0.5, 1, 2, 9]})
    with pytest.warns(match="1 of 12 entries of x are missing"):
        batch, spec = whole(frame, missing="mark")
    assert spec.feature_names == ("a", "b", "3")
    assert batch["seen"].tolist() == [[True] * 3, [False, True, True], [True] * 3, [True] * 3]
    assert batch["x"][:, 1].tolist() == [1, 0, 1, 1]
    with pytest.raises(DataError, match="--missing mark"):
        whole(frame)


def test_splits_of_hugging_face_stay_splits():
    parts = {
        "train": Faces({"row": list(X), "label": list(Y)}),
        "test": Faces({"row": list(X[:9]), "label": list(Y[:9])}),
    }
    data = pv.load_data(parts, valid=0)
    assert (data.size("train"), data.size("test")) == (40, 9)


@pytest.mark.slow
def test_a_table_in_a_file_trains_and_is_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    FRAME.drop(columns="target").to_csv("trees.csv", index=False)
    FRAME[["height", "kind"]].to_csv("trees.tsv", index=False, sep="\t")
    assert whole("trees.tsv", y="kind")[1].feature_names == ("height",)
    options = ["--epochs", "1", "--hidden", "4", "--latent", "1", "--compile", "off", "--json", "--run", "run"]
    assert main(["train", "conditional", "--data", "trees.csv", "--y", "kind", *options]) == 0
    capsys.readouterr()
    found = pv.load("run")
    assert found.data.spec.class_names == tuple(NAMES)
    assert main(["draw", "run", "reconstructions"]) == 0
    figure = pv.plots.reconstructions(found.pair, found.data)
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["height", "width", "age"]


class Endless(IterableDataset):
    def __iter__(self):
        yield 1


REFUSED = [
    (FRAME, {"y": "kinds"}, "no column 'kinds' for y: it has height, width, age, kind, target"),
    (FRAME, {"categories": {"target": range(3)}}, "Column 'kind' holds '(ash|birch|cedar)', which is no number"),
    (FRAME[["kind"]], {"y": "kind"}, "no column but 'kind', which is y"),
    (FRAME.assign(when=pd.Timestamp("2026-01-01")).drop(columns="kind"), {}, "Column 'when' holds"),
    (pd.concat([FRAME[["age"]]] * 2, axis=1), {}, "two columns 'age'"),
    (X, {"y": "kind"}, "y='kind' names a column of a table, and ndarray has none"),
    ("digits", {"y": "kind"}, "y='kind' names a column of a table, and digits is none"),
    ({"x": X}, {"y": "kind"}, "name the array y instead"),
    (Annotated(X), {"y": "kind"}, "no 'kind' in obs: it has cell_type, batch"),
    (Faces({"row": list(X), "a": list(Y)}), {}, "columns row, a of different shapes"),
    (Items(form="three"), {}, "An item of the data set has 3 parts"),
    ([X], {}, "Data cannot be loaded from list"),
    (Endless(), {}, "Endless has no length"),
    (DataLoader(Endless()), {}, "Endless has no length"),
    (iter([1]), {}, "has no length"),
    (Subset(Items(form="x"), []), {}, "0 items"),
]


@pytest.mark.parametrize(("source", "options", "said"), REFUSED, ids=[said[:20] for _, _, said in REFUSED])
def test_what_cannot_be_data_is_refused_in_a_sentence(source, options, said):
    with pytest.raises(DataError, match=said):
        pv.load_data(source, **options)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    for name in ("empty", "ragged", "binary"):
        with pytest.raises(DataError, match="is no table of columns with names"):
            pv.load_data(tmp_path / f"{name}.csv")
    with pytest.raises(DataError, match=r"There is no file|cannot be opened"):
        pv.load_data(tmp_path / "nothing.csv")
