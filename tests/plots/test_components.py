"""Pictures of mixtures, of tables and of expectation maximisation; and where they do not apply."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae import pairs, plots


def test_components_and_frames_are_those_of_the_mixture_and_leave_it_as_it_was():
    data = pv.load_data("digits")
    pair = pairs.mixture(data.spec, components=3)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    shown = plots.components(pair, data, count=2)
    bars = [axes for axes in shown.axes if axes.patches]
    q = pair.guide.encoder(data.batch("test", 2)["x"]).probs
    heights = torch.tensor([[bar.get_height() for bar in axes.patches] for axes in bars]).double()
    torch.testing.assert_close(heights, q.detach().double(), rtol=1e-5, atol=1e-6)
    frames = plots.frames(pair, data, steps=2)
    elbos = [float(label.get_text().split(": ")[1]) for label in frames.axes[0].get_yticklabels()]
    assert elbos == sorted(elbos)
    assert len(elbos) == 3
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_of_many_components_the_most_probable_are_shown():
    data = pv.load_data("digits")
    pair = pairs.mixture(data.spec, components=30)
    pair.model.prior.logits.data.copy_(torch.arange(30.0))
    shown = plots.components(pair, data, count=2)
    assert shown.axes[0].get_title() == "29\n63%"
    assert sum(bool(axes.images) and bool(axes.get_title()) for axes in shown.axes) == 20
    assert [len(axes.patches) for axes in shown.axes if axes.patches] == [30, 30]
    assert len(plots.frames(pair, data, steps=1).axes[0].get_xticklabels()) == 20


def test_steps_touch_and_climb():
    data = pv.load_data("sprinkler")
    fitted = pv.em(pairs.bayes_net(data.spec, start="random"), data, 3)
    lines = plots.steps(fitted.history).axes[0].lines
    assert list(lines[1].get_ydata()) == [-row["loss"] for row in fitted.history]
    assert list(lines[2].get_ydata()) == [row["m_step"] for row in fitted.history]


def test_tables_hold_the_probabilities():
    data = pv.load_data("sprinkler")
    words = "\n".join(text.get_text() for text in plots.tables(pairs.bayes_net(data.spec), data).axes[0].texts)
    assert "P(1|cloud=1) = 0.100" in words
    assert "P(1|sprinkler=1,rain=1) = 0.990" in words


def test_what_does_not_apply_says_so():
    data = pv.load_data("digits")
    for draw in (plots.components, plots.frames, plots.tables):
        with pytest.raises(plots.NotDrawable, match="draw `"):
            draw(pairs.latent(data.spec, hidden=[4]), data)
    with pytest.raises(plots.NotDrawable, match="this run has none; train with --optimizer em"):
        plots.steps([{"loss": 1.0}])
