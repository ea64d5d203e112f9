"""Pictures of a chain of levels: what they show, and where they do not apply."""

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.posterior import encode

IMAGES = pv.load_data(
    {
        f"x_{part}": (np.random.default_rng(0).random((16, 1, 4, 4)) < 0.4).astype(np.float32)
        for part in ("train", "valid", "test")
    }
)
TABLE = pv.load_data(
    {
        f"x_{part}": np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
        for part in ("train", "valid", "test")
    }
)
CHAINS = ("noising", "denoising", "few-steps", "nats-per-level")


def chain(data, **options):
    return pv.pairs.diffusion(data.spec, **{"steps": 12, "width": 8, "blocks": 1, **options}).train(False)


@pytest.mark.parametrize("data", [IMAGES, pytest.param(TABLE, marks=pytest.mark.slow)], ids=["images", "table"])
@pytest.mark.parametrize("what", [*CHAINS, "samples", "reconstructions"])
def test_pictures_of_a_chain_are_drawn(what, data):
    figure = plots.PICTURES[what](chain(data), data)
    figure.draw_without_rendering()
    assert figure.get_suptitle()
    assert all(axes.has_data() for axes in figure.axes)


@pytest.mark.parametrize("what", CHAINS)
def test_what_is_no_chain_of_noise_says_so(what):
    with pytest.raises(plots.NotDrawable, match="no denoiser"):
        plots.PICTURES[what](pv.pairs.latent(TABLE.spec, hidden=[4]), TABLE)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("what", CHAINS)
def test_a_chain_of_one_or_two_levels_is_one_too(what, steps):
    assert plots.PICTURES[what](chain(IMAGES, steps=steps), IMAGES).axes


@pytest.mark.parametrize("what", ["scatter", "kl", "levels", "traversal", "interpolation"])
def test_a_long_chain_has_no_code_to_draw(what):
    """A hundred vectors of the size of an image took 20 GB and minutes for pictures of nothing."""
    with pytest.raises(plots.NotDrawable, match="a chain of 12 latent vectors, none of which is a code by itself"):
        plots.PICTURES[what](chain(IMAGES), IMAGES)
    plots.PICTURES[what](chain(IMAGES, steps=3), IMAGES)


def test_codes_of_a_long_chain_are_refused():
    with pytest.raises(pv.PairError, match="none of which is a code by itself"):
        encode(chain(IMAGES), IMAGES)


def test_nats_per_level_are_those_of_the_elbo():
    """The area below the line and the ends add up to -ELBO, and no step has less than none."""
    pair = chain(IMAGES)
    figure = plots.nats_per_level(pair, IMAGES)
    heights, edges, _ = figure.axes[0].patches[-1].get_data()
    ends = [line.get_label() for line in figure.axes[0].lines if " term, " in line.get_label()]
    area = float((heights * np.diff(edges)).sum()) + sum(float(label.split(", ")[1]) for label in ends)
    assert (heights >= 0).all()
    assert area == pytest.approx(-pv.elbo(pair, IMAGES.batch("test")).elbo, abs=0.02)
