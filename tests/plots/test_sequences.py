"""Pictures of sequences: what they show is what the pair and the data say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import pairs, plots
from pyro_vae.pairs.registry import PAIRS
from pyro_vae.posterior import reconstruct


def test_rolls_show_the_steps_that_are_there() -> None:
    data = pv.load_data("digit_rows")
    pair = PAIRS["markov"](data.spec, latent=2, hidden=4, posterior="filter")
    figure = plots.rolls(pair, data, count=2)
    batch = data.batch("test", 2)
    tiles = [axes.images[0].get_array() for axes in figure.axes]
    x = batch["x"].reshape(2, 8, 8)
    used = np.flatnonzero((x != 0).any(0).any(0))
    low, high = max(0, used[0] - 2), min(7, used[-1] + 2)
    np.testing.assert_allclose(tiles[0], x[0, :, low : high + 1].T)
    mean = reconstruct(pair, batch)["x"].reshape(2, 8, 8)
    np.testing.assert_allclose(tiles[3], mean[1, :, low : high + 1].T, rtol=1e-6)
    assert len(tiles) == 6


def test_states_of_a_linear_chain_that_sees_them_are_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.normal(size=(60, 9, 1)), 1).astype(np.float32)
    lengths = rng.integers(4, 10, 60)
    x = state + 0.01 * rng.normal(size=state.shape).astype(np.float32)
    data = pv.load_data({"x": x, "state": 3 * state.reshape(60, 9) + 1, "lengths": lengths})
    pair = PAIRS["markov"](data.spec, transition="linear", latent=1)
    with torch.no_grad():
        pair.model.emission.one.raw_scale.fill_(-4.0)
        pair.model.emission.one.weight.fill_(1.0)
    figure = plots.states(pair, data, count=2)
    true, guess = (line.get_ydata() for line in figure.axes[0].lines)
    assert len(true) == data.batch("test", 1)["mask"].sum()
    np.testing.assert_allclose(guess, true, atol=0.3)
    assert "explains 100 %" in figure.get_suptitle().replace("\n", " ")


def test_what_does_not_apply_says_so() -> None:
    digits, rows = pv.load_data("digits"), pv.load_data("digit_rows")
    pair = pairs.latent(digits.spec, hidden=[4])
    for draw in (plots.rolls, plots.states):
        with pytest.raises(plots.NotDrawable, match="digits are no sequences; draw `samples`"):
            draw(pair, digits)
    with pytest.raises(plots.NotDrawable, match="has no field 'state'"):
        plots.states(PAIRS["markov"](rows.spec, latent=2, hidden=4), rows)
    pendulum = pv.load_data("pendulum")
    with pytest.raises(plots.NotDrawable, match="a state for each step"):
        plots.states(pairs.latent(replace(pendulum.spec), latent=3, hidden=[4]), pendulum)
