"""What is done to data, and which class is which, is said in one line, stored and shown."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import DataError, DataNote, listed_classes
from pyro_vae.plots import PICTURES
from pyro_vae.report.sections import Drawn

RNG = np.random.default_rng(0)


def folder_of(path, names, count=8, size=8):
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(RNG.integers(0, 256, (size, size), dtype="u1")).save(path / name / f"{i}.png")
    return path


def test_classes_are_stored_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pyro_vae.report.report.draw_all", lambda *args: Drawn({}, {}))
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "pets", ["dog", "cat", "eel"])
    quick = ["--hidden", "[4]", "--latent", "2", "--epochs", "1", "--compile", "off", "--run", "runs/pets"]
    assert main(["train", "latent", *quick, "--data", "pets"]) == 0
    assert "classes: 0 cat, 1 dog, 2 eel" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "runs/pets/config.yaml").read_text())["classes"] == ["cat", "dog", "eel"]
    assert "0 cat, 1 dog, 2 eel" in (tmp_path / "runs/pets/report.html").read_text()
    assert main(["list", "--runs", "runs"]) == 0
    assert "(classes 0 cat, 1 dog, 2 eel)" in capsys.readouterr().out
    assert main(["list", "--runs", "runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["classes"] == ["cat", "dog", "eel"]


def test_legends_name_the_classes(tmp_path):
    data = pv.load_data(folder_of(tmp_path / "pets", ["dog", "cat"]), test=4)
    figure = PICTURES["scatter"](pv.pairs.latent(data.spec, latent=2, hidden=[4]), data)
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names >= {"class 0 cat", "class 1 dog"}


def test_many_classes_are_cut():
    assert listed_classes([f"c{i}" for i in range(40)], most=3) == "0 c0, 1 c1, 2 c2, ... 39 c39"


def test_numbers_as_names_that_begin_at_one(tmp_path):
    with pytest.warns(DataNote, match="classes are numbered from 0"):
        data = pv.load_data(folder_of(tmp_path / "d", ["1", "2", "10"]))
    assert data.spec.class_list == "0 1, 1 2, 2 10"


def test_resized_images(tmp_path):
    folder = folder_of(tmp_path / "d", ["a"])
    assert "images 1x6x6 (resized), 256 levels" in repr(pv.load_data(folder, image_size=6))
    assert "resized" not in repr(pv.load_data(folder))


def test_labels_from_one_leave_a_class_empty():
    with pytest.warns(DataNote, match="y begins with class 1, so class 0 has no data"):
        pv.load_data({"x": RNG.random((30, 4)), "y": np.arange(30) % 3 + 1})


def test_whole_numbers_that_may_be_grey_levels():
    with pytest.warns(DataNote, match="say so with levels=256"):
        data = pv.load_data({"x": RNG.integers(0, 256, (30, 8, 8))})
    assert data.spec.support == "real"
    assert pv.load_data({"x": RNG.integers(0, 256, (30, 8, 8))}, levels=256).spec.levels == 256


def test_tables_that_are_images_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=RNG.random((30, 192)).astype("f4"))
    words = ["check", "latent", "--latent", "2", "--net", "conv", "--data", "d.npz"]
    assert main(words) == 2
    assert "--image channels,height,width" in capsys.readouterr().err
    assert main([*words, "--image", "3,8,8"]) == 0
    assert main([*words, "--image", "[3, 8, 8]"]) == 0
    assert main([*words, "--image", "3,8,9"]) == 2
    assert main([*words, "--image", "3,64"]) == 2


@pytest.mark.parametrize("image", [(192,), (3, 64), (0, 8, 8), (-3, -8, 8), (1, 3, 8, 8)])
def test_shapes_that_are_none(image):
    with pytest.raises(DataError, match="image"):
        pv.load_data({"x": RNG.random((30, 192))}, image=image)
