"""What belongs to a pair: nets wherever they lie, parameters of Pyro's global store, states loaded before the first run, modes."""

import functools
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_vae as pv
from pyro_vae.program import reachable, require_sound, require_trainable

D, Z, B = 5, 2, 12
X = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
BATCH = {"x": X}


def nets():
    return nn.Sequential(nn.Linear(Z, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, D)), nn.Linear(D, Z)


def model_with(dec, x):
    pyro.module("dec", dec)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(dec(z), 1.0).to_event(1), obs=x)


def guide_with(enc, x):
    pyro.module("enc", enc)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(enc(x), 0.5).to_event(1))


class Holder:
    """Programs whose nets are what ``find`` returns of ``held``."""

    def __init__(self, held, find):
        self.held, self.find = held, find

    def model(self, x):
        model_with(self.find(self.held)[0], x)

    def guide(self, x):
        guide_with(self.find(self.held)[1], x)


@dataclass
class Parts:
    dec: nn.Module
    enc: nn.Module
    more: dict = field(default_factory=dict)


class Slots:
    __slots__ = ("dec", "enc")

    def __init__(self, dec, enc):
        self.dec, self.enc = dec, enc


def closure(dec, enc):
    return lambda x: model_with(dec, x), lambda x: guide_with(enc, x)


def nested(dec, enc):
    inner, outer = closure(dec, enc)

    def model(x):
        inner(x)

    return model, lambda x: outer(x)


def hidden_in_module(dec, enc):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = [dec]
            self.enc = enc

        def model(self, x):
            model_with(self.nets[0], x)

        def guide(self, x):
            guide_with(self.enc, x)

    both = Both()
    return both.model, both.guide


def held(make, find):
    def programs(dec, enc):
        holder = Holder(make(dec, enc), find)
        return holder.model, holder.guide

    return programs


def default(dec, enc):
    def model(x, *, net=(dec,)):
        model_with(net[0], x)

    return model, functools.partial(guide_with, enc)


def named(nets):
    return nets.dec, nets.enc


def _both(one, other):
    return one, other


def of_class(dec, enc):
    class Both:
        nets = dec
        more = enc

        def model(self, x):
            model_with(self.nets, x)

        def guide(self, x):
            guide_with(self.more, x)

    return Both().model, Both().guide


PLACES = {
    "closure": closure,
    "attributes of a class": of_class,
    "keys with dots": held(lambda d, e: {"a": d, "a.0": e}, lambda n: (n["a"], n["a.0"])),
    "arguments of one partial": held(lambda d, e: functools.partial(_both, d, e), lambda n: n()),
    "arguments beside a part of their name": held(lambda d, e: functools.partial(_both, e, d), lambda n: n()[::-1]),
    "functions in functions": nested,
    "partial": lambda dec, enc: (functools.partial(model_with, dec), functools.partial(guide_with, enc)),
    "handler": lambda dec, enc: tuple(poutine.scale(f, scale=1.0) for f in closure(dec, enc)),
    "dict": held(lambda d, e: {"dec": d, "enc": e}, lambda n: (n["dec"], n["enc"])),
    "list in a dict": held(lambda d, e: {"nets": [d, e]}, lambda n: n["nets"]),
    "deque": held(lambda d, e: deque([d, e]), lambda n: n),
    "dataclass": held(Parts, named),
    "dict in a dataclass": held(lambda d, e: Parts(None, None, {1: d, 2: e}), lambda n: (n.more[1], n.more[2])),
    "object in an object": held(lambda d, e: SimpleNamespace(part=Slots(d, e)), lambda n: named(n.part)),
    "list in a module": hidden_in_module,
    "default argument": default,
}


@pytest.mark.parametrize("place", PLACES)
def test_nets_are_found_wherever_they_lie(place):
    dec, enc = nets()
    model, guide = PLACES[place](dec, enc)
    bind = ["x"] if place == "handler" else []  # a handler hides the names of the fields
    pair = pv.Pair(_fields(model) if bind else model, _fields(guide) if bind else guide)
    seen = set()
    dec[2].register_forward_pre_hook(lambda m, i: seen.add(m.training))
    pv.log_evidence(pair, BATCH, num_samples=4, compile="off")
    assert seen == {False}
    assert dec[2].training
    assert len([n for n in pair.state_dict() if n.endswith("running_mean")]) == 1
    assert len(pair.named_parameters()) == 8
    assert not pv.find_problems(pair, BATCH)
    assert dec[2].training


def _fields(program):
    return lambda x: program(x)


def test_a_net_that_cannot_be_found_is_refused():
    dec, enc = nets()
    store = {"dec": dec}
    library = type("Library", (), {"get": store.__getitem__})  # a method of a dictionary holds it, in C

    def model(x):
        model_with(library.get("dec"), x)

    problems = pv.find_problems(pv.Pair(model, closure(dec, enc)[1]), BATCH)
    assert "runs a Sequential that cannot be found" in str(problems[0])


decoder = nn.Linear(3, 3)  # a stray global with the name of an attribute
SHELF = {"other": nn.Linear(3, 3)}


def test_only_globals_that_are_read_count_and_idle_nets_are_no_mistake():
    class Nets(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder = nets()

    vae = Nets()

    def model(x):
        SHELF.get("nothing")
        model_with(vae.decoder, x)

    def guide(x):
        guide_with(vae.encoder, x)

    pair = pv.Pair(model, guide)
    assert not pv.find_problems(pair, BATCH)
    assert all(module is not decoder for module in pair.modules().values())


def noisy(x):
    scale = pyro.param("scale", torch.tensor(5.0), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)


def looking(x):
    loc = pyro.param("loc", lambda: torch.zeros(D))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def trained(value):
    """Run Pyro's programs in the global store and set what they begin with."""
    noisy(X)
    pyro.get_param_store()["scale"] = torch.tensor(value)


@pytest.mark.filterwarnings("error")
def test_an_assertion_that_pytest_rewrote_leads_to_nothing_of_pytests(monkeypatch):
    """A program's assertion names a module of pytest's, and that reaches every test of the session."""
    visited = []
    within = reachable._within
    monkeypatch.setattr(reachable, "_within", lambda thing: visited.append(thing) or within(thing))
    net = nn.Linear(2, 2)

    def model(x):
        assert x.shape == (len(x), 2)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x), 1.0).to_event(1), obs=x)

    assert list(reachable.modules_of(model).values()) == [net]
    assert len(visited) < 10, [type(thing) for thing in visited[:30]]


def test_what_was_trained_in_the_global_store_is_there_and_stays_the_same_tensor():
    trained(0.5)
    pair = pv.Pair(noisy, looking)
    known = pv.elbo(pv.Pair(lambda x: _fixed(x, 0.5), looking), BATCH, seed=0).elbo
    assert pv.elbo(pair, BATCH, seed=0).elbo == pytest.approx(known)
    with torch.no_grad():
        dict(pyro.get_param_store().named_parameters())["scale"].fill_(0.0)  # trained on
    known = pv.elbo(pv.Pair(lambda x: _fixed(x, 1.0), looking), BATCH, seed=0).elbo
    assert pv.elbo(pair, BATCH, seed=0).elbo == pytest.approx(known)
    tree = pv.to_datatree(pv.Pair(noisy, AutoNormal(noisy)), BATCH, num_samples=50)
    assert float((tree["posterior_predictive"]["x"]).std()) < 2


def _fixed(x, scale):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)


def test_a_pair_that_began_before_the_script_says_that_its_values_are_its_own():
    pair = pv.Pair(noisy, looking)
    pv.elbo(pair, BATCH)
    trained(0.5)
    with pytest.warns(UserWarning, match=r"noisy has a parameter 'scale' of its own.*build it anew") as told:
        pv.elbo(pair, BATCH)
    assert {warning.filename for warning in told} == {__file__}  # the program's own line


def test_a_parameter_of_another_shape_is_another_parameter():
    pyro.param("loc", torch.zeros(3))
    pyro.param("scale", torch.tensor(0.5))
    pv.elbo(pv.Pair(noisy, looking), BATCH)


def test_states_load_before_the_first_run():
    first = pv.Pair(noisy, looking)
    pv.elbo(first, BATCH)
    with torch.no_grad():
        for p in first.named_parameters().values():
            p.add_(1.0)
    other = pv.Pair(noisy, looking)
    other.load_state_dict(first.state_dict())
    assert other.state_dict().keys() == first.state_dict().keys()
    state = torch.get_rng_state()
    assert pv.elbo(other, BATCH, seed=1) == pv.elbo(first, BATCH, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    wrong = pv.Pair(noisy, looking)
    wrong.load_state_dict({**first.state_dict(), "param.more": torch.zeros(2)})
    with pytest.raises(pv.PairError, match=r"1 names differ, first 'param.more'"):
        pv.elbo(wrong, BATCH)


def test_autoguides_and_lazy_nets_load_before_the_first_run():
    def pair():
        net = nn.LazyLinear(D)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

        return pv.Pair(model, AutoNormal(model))

    pairs = [pair(), pair()]
    pv.elbo(pairs[0], BATCH)
    pairs[1].load_state_dict(pairs[0].state_dict())
    assert pv.elbo(pairs[1], BATCH, seed=1) == pv.elbo(pairs[0], BATCH, seed=1)


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal])
def test_an_autoguide_gets_the_fields_of_its_model(auto):
    def model(x, labelled=None):
        assert labelled is not None
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + torch.zeros(D), 1.0).to_event(1), obs=x)

    batch = {**BATCH, "y": torch.zeros(len(BATCH["x"])), "labelled": torch.ones(len(BATCH["x"]), dtype=torch.bool)}
    pair = pv.Pair(model, auto(model))
    assert pair.bound_guide.arguments(batch).keys() == {"x", "labelled"}
    if auto is AutoNormal:  # the other's one site lies outside the plate
        assert pv.elbo(pair, batch).sites.keys() >= {"z", "x"}
        require_sound(pair, batch)
        with pytest.raises(
            pv.PairError, match=r"is a parameter for each of the 12 data of a batch, and the programs fail on 6: "
        ):
            require_trainable(pair, batch)


def test_a_state_of_pyros_store_is_taken_right_or_refused():
    trained(0.5)
    looking(X)
    pair = pv.Pair(noisy, looking)
    pv.elbo(pair, BATCH)
    with pytest.raises(pv.PairError, match="names of Pyro's parameter store"):
        pair.load_state_dict(dict(pyro.get_param_store().items()))
    pair.load_state_dict({"param.scale": pyro.param("scale"), "param.loc": pyro.param("loc")})  # constrained values
    assert pair.state_dict()["param.scale"].item() == pytest.approx(torch.tensor(0.5).log().item())
    for model in (noisy, closure(*nets())[0]):
        with pytest.raises(pv.PairError, match="names of Pyro's parameter store"):  # before the first run, too
            pv.Pair(model, looking).load_state_dict(dict(pyro.get_param_store().items()))


def test_frozen_parts_keep_evaluation_mode_and_all_modules_theirs():
    dec, enc = nets()
    frozen = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D)).requires_grad_(False).eval()
    pair = pv.Pair(closure(dec, enc)[0], lambda x: guide_with(enc, frozen(x)))
    dec[2].eval()
    pv.check_pair(pair.model, pair.guide, BATCH)
    assert dec.training
    assert not dec[2].training
    assert not frozen[1].training
    before = frozen[1].running_mean.clone()
    pv.fit(pair, {"x": X.repeat(2, 1)}, epochs=1, batch_size=8, compile="off")
    assert torch.equal(frozen[1].running_mean, before)
    pair.train()
    assert dec[2].training
    assert not frozen.training


class Held(PyroModule):
    """A model with parameters of its own, which Pyro's store makes trainable when they are first read."""

    def __init__(self):
        super().__init__()
        self.loc, self.weight = nn.Parameter(torch.zeros(D)), nn.Parameter(torch.ones(Z, D))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight + self.loc, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("checked", [False, True])
def test_what_a_pyro_module_holds_itself_stays_frozen_too(checked):
    model, enc = Held(), nets()[1]
    model.weight.requires_grad_(False)
    pair = pv.Pair(model, lambda x: guide_with(enc, x))
    if checked:
        pv.check_pair(pair, BATCH)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    pv.fit(pair, {"x": X.repeat(2, 1)}, epochs=2, batch_size=8, compile="off")
    after = pair.state_dict()
    assert not model.weight.requires_grad
    assert model.weight.grad is None
    assert torch.equal(after["model.weight"], before["model.weight"])
    assert not torch.equal(after["model.loc"], before["model.loc"])
    model.requires_grad_(True)
    pv.elbo(pair, BATCH)
    assert model.weight.requires_grad


def test_predictive_takes_the_bound_programs():
    trained(0.5)
    pair = pv.Pair(noisy, looking)
    pv.elbo(pair, BATCH)
    drawn = Predictive(pair.bound_model, guide=pair.bound_guide, num_samples=20)(BATCH)
    assert drawn["z"].shape == (20, B, D)
