"""Densities p(x) as pairs: exact evidence, what is refused, and the same head given z."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from zoo import BINARY, batch, spec

import pyro_vae as pv
from pyro_vae.conditionals import FullCovariance
from pyro_vae.evidence import evaluate
from pyro_vae.evidence.figures import remarks, rows
from pyro_vae.program import PairError

REAL = spec()
TABLE = replace(REAL, image=None)
LEVELS = replace(spec(support="binary"), support="levels", levels=17)


def test_log_p_is_exact_and_the_elbo() -> None:
    torch.manual_seed(0)
    pair, x = pv.pairs.autoregressive(BINARY, hidden=[8]), batch(BINARY)["x"].float()
    evidence = pv.log_evidence(pair, {"x": x})
    assert evidence.proposal == "exact"
    assert not evidence.stderr.any()
    torch.testing.assert_close(evidence.estimate, pair.model.density().log_prob(x).double())
    assert pv.elbo(pair, {"x": x}).elbo == pytest.approx(evidence.mean)


def test_the_unit_of_the_data_does_not_matter() -> None:
    x = batch(REAL)["x"].float()
    found = []
    for unit in (1.0, 1000.0):
        torch.manual_seed(0)
        pair = pv.pairs.autoregressive(replace(REAL, mean=unit * REAL.mean, std=unit * REAL.std), hidden=[8])
        found.append(pv.log_evidence(pair, {"x": unit * x}).mean + 16 * math.log(unit))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(("about", "expected"), [(BINARY, "Bernoulli"), (REAL, "Normal"), (LEVELS, "Categorical")])
def test_the_usual_likelihood_suits_the_data(about, expected) -> None:
    head = pv.pairs.autoregressive(about, hidden=[8]).model.density.head
    head = getattr(head, "head", head)  # in units
    assert type(getattr(head, "head", head)).__name__ == expected


def test_many_levels_are_a_logistic_mixture() -> None:
    pair = pv.pairs.autoregressive(replace(LEVELS, levels=256), hidden=[8])
    assert type(pair.model.density.head.head).__name__ == "DiscretizedLogisticMixture"


def test_a_random_order_is_that_of_its_seed() -> None:
    orders = [
        pv.pairs.autoregressive(BINARY, hidden=[8], order="random", order_seed=seed).model.density.head.net.order
        for seed in (None, 0, 1)
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_a_given_order_is_taken() -> None:
    order = np.random.default_rng(0).permutation(16).tolist()
    pair = pv.pairs.autoregressive(BINARY, hidden=[8], order=order)
    assert pair.model.density.head.net.order.tolist() == order
    assert pair.recipe["options"]["order"] == order


REFUSED = [
    (BINARY, {"order": [0, 1, 2]}, "order has 3 numbers and x of test has 16 features"),
    (BINARY, {"order": [0] * 16}, "order is no permutation: it lacks 1, 2, 3, 4, 5 and others"),
    (BINARY, {"order": [*range(15), 16]}, "order is no permutation: it lacks 15"),
    (BINARY, {"order": [*range(15), -1]}, "order must be at least 0"),
    (BINARY, {"order": "sideways"}, "order must be one of raster, random"),
    (BINARY, {"order": list(range(16)), "net": "pixelcnn"}, "order of 16 numbers is not that of a PixelCNN"),
    (BINARY, {"order": list(range(16)), "order_seed": 1}, "--order is given; leave --order-seed out"),
    (TABLE, {"net": "pixelcnn"}, "a PixelCNN needs images, and test has 16 features without a shape; use --net made"),
    (BINARY, {"net": "pixelcnn", "hidden": []}, "a PixelCNN needs at least one layer of at least 1 channels"),
    (BINARY, {"field": 0}, "field must be at least 1"),
    (REAL, {"likelihood": FullCovariance(16)}, "FullCovariance has no autoregressive form"),
    (REAL, {"likelihood": FullCovariance(3)}, "has 3 features, and x of test has 16"),
    (REAL, {"likelihood": "categorical"}, "needs data on equally spaced levels"),
    (BINARY, {"hidden": [], "activation": "tanh"}, "follows a hidden layer, and --hidden is []"),
]


@pytest.mark.parametrize(("about", "options", "said"), REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(about, options, said) -> None:
    with pytest.raises(PairError) as refusal:
        pv.pairs.autoregressive(about, **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_decoder_of_convolutions_needs_images() -> None:
    with pytest.raises(PairError, match=r"a convolutional net needs images.*use mlp"):
        pv.pairs.latent(TABLE, decoder="autoregressive", net="conv")


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_a_field_that_limits_nothing_is_refused(net) -> None:
    said = r"no two pixels of x are more than 3 apart; give 3 at most"
    for field in (4, 10**9):
        with pytest.raises(PairError, match=f"field {field} limits nothing: {said}"):
            pv.pairs.latent(BINARY, latent=2, decoder="autoregressive", net=net, field=field)
        with pytest.raises(PairError, match=said):
            pv.pairs.autoregressive(BINARY, net="pixelcnn" if net == "conv" else "made", field=field)
    pv.pairs.autoregressive(BINARY, net="made", hidden=[30], field=3)
    with pytest.raises(PairError, match=f"no two features of x are more than {TABLE.features - 1} apart"):
        pv.pairs.autoregressive(TABLE, field=TABLE.features)


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_a_field_limits_what_a_decoder_sees_beside_z(net) -> None:
    options = {} if net == "conv" else {"hidden": [30]}
    torch.manual_seed(0)
    pair = pv.pairs.latent(BINARY, latent=2, decoder="autoregressive", net=net, field=1, **options)
    masked = pair.model.decoder.head.net
    with torch.no_grad():
        for parameter in masked.parameters():
            parameter.normal_()
    seen = torch.autograd.functional.jacobian(masked, torch.rand(16)) != 0
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    far = ((row.unsqueeze(-1) - row).abs() > 1) | ((column.unsqueeze(-1) - column).abs() > 1)
    assert seen.any()
    assert not seen[far].any()


def test_the_error_of_a_draw_is_no_reconstruction_error_and_an_idle_z_is_said() -> None:
    x = (np.random.default_rng(0).random((40, 6)) < 0.4).astype(np.float32)
    data = pv.load_data({"x_train": x, "x_valid": x[:10], "x_test": x[10:30]})
    torch.manual_seed(0)
    figures = evaluate(pv.pairs.latent(data.spec, latent=2, hidden=[8], decoder="autoregressive"), data, num_samples=50)
    assert figures.rms_error is None
    idle = [remark for remark in remarks(replace(figures, kl=0.72)) if "0.72 nats: z says little of x" in remark]
    assert len(idle) == 1
    assert not any("says little" in remark for remark in remarks(replace(figures, kl=5.1)))


@pytest.mark.parametrize(("name", "options"), [("autoregressive", {}), ("bayes_net", {"graph": "chain"})])
def test_parts_that_an_elbo_without_a_q_does_not_have_are_left_out(name, options, capsys) -> None:
    """The evidence itself is trained: nothing is drawn, or the model's own sum runs over all that is latent."""
    x = (np.random.default_rng(0).random((60, 4)) < 0.5).astype(np.float32)
    data = pv.load_data({"x": x})
    fitted = pv.fit(pv.pairs.find(name)(data.spec, **options), data, epochs=2, compile="off", progress=True)
    assert " validation log p(x) -" in (said := capsys.readouterr().err)
    assert " = " not in said
    assert all(math.isnan(row["kl"]) and math.isnan(row["reconstruction"]) for row in fitted.history)
    assert [row["elbo"] for row in fitted.history] == pytest.approx([-3.4, -3.4], abs=1)
    assert len(pv.plots.curves(fitted).axes) == 1
    figures = evaluate(fitted.pair, data)
    assert [row.label for row in rows(figures)] == ["log p(x)"]
    verdicts = {verdict.check: verdict for verdict in pv.diagnose(fitted).verdicts}
    assert "ELBO" not in verdicts
    assert verdicts["log p(x) - ELBO"].advice == "no q enters the ELBO, which is log p(x)"
    with pytest.raises(PairError, match="reconstruct"):
        pv.plots.reconstructions(fitted)


def test_a_node_that_no_guide_infers_has_no_reconstruction() -> None:
    spec_of = pv.load_data("sprinkler").spec
    with pytest.raises(
        PairError, match="the guide does not infer 'cloud', 'sprinkler', 'rain', 'wet', so data have no"
    ):
        pv.pairs.bayes_net(spec_of).reconstruct(torch.zeros(3, 4), seen=torch.ones(3, 4).bool())
