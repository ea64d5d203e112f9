"""Pictures of one feature after the other, and what is left out where there is no latent variable."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.plots.features import until

IMAGES = pv.load_data(
    {
        f"x_{part}": (np.random.default_rng(0).random((20, 1, 6, 5)) < 0.4).astype(np.float32)
        for part in ("train", "valid", "test")
    }
    | {f"y_{part}": np.arange(20) % 3 for part in ("train", "valid", "test")}
)
TABLE = pv.load_data(
    {
        f"x_{part}": np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
        for part in ("train", "valid", "test")
    }
)


def tiles(figure, rows, columns, height=6, width=5, gap=1):
    """Return what a sheet shows, (rows, columns, height, width)."""
    shown = np.asarray(figure.axes[0].images[0].get_array())
    return np.stack(
        [
            [shown[i * (height + gap) :, j * (width + gap) :][:height, :width] for j in range(columns)]
            for i in range(rows)
        ]
    )


def density(data=IMAGES, **options):
    torch.manual_seed(0)
    return pv.pairs.autoregressive(data.spec, hidden=[8], **options)


@pytest.mark.parametrize("order", ["raster", "random"])
def test_samples_grow_in_the_model_s_order(order):
    pair = density(order=order)
    shown = tiles(plots.growth(pair, IMAGES, count=3, steps=4), 3, 4).reshape(3, 4, 30)
    places = pair.model.density.head.net.order.tolist()
    for stage, number in enumerate((0, 10, 20, 30)):
        drawn = until(places, number).numpy()
        assert drawn.sum() == number
        assert (shown[:, stage, ~drawn] == 0.5).all()
        assert np.isin(shown[:, stage, drawn], (0, 1)).all()
        assert (shown[:, stage, drawn] == shown[:, 3, drawn]).all()


def test_the_nats_of_the_pixels_sum_to_log_p():
    pair = density()
    figure = plots.nats(pair, IMAGES, count=4)
    costs = [np.asarray(axes.images[0].get_array()).sum() for axes in figure.axes[4:8]]
    expected = -pv.log_evidence(pair, IMAGES.batch("test", 4)).estimate
    np.testing.assert_allclose(costs, expected.numpy(), rtol=1e-4)
    assert (
        figure.get_suptitle().replace("\u00a0", " ")
        == "Nats per pixel: -log p(pixel | the pixels before it), test split"
    )
    assert [axes.get_xlabel() for axes in figure.axes[4:8]] == [f"{float(nats):.1f}" for nats in expected]


@pytest.mark.parametrize(("decoder", "said"), [("independent", "z"), ("autoregressive", "the pixels before it, z")])
def test_the_nats_of_a_latent_pair_are_given_z(decoder, said):
    pair = pv.pairs.latent(IMAGES.spec, latent=2, hidden=[8], decoder=decoder)
    assert f"pixel | {said})" in plots.nats(pair, IMAGES, count=2).get_suptitle().replace("\u00a0", " ")


@pytest.mark.parametrize("share", [0.5, 0.2, 0.0])
def test_completions_keep_the_first_part(share):
    pair = density(order="random")
    shown = tiles(plots.completions(pair, IMAGES, count=3, draws=5, given=share), 3, 7).reshape(3, 7, 30)
    known = until(pair.model.density.head.net.order.tolist(), round(30 * share)).numpy()
    x = IMAGES.batch("test", 3)["x"].numpy()
    assert (shown[:, 0] == x).all()
    assert (shown[:, 1, known] == x[:, known]).all()
    assert (shown[:, 1, ~known] == 0.5).all()
    assert (shown[:, 2:, known] == x[:, None, known]).all()
    assert shown[:, 2:, ~known].std(1).any()
    assert "exact" in plots.completions(pair, IMAGES, given=share).get_suptitle()


def test_completions_of_real_values_are_in_the_data_s_units():
    pair = density(TABLE)
    figure = plots.completions(pair, TABLE, count=2, draws=3)
    assert len(figure.axes) == 3  # a panel a datum, and the colours


@pytest.mark.parametrize("decoder", ["independent", "autoregressive"])
def test_a_draw_is_not_called_a_mean(decoder):
    pair = pv.pairs.latent(IMAGES.spec, latent=2, hidden=[8], decoder=decoder)
    rows = [label.get_text() for label in plots.samples(pair, IMAGES).axes[0].get_yticklabels()]
    assert set(rows) == ({"mean", "draw", "data"} if decoder == "independent" else {"draw", "data"})
    for name in ("reconstructions", "manifold", "interpolation", "traversal"):
        what = "mean of p(x |" if decoder == "independent" else "draw from p(x |"
        assert what in plots.PICTURES[name](pair, IMAGES).get_suptitle().replace("\u00a0", " "), name


@pytest.mark.parametrize(
    "name",
    ["reconstructions", "manifold", "scatter", "interpolation", "traversal", "analogies", "attributes", "levels", "kl"],
)
def test_what_needs_a_code_is_left_out_of_a_density(name):
    with pytest.raises(plots.NotDrawable, match=r"latent v|reads no field y"):
        plots.PICTURES[name](density(), IMAGES)


def test_the_guide_that_draws_nothing_is_drawn():
    figure = plots.graph(density(), IMAGES)
    assert [text.get_text() for text in figure.axes[1].texts] == ["draws nothing"]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.growth(pv.pairs.latent(IMAGES.spec, hidden=[8]), IMAGES), "one feature after the other"),
        (lambda: plots.growth(density(TABLE), TABLE), "growth is a picture of images"),
        (lambda: plots.nats(density(TABLE), TABLE), "nats are drawn of images"),
        (lambda: plots.completions(density(), IMAGES, given=1.0), "from 0 up to but not including 1, got 1"),
        (
            lambda: plots.completions(pv.pairs.structured(IMAGES.spec, hidden=[8]), IMAGES, given=0.3),
            "given is for models that draw x one feature after the other",
        ),
        (
            lambda: plots.completions(pv.pairs.latent(IMAGES.spec, hidden=[8], decoder="autoregressive"), IMAGES),
            "given no part of x",
        ),
    ],
)
def test_a_picture_that_does_not_apply_says_why(draw, said):
    with pytest.raises(plots.NotDrawable) as refused:
        draw()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
