"""Codes of data are data: a second pair trains on what a first has learned."""

import json

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.evidence import posterior_means
from pyro_vae.posterior.codes import encode
from pyro_vae.posterior.latents import centres


@pytest.fixture(scope="module")
def data():
    return pv.load_data("digits")


def test_codes_are_the_posterior_means_of_every_split_beside_the_other_fields(data):
    pair = pv.pairs.PAIRS["latent"](data.spec, latent=3, hidden=[8])
    codes = encode(pair, data, idle=True)
    assert set(codes) == {f"{field}_{split}" for field in "xy" for split in ("train", "valid", "test")}
    for split in ("train", "valid", "test"):
        batch = data.batch(split)
        torch.testing.assert_close(torch.tensor(codes[f"x_{split}"]), posterior_means(pair, batch)["z"])
        assert (codes[f"y_{split}"] == batch["y"].numpy()).all()


@pytest.mark.slow
def test_draws_have_the_posterior_as_their_distribution(data):
    pair = pv.pairs.PAIRS["linear"](data.spec, latent=2)
    batch = data.batch("test")
    q = pair.guide.posterior(batch["x"])
    drawn = np.stack([encode(pair, data, draws=True, idle=True, seed=10_000 * i)["x_test"] for i in range(60)])
    means = encode(pair, data, idle=True)["x_test"]
    spread = drawn.std(0, ddof=1)
    assert np.abs((drawn.mean(0) - means) / (spread / 60**0.5)).max() < 5
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_allclose(spread.mean(0), q.stddev.mean(0).detach(), rtol=0.1)


def test_dimensions_that_are_not_in_use_are_left_out(data):
    pair = pv.pairs.PAIRS["latent"](data.spec, latent=3, hidden=[8])
    last = (
        pair.guide.encoder.net[-1].last
        if hasattr(pair.guide.encoder.net, "__getitem__")
        else pair.guide.encoder.net.last
    )
    with torch.no_grad():
        last.weight[1], last.bias[1] = 0.0, 0.7  # E[z_1 | x] is .7 whatever x is
        last.weight[[0, 2]] = torch.randn_like(last.weight[[0, 2]])
    whole = encode(pair, data, idle=True)["x_train"]
    assert whole.var(0)[1] < 1e-6 < 0.01 < whole.var(0)[[0, 2]].min()
    for draws in (False, True):
        kept = encode(pair, data, draws=draws)
        np.testing.assert_array_equal(kept["x_train"], encode(pair, data, draws=draws, idle=True)["x_train"][:, [0, 2]])
        assert kept["x_test"].shape[1] == 2
    with torch.no_grad():
        last.weight[:3] = 0.0
    with pytest.raises(pv.PairError, match="none of the 3 latent dimensions is in use"):
        encode(pair, data)


def test_levels_stand_side_by_side_from_the_top(data):
    pair = pv.pairs.PAIRS["hierarchical"](data.spec, latent=[4, 2], hidden=[8])
    codes = encode(pair, data, idle=True)["x_test"]
    found = centres(pair, data.batch("test"))
    torch.testing.assert_close(torch.tensor(codes), torch.cat([found["z2"], found["z1"]], -1))


@pytest.mark.slow
def test_a_second_pair_trains_on_the_codes_of_a_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "latent", "--latent", "3", "--hidden", "[8]", "--epochs", "1", "--run", "one", "--json"]) == 0
    capsys.readouterr()
    assert main(["encode", "one", "--out", "codes.npz", "--idle", "true", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"codes": "codes.npz", "num_data": 1797, "latent": 3, "what": "means of q(z | x)"}
    second = ["semi_supervised", "--data", "codes.npz", "--labels", "100", "--hidden", "[8]", "--epochs", "1"]
    assert main(["train", *second, "--run", "two", "--json"]) == 0
    assert main(["encode", "one", "--out", "codes.txt"]) == 2
    assert "must end in .npz, got codes.txt" in capsys.readouterr().err
