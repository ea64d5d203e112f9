"""Tables with columns of categories: which they are, how they lie in x, and what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import DataError

GENERATOR = np.random.default_rng(0)
SIZE = 60
AGE, VISITS = GENERATOR.normal(40, 9, SIZE), GENERATOR.poisson(3, SIZE)
WARD, SMOKER = np.array(["b", "a", "c"])[GENERATOR.integers(0, 3, SIZE)], GENERATOR.random(SIZE) < 0.4
FRAME = pd.DataFrame({"ward": WARD, "age": AGE, "smoker": SMOKER, "visits": VISITS})

pytestmark = pytest.mark.filterwarnings("ignore:.*columns of categories are one-hot")


def whole(source, **options):
    data = pv.load_data(source, valid=0, test=0, **options)
    return data.batch("train"), data.spec


def expected():
    """One-hot rows as they must come out, made by hand."""
    ward = np.stack([name == WARD for name in "abc"], 1)
    return torch.tensor(np.column_stack([AGE, VISITS, ward, ~SMOKER, SMOKER]).astype("f4"))


def test_numbers_come_first_and_then_every_category():
    batch, spec = whole(FRAME)
    assert torch.equal(batch["x"], expected())
    assert spec.feature_names == ("age", "visits", "ward=a", "ward=b", "ward=c", "smoker=False", "smoker=True")
    assert [tuple(column) for column in spec.categorical] == [
        ("ward", 2, ("a", "b", "c")),
        ("smoker", 5, ("False", "True")),
    ]
    assert spec.category_list == "ward: a, b, c; smoker: False, True"
    assert spec.numbers.features == 2
    assert spec.numbers.feature_names == ("age", "visits")


def test_it_is_said():
    with pytest.warns(
        match=r"arrays: columns of categories are one-hot in x, 0 or 1 for each: ward \(3\), smoker \(2\)"
    ):
        data = pv.load_data(FRAME)
    assert "columns of categories one-hot: 2" in str(data)


class Faces:
    """A data set of Hugging Face as far as it is read."""

    def __init__(self, frame, features=None):
        self.frame, self.column_names = frame, list(frame)
        self.features = dict.fromkeys(frame) | (features or {})

    def __getitem__(self, name):
        return self.frame[name].tolist()

    def __len__(self):
        return len(self.frame)


class Ward:
    names = ("a", "b", "c")


FORMS = {
    "text as objects": FRAME.astype({"ward": object}),
    "a column of pandas' categories": FRAME.astype({"ward": "category"}),
    "booleans as objects": FRAME.astype({"smoker": object}),
    "a pair": (FRAME, np.arange(SIZE) % 2),
    "a mapping": {"x": FRAME, "y": np.arange(SIZE) % 2},
    "Hugging Face": Faces(FRAME),
    "Hugging Face's classes": Faces(FRAME.assign(ward=["abc".index(ward) for ward in WARD]), {"ward": Ward}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_in_every_form(form):
    batch, spec = whole(FORMS[form])
    assert torch.equal(batch["x"], expected())
    assert spec.categorical[0].categories == ("a", "b", "c")


def test_splits_share_their_categories():
    parts = {"x_train": FRAME[FRAME.ward != "c"], "x_test": FRAME[FRAME.ward == "c"]}
    data = pv.load_data(parts, valid=0)
    assert data.spec.categorical[0].categories == ("a", "b", "c")
    assert (data.batch("test")["x"][:, 4] == 1).all()
    typed = {name: part.astype({"ward": "category"}) for name, part in parts.items()}
    assert torch.equal(pv.load_data(typed, valid=0).batch("test")["x"], data.batch("test")["x"])


def test_declared_categories_keep_their_order_and_those_that_nobody_has():
    dtype = pd.CategoricalDtype(["c", "b", "a", "d"])
    batch, spec = whole(FRAME.astype({"ward": dtype}))
    assert spec.categorical[0].categories == ("c", "b", "a", "d")
    assert torch.equal(batch["x"][:, [4, 3, 2]], expected()[:, 2:5])
    assert (batch["x"][:, 5] == 0).all()


@pytest.mark.parametrize(
    ("frame", "options", "found"),
    [
        (FRAME[["age", "visits"]], {}, {}),
        (FRAME[["smoker"]], {}, {}),  # binary data
        (FRAME[["smoker"]].assign(zero=VISITS > 2, one=(VISITS > 3).astype(int)), {}, {}),
        (FRAME[["age", "smoker"]], {}, {"smoker": ("False", "True")}),
        (FRAME[["age"]].assign(one=(VISITS > 3).astype(int)), {}, {}),  # numbers, as far as one can see
        (FRAME[["ward"]].assign(one=(VISITS > 3) * 1.0), {}, {"ward": ("a", "b", "c"), "one": ("0", "1")}),
        (FRAME[["age"]].assign(k=VISITS % 3), {"categories": ["k"]}, {"k": ("0", "1", "2")}),
        (FRAME[["age"]].assign(k=VISITS % 3), {"categories": {"k": [2, 1, 0, 9]}}, {"k": ("2", "1", "0", "9")}),
        (FRAME[["age"]].assign(k=pd.Categorical(VISITS % 3)), {}, {"k": ("0", "1", "2")}),
        (FRAME[["age", "ward"]], {"y": "ward"}, {}),
    ],
)
def test_which_columns_are_categories(frame, options, found):
    _, spec = whole(frame, **options)
    assert {column.name: column.categories for column in spec.categorical} == found


def test_small_whole_numbers_beside_categories_are_no_grey_levels():
    batch, spec = whole(FRAME[["ward", "visits"]].astype({"visits": np.uint8}))
    assert batch["x"][:, 0].tolist() == VISITS.tolist()
    assert spec.counts
    assert spec.support == "real"


def test_a_table_of_categories_alone_is_binary():
    _, spec = whole(FRAME[["ward"]])
    assert spec.support == "binary"
    assert spec.numbers is None


def test_a_missing_category_is_missing_as_a_whole_and_is_filled_with_the_most_frequent():
    frame = FRAME.astype({"ward": object}).copy()
    frame.loc[3, "ward"] = None
    frame.loc[5, "ward"] = ""
    frame.loc[7, "age"] = np.nan
    with pytest.raises(DataError, match="--missing mark"):
        whole(frame)
    with pytest.warns(match="7 of 420 entries of x are missing"):
        batch, spec = whole(frame, missing="mark")
    assert (~batch["seen"]).nonzero().tolist() == [[3, 2], [3, 3], [3, 4], [5, 2], [5, 3], [5, 4], [7, 0]]
    usual = frame.ward.replace("", None).mode()[0]
    assert batch["x"][3, 2:5].tolist() == [float(name == usual) for name in "abc"]
    assert spec.categorical[0].categories == ("a", "b", "c")


MANY = [f"name {i}" for i in range(SIZE)]
REFUSED = [
    (FRAME.assign(name=MANY), {}, "Column 'name' holds 60 different entries, such as 'name 0', in 60 data, too many"),
    (FRAME.assign(age=[*map(str, AGE[1:]), "?"]), {}, r"Column 'age' holds '\?' among numbers"),
    (FRAME, {"categories": ["weird"]}, "categories name a column 'weird', and x of the table has ward, age, smoker"),
    (
        FRAME,
        {"categories": {"ward": ["a", "b"]}},
        "Column 'ward' holds 'c', which is none of its categories: they are a, b",
    ),
    (FRAME, {"categories": {"smoker": [False, True]}}, "Column 'ward' holds '.', which is no number"),
    (FRAME, {"levels": 256}, "levels=256 are those of images"),
    (FRAME.assign(ward=None).astype({"ward": "category"}), {}, "Column 'ward' is empty"),
    (AGE[:, None], {"categories": ["age"]}, "categories name columns of a table, and arrays is none"),
    ("digits", {"categories": ["age"]}, "categories name columns of a table, and digits is none"),
    (
        {"x_train": FRAME, "x_test": FRAME.drop(columns="age")},
        {},
        "The tables have columns ward, age, smoker, visits and",
    ),
]


@pytest.mark.parametrize(("source", "options", "said"), REFUSED, ids=[said[:25] for _, _, said in REFUSED])
def test_what_is_no_category_is_refused_in_a_sentence(source, options, said):
    with pytest.raises(DataError, match=said):
        pv.load_data(source, **options)


@pytest.mark.slow
def test_a_run_keeps_its_categories(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("patients.csv", index=False)
    FRAME[FRAME.ward != "c"].to_csv("fewer.csv", index=False)
    FRAME.assign(ward=["z", *WARD[1:]]).to_csv("unknown.csv", index=False)
    options = ["--epochs", "1", "--hidden", "4", "--latent", "1", "--compile", "off", "--run", "run"]
    assert main(["train", "latent", "--data", "patients.csv", "--categories", "visits", *options]) == 0
    assert "categories: ward: a, b, c; smoker: False, True; visits: 1, 2" in capsys.readouterr().err
    assert "ward: a, b, c" in (tmp_path / "run/report.html").read_text()
    kept = pv.load("run")
    assert kept.run.config["categories"]["ward"] == ["a", "b", "c"]
    visits = sorted({*map(str, VISITS)}, key=int)
    assert kept.run.config["categories"]["visits"] == visits
    # categories of the run, not those that the other file happens to have
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pv.load("run", data="fewer.csv")
    assert other.data.spec.categorical == kept.data.spec.categorical
    assert main(["evaluate", "run", "--data", "unknown.csv"]) == 2
    assert "Column 'ward' holds 'z', which is none of its categories: they are a, b, c" in capsys.readouterr().err


def test_a_trained_pair_reads_tables_by_name():
    data = pv.load_data(FRAME, valid=0, test=0)
    torch.manual_seed(0)
    fitted = pv.fit(pv.pairs.latent(data.spec, latent=2, hidden=[4]), data, epochs=1, compile="off", progress=False)
    codes = fitted.encode(data.batch("train")["x"])
    shuffled = FRAME[["visits", "smoker", "ward", "age"]].assign(other="ignored")
    assert torch.equal(fitted.encode(shuffled), codes)
    assert torch.equal(fitted.encode(shuffled[:1]), fitted.encode(FRAME[:1]))
    with pytest.raises(
        pv.PairError, match="Column 'ward' holds 'z', which is none of its categories: they are a, b, c"
    ):
        fitted.encode(FRAME.assign(ward="z"))
    with pytest.raises(pv.PairError, match="The table has no column 'age', which x has"):
        fitted.encode(FRAME.drop(columns="age"))
    with pytest.raises(pv.PairError, match="features 2 to 4 of x are the column 'ward', one-hot"):
        fitted.elbo(torch.zeros(3, 7))


def test_numbers_are_found_by_name_too():
    frame = FRAME[["age", "visits"]]
    data = pv.load_data(frame.assign(kind=WARD), y="kind", valid=0, test=0)
    torch.manual_seed(0)
    fitted = pv.fit(pv.pairs.latent(data.spec, latent=1, hidden=[4]), data, epochs=1, compile="off", progress=False)
    assert torch.equal(fitted.encode(FRAME[["visits", "age", "ward"]]), fitted.encode(frame))
