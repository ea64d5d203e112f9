"""What `load_data` refuses, each with one sentence."""

import numpy as np
import pytest
import torch

from pyro_vae.data.load import load_data
from pyro_vae.data.readers import DataError

RNG = np.random.default_rng(0)
X = np.random.default_rng(0).normal(size=(20, 3))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("mnits", {}, "There is no data set called 'mnits': did you mean 'mnist'?"),
        ("zebra", {}, "There is no data set called 'zebra': choose from digits, mnist,"),
        ("no/such/folder", {}, "There is no file or folder no/such/folder: check the name."),
        ("a" * 5000, {}, "cannot be opened ([Errno 36] File name too long"),
        ("a\0b", {}, "cannot be opened (embedded null byte): check the name."),
        ("~nobody-of-this-name/x.npy", {}, "cannot be opened (Could not determine home directory.): check the name."),
        ("gone.npz", {}, "gone.npz cannot be opened (No such file or directory)"),
        (5, {}, "Data cannot be loaded from int: give a name such as 'digits'"),
        ("digits", {"binarize": "both"}, "binarize must be one of gray, static, dynamic; got 'both'."),
        ("digits", {"binarize": "dynamc"}, "got 'dynamc': did you mean 'dynamic'?"),
        ("digits", {"binarise": "dynamic"}, "load_data has no option 'binarise'; did you mean binarize?"),
        ("digits", {"valid": "0.1"}, "valid must be a whole number or a number; got '0.1'."),
        ("digits", {"levels": 16.5}, "levels must be a whole number; got 16.5."),
        ("digits", {"labels": True}, "labels must be a whole number; got True."),
        ("digits", {"image": "8x8"}, "image must be a list of whole numbers"),
        ({"x": X}, {"binarize": "dynamic"}, "binarize='dynamic' needs values between 0 and 1, and x of arrays goes from"),
        ("digits", {"image_size": 32}, "image_size=32 resizes folders of images, omniglot and celeba, not digits."),
        ("digits", {"image_size": 0}, "image_size=0 is not a size of an image"),
        ("digits", {"valid": 2000}, "digits has 1,797 data, and 2,000 for valid and 180 for test leave none for training"),
        ("digits", {"valid": -1}, "valid=-1 is not a size of a split"),
        ("digits", {"valid": 2.5}, "valid=2.5 is not a size of a split"),
        ("digits", {"seed": -1}, "seed=-1 is not possible: give a whole number from 0 on."),
        ("digits", {"levels": 1}, "levels=1 are not possible"),
        ("digits", {"image": (1, 4, 4)}, "digits: x has the shape (64,) per datum, which is not an image of (1, 4, 4)"),
        ("digits", {"split_by": "who"}, "split_by='who' is not a field of digits with one number per datum (it has x, y)."),
        ({"y": X}, {}, "arrays has no array x (it has y): name the data x."),
        ({}, {}, "arrays has no array x (it has none): name the data x."),
        ({"x": X, "x_test": X}, {}, "arrays has both x and arrays of single splits such as x_train"),
        ({"x_test": X}, {}, "arrays has x_test: every split needs its x, and x_train must be there."),
        ({"x_train": X, "y_test": X}, {}, "arrays has x_train, y_test: every split needs its x"),
        ({"x_train": X, "x_val": X, "x_valid": X}, {}, "arrays has x of the valid split twice"),
        ({"x_train": X, "x_test": X, "y_test": X}, {}, "arrays has y_test but no y_train: give both or neither."),
        ({"x_train": X, "x_test": X[:, :2]}, {}, "data of all splits must look alike"),
        ({"x": X, "y": np.zeros(19)}, {}, "arrays: y has 19 data and x has 20: every field needs one row per datum."),
        ({"x": X[:0]}, {}, "arrays: x of shape (0, 3) is empty: give at least one datum."),
        ({"x": X[0, 0]}, {}, "arrays: x is the single number"),
        ({"x": X[:1]}, {}, "arrays has 1 data, and 1 for valid and 1 for test leave none for training"),
        ({"x": np.where(X[7, 1] == X, np.nan, X)}, {}, "arrays: x holds NaN, infinite or too large values, the first in row 7, column 1: "),
        ({"x": np.where(X[7, 1] == X, 1e39, X)}, {}, "infinite or too large values, the first in row 7"),
        ({"x": X, "y": np.full(20, -np.inf)}, {}, "arrays: y holds NaN, infinite"),
        ({"x": X.astype(str)}, {}, "arrays: x holds text, not numbers"),
        ({"x": X.astype(object)}, {}, "arrays: x holds Python objects, not numbers"),
        ({"x": X.astype(complex)}, {}, "arrays: x holds complex numbers, not numbers"),
        ({"x": [[1.0], [1.0, 2.0]]}, {}, "x is not an array: its rows differ in length."),
        ({"x": X, "y": np.arange(20) - 2}, {}, "arrays: y holds the class -2: number the classes from 0"),
        ({"x": X, "y": np.arange(20) + 1990}, {}, "arrays: y holds the class 2,009 among 20 data"),
        ({"x": X, "a b": X}, {}, "'a b' cannot be an argument of a program"),
        ({"x": np.zeros((9, 5, 6, 7), np.uint8)}, {}, "neither its first nor its last size is a number of channels"),
    ],
)  # fmt: skip
def test_mistakes_are_answered_by_one_sentence(source, options, message):
    with pytest.raises(DataError) as caught:
        load_data(source, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))


def test_mistakes_with_batches():
    data = load_data("digits", valid=0)
    for call, message in (
        (lambda: data.size("training"), "There is no split 'training': choose train, valid or test."),
        (lambda: data.batch("test", start=180), "The test split of digits has 180 data: no None from 180 on."),
        (lambda: data.batch("test", 0), "has 180 data: no 0 from 0 on."),
        (lambda: data.batch("valid"), "The valid split of digits has 0 data"),
        (lambda: data.batches("test", 0), "batch_size=0 is not possible"),
        (lambda: data.num_batches(-1), "batch_size=-1 is not possible"),
        (lambda: data.epoch(-1, 10, seed=0), "epoch=-1 is not possible"),
        (lambda: data.epoch(0, 10, seed=1.5), "seed=1.5 is not possible"),
        (lambda: data.epoch(0, 10, seed=0, rank=2, world=2), "rank=2 is not one of world=2 processes"),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert message in str(caught.value)
    assert list(data.batches("valid", 10)) == []


@pytest.mark.parametrize("value", [3, 2.5, np.array(3), torch.tensor(2.0)], ids=str)
@pytest.mark.parametrize("field", ["x", "y", "extra"])
def test_a_single_number_is_no_field(field, value):
    with pytest.raises(DataError, match=rf"arrays: {field} is the single number [\d.]+: every field needs one row"):
        load_data({"x": np.zeros((60, 4)), field: value})


def test_sparse_tensors_are_the_data_that_they_stand_for():
    x = torch.eye(60)
    assert torch.equal(load_data(x.to_sparse()).batch("train")["x"], load_data(x).batch("train")["x"])
