"""Columns of numbers and of categories: log p(x) against sums and integrals, and pairs that take them."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import torch

import pyro_vae as pv
from pyro_vae.conditionals import Columns, Conditional, Normal, OfSeen, Poisson
from pyro_vae.distributions import Beside
from pyro_vae.evidence import meaning_of
from pyro_vae.nets import MLP
from pyro_vae.program import PairError

pytestmark = pytest.mark.filterwarnings("ignore:.*columns of categories are one-hot", "ignore:.*whole numbers from 0")

GENERATOR = np.random.default_rng(0)
SIZE = 400
KIND = GENERATOR.integers(0, 3, SIZE)
FRAME = pd.DataFrame(
    {
        "kind": np.array(["ash", "birch", "cedar"])[KIND],
        "height": 1e3 + 20 * KIND - 5 * GENERATOR.normal(size=SIZE),
        "width": 0.1 * GENERATOR.normal(size=SIZE),
        "old": GENERATOR.random(SIZE) < 0.2 + 0.3 * (KIND == 1),
    }
)


@pytest.fixture(scope="module")
def data():
    return pv.load_data(FRAME)


def one_hot(sizes):
    """All one-hot rows of columns of these sizes."""
    rows = itertools.product(*(torch.eye(size, dtype=torch.float64) for size in sizes))
    return torch.stack([torch.cat(row) for row in rows])


@pytest.mark.parametrize("numbers", [None, Normal(2, "fixed"), Poisson(2)])
def test_probabilities_of_all_categories_add_up_to_what_the_numbers_have(numbers):
    head = Columns(numbers, [3, 2, 4])
    torch.manual_seed(0)
    parameters = torch.randn(5, head.size, dtype=torch.float64)
    rows = one_hot([3, 2, 4])
    first = torch.tensor([[1.0, 2.0]], dtype=torch.float64).expand(len(rows), 2)
    value = rows if numbers is None else torch.cat([first, rows], 1)
    log_p = head(parameters).log_prob(value[:, None])
    wanted = 0.0 if numbers is None else numbers(parameters[:, : numbers.size]).log_prob(first[0])
    assert torch.allclose(log_p.logsumexp(0), torch.as_tensor(wanted, dtype=torch.float64).expand(5), atol=1e-12)


def by_hand(pair, spec, z, x):
    """log p(x | z) of one datum at many z, (points,), from the decoder's numbers and scipy."""
    head = pair.model.decoder.head
    with torch.no_grad():
        out = pair.model.decoder.net(z[:, None].float()).double().numpy()
    units, normal = head.numbers.units, head.numbers.head
    scale = float(normal(torch.zeros(2)).stddev.detach()[0])
    loc = units.loc.numpy() + units.scale.numpy() * out[:, :2]
    total = scipy.stats.norm.logpdf(x[:2], loc, units.scale.numpy() * scale).sum(1)
    for column in spec.categorical:
        logits = out[:, column.start : column.place.stop]
        total += (scipy.special.log_softmax(logits, 1) * x[column.place]).sum(1)
    return total


def test_the_evidence_is_the_integral_over_z(data):
    torch.manual_seed(0)
    pair = pv.pairs.latent(data.spec, latent=1, hidden=[8])
    with torch.no_grad():  # so that z matters
        pair.model.decoder.net.last.weight.normal_(0, 0.7)
    batch = data.batch("test", 6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = torch.tensor(nodes)
    found = pv.log_evidence(pair, batch, num_samples=3000).estimate
    for i, x in enumerate(batch["x"].double().numpy()):
        exact = scipy.special.logsumexp(by_hand(pair, data.spec, z, x), b=weights / weights.sum())
        assert float(found[i]) == pytest.approx(exact, abs=0.05)


def test_it_begins_at_the_shares_of_the_training_data(data):
    torch.manual_seed(0)
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[8])
    with torch.no_grad():
        pair.model.decoder.net.last.weight.zero_()
        fn = pair.model.decoder(torch.zeros(1, 2))
    assert torch.allclose(fn.mean[0], data.spec.mean, rtol=1e-4)
    assert isinstance(fn, Beside)
    assert not fn.support.is_discrete
    assert fn.sample((7,)).shape == (7, 1, data.spec.features)
    assert fn.support.check(fn.sample((7,))).all()
    assert not fn.support.check(torch.zeros(data.spec.features))


@pytest.mark.slow
def test_training_finds_which_category_goes_with_which_number(data):
    torch.manual_seed(0)
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[32])
    fitted = pv.fit(pair, data, epochs=40, batch_size=64, lr=0.01, compile="off", progress=False)
    drawn = fitted.sample(4000)
    assert all((drawn[:, column.place].sum(1) == 1).all() for column in data.spec.categorical)
    for k, category in enumerate(("ash", "birch", "cedar")):
        kept = drawn[drawn[:, 2 + k] == 1]
        theirs = FRAME[FRAME.kind == category]
        assert len(kept) / 4000 == pytest.approx(len(theirs) / SIZE, abs=0.08)
        assert float(kept[:, 0].mean()) == pytest.approx(theirs.height.mean(), abs=8)


def test_a_missing_category_counts_for_nothing():
    head = Columns(Normal(2, "fixed"), [3, 2])
    torch.manual_seed(0)
    decoder = OfSeen(Conditional(MLP(4, head.size, (8,)), head))
    z = torch.randn(5, 4)
    x = torch.tensor([0.3, -1.0, 0, 1, 0, 1, 0])
    seen = torch.tensor([True, False, False, False, False, True, True])
    whole, part = decoder(z), decoder(z, seen.expand(5, 7))
    numbers, _, last = whole.parts
    wanted = numbers.base_dist.log_prob(x[:2])[:, 0] + last.log_prob(x[5:])
    assert torch.allclose(part.log_prob(x), wanted)
    for other in (0.0, 1e3):
        assert torch.equal(part.log_prob(torch.where(seen, x, other)), part.log_prob(x))
    assert torch.allclose(part.unmasked.log_prob(x), whole.log_prob(x))
    assert part._mask is not None
    assert whole._mask is None


def test_a_table_with_missing_entries_is_trained_on_and_filled_in():
    frame = FRAME.astype({"old": object}).copy()
    frame.loc[GENERATOR.random(SIZE) < 0.2, "kind"] = None
    frame.loc[GENERATOR.random(SIZE) < 0.2, "height"] = np.nan
    with pytest.warns(match="entries of x are missing"):
        data = pv.load_data(frame, missing="mark")
    torch.manual_seed(0)
    pair = pv.pairs.incomplete(data.spec, latent=2, hidden=[32])
    fitted = pv.fit(pair, data, epochs=25, batch_size=64, lr=0.01, compile="off", progress=False)
    assert meaning_of(pair, data.batch("test")).evidence == "log p(x where seen)"
    hidden = FRAME.astype({"old": object}).assign(kind=None)
    filled = fitted.reconstruct(hidden)[:, 2:5]
    assert torch.allclose(filled.sum(1), torch.ones(SIZE), atol=1e-5)
    right = float((filled.argmax(1).numpy() == KIND).mean())
    usual = max(np.bincount(KIND)) / SIZE
    assert right > usual + 0.3


@pytest.mark.parametrize("name", ["flow", "autoencoder", "hierarchical", "quantized", "semi_amortized", "incomplete"])
def test_other_pairs_take_them(name, data):
    options = {"hidden": [4]}
    pair = getattr(pv.pairs, name)(data.spec, **options)
    pv.check_pair(pair, data.batch("train", 8))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        *(
            (name, {}, f"the pair {name} has no likelihood")
            for name in ("linear", "mixture", "reversible", "diffusion")
        ),
        ("boltzmann", {}, "the pair boltzmann has no likelihood for columns of categories, and arrays has kind, old"),
        ("autoregressive", {}, "one feature after the other has no likelihood for columns of categories"),
        ("latent", {"decoder": "autoregressive"}, "one feature after the other has no likelihood"),
        ("grouped", {"items": 7}, "a grouped pair has no likelihood"),
    ],
)
def test_pairs_that_cannot_are_refused_in_a_sentence(name, options, said, data):
    with pytest.raises(PairError, match=said):
        getattr(pv.pairs, name)(data.spec, **options)


def test_the_likelihood_of_the_numbers_is_chosen_by_name():
    frame = FRAME[["kind"]].assign(visits=GENERATOR.poisson(3, SIZE))
    spec = pv.load_data(frame).spec
    head = pv.pairs.latent(spec, likelihood="poisson", hidden=[4]).model.decoder.head
    assert isinstance(head.numbers, Poisson)
    assert head.categories == [3]
    alone = pv.load_data(FRAME[["kind"]]).spec
    assert pv.pairs.latent(alone, hidden=[4]).model.decoder.head.numbers is None
    with pytest.raises(PairError, match="leave --likelihood out"):
        pv.pairs.latent(alone, likelihood="normal", hidden=[4])
