"""How fit is called and what it steps with: typed settings, own optimizers and schedules, averages, pieces of batches."""

import inspect
import typing
from functools import cache, partial

import numpy as np
import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.objectives import InPieces
from pyro_vae.training import SettingsError, Training


@pytest.fixture(scope="module")
def data():
    x = torch.randn(75, 4, generator=torch.Generator().manual_seed(0)) @ torch.arange(16.0).reshape(4, 4).cos()
    return pv.load_data({"x": x}, valid=15, test=0)


def trained(data, name="latent", **settings):
    torch.manual_seed(0)
    pair = getattr(pv.pairs, name)(data.spec, latent=2, hidden=[4])
    return pv.fit(pair, data, **{"epochs": 2, "batch_size": 25, "compile": "off", "precision": "64"} | settings)


@pytest.fixture(scope="module")
def named(data):
    """Train an epoch by an optimizer of a name, once for all tests."""
    return cache(lambda name: trained(data, optimizer=name, epochs=1))


def parameters(fitted):
    return torch.cat([p.detach().flatten() for p in fitted.pair.named_parameters().values()])


def close(one, other):
    return torch.allclose(parameters(one), parameters(other), rtol=1e-9, atol=1e-12)


def test_the_settings_are_typed_keywords_of_fit():
    keywords = inspect.signature(pv.fit).parameters
    kinds, own = typing.get_type_hints(Training), typing.get_type_hints(inspect.unwrap(pv.fit))
    for name in Training.names():
        assert keywords[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert keywords[name].default == getattr(Training, name)
        assert own[name] == kinds[name]
    assert [name for name in keywords if name in kinds] == Training.names()


SAME = [
    ("sgd", torch.optim.SGD),
    ("adam", lambda params: torch.optim.Adam(params, lr=Training.lr)),
    ("adam", pyro.optim.Adam({"lr": Training.lr})),
    ("adamax", lambda params: torch.optim.Adamax([{"params": [p]} for p in params], lr=Training.lr)),
]


@pytest.mark.parametrize(("name", "own"), SAME, ids=["class", "function", "Pyro", "groups"])
def test_an_own_optimizer_takes_the_steps_of_the_named_one(named, data, name, own):
    assert close(named(name), trained(data, optimizer=own, epochs=1))


def test_weight_decay_is_the_optimizers(data):
    own = trained(data, optimizer=partial(torch.optim.AdamW, lr=Training.lr, weight_decay=0.3))
    assert close(trained(data, optimizer="adamw", weight_decay=0.3), own)
    assert not close(trained(data, optimizer="adam", weight_decay=0.3), own)


def test_each_group_keeps_its_share_of_the_schedule(data):
    """A group of rate 0 stays where it was, whatever the other does, compiled or not."""
    torch.manual_seed(0)
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[4])
    named = pair.named_parameters()
    before = {name: p.detach().clone() for name, p in named.items()}

    def groups(params):
        held = [p for name, p in named.items() if name.startswith("guide")]
        rest = [p for p in params if not any(p is other for other in held)]
        return torch.optim.Adam([{"params": held, "lr": 0.0}, {"params": rest, "lr": 1e-2}])

    fitted = pv.fit(pair, data, epochs=3, batch_size=25, compile="recorded", optimizer=groups, schedule="constant")
    moved = {name for name, p in pair.named_parameters().items() if not torch.equal(p, before[name])}
    assert moved
    assert all(name.startswith("model") for name in moved)
    assert fitted.history[-1]["lr"] == 0.0


def test_an_own_schedule_is_a_factor(data):
    seen = []

    def falling(step, steps):
        seen.append((step, steps))
        return 1 - step / steps

    fitted = trained(data, schedule=falling, epochs=3)
    assert seen == [(step, 6) for step in range(6)]
    assert fitted.history[-1]["lr"] == pytest.approx(Training.lr * (1 - 5 / 6))
    assert close(trained(data, schedule="constant"), trained(data, schedule=lambda step, steps: 1))


REFUSED = [
    ({"optimizer": "adm"}, "optimizer must be one of adam, adamw, adamax, sgd, em; got 'adm': did you mean 'adam'?"),
    ({"optimizer": 3}, "optimizer must be one of adam, adamw, adamax, sgd, em or a function; got 3"),
    ({"optimizer": lambda p: p}, "returned a list; return a torch optimizer"),
    ({"optimizer": lambda p: torch.optim.Adam([torch.zeros(1, requires_grad=True)])}, "no parameters of the pair"),
    ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss anew in each step"),
    ({"optimizer": lambda: None}, "cannot be made of the pair's parameters"),
    ({"optimizer": torch.optim.RMSprop, "weight_decay": -1.0}, "weight_decay must be a finite number, 0 or more"),
    ({"optimizer": torch.optim.Adam, "lr": -1.0}, "lr must be a finite number above 0"),
    ({"optimizer": lambda p: torch.optim.Adam(p), "lr": 1e-3}, "lr 0.001 has no effect on the optimizer <lambda>"),
    ({"optimizer": pyro.optim.Adam({}), "weight_decay": 0.1}, "weight_decay 0.1 has no effect on the optimizer Adam"),
    ({"optimizer": pyro.optim.ClippedAdam({"lrd": 0.9})}, "ClippedAdam clips or decays by itself; give clip="),
    (
        {
            "optimizer": pyro.optim.ExponentialLR(
                {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1.0}, "gamma": 0.9}
            )
        },
        "has a schedule",
    ),
    ({"schedule": lambda step, steps: None}, "<lambda> returned None for step 0; return a factor"),
    ({"schedule": lambda step, steps: -1.0}, "<lambda> returned -1.0 for step 0; return a factor"),
    ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
    ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ({"accumulate": 2, "free_bits": 1.0}, "free bits look at the batch as a whole; leave --accumulate out"),
    ({"ema_decay": 0.9}, "fit has no option 'ema_decay'; did you mean ema?"),
    ({"learning_rate": 0.9}, "did you mean lr?"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_training_cannot_use_is_refused_in_a_sentence(data, settings, said):
    with pytest.raises(SettingsError) as refusal:
        trained(data, **settings)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_judged_and_kept_is_the_average(data):
    """By hand, from the parameters after every step."""
    steps, judged = [], {}

    def watched(params):
        optimizer = torch.optim.SGD(params, lr=0.05)
        steps.append([p.detach().clone() for p in params])
        optimizer.register_step_post_hook(lambda *_: steps.append([p.detach().clone() for p in params]))
        return optimizer

    def callback(row, pair):
        judged[int(row["step"])] = torch.cat([p.detach().flatten() for p in pair.named_parameters().values()])

    fitted = trained(data, optimizer=watched, ema=0.6, epochs=3, callbacks=[callback])
    average, kept = steps[0], []
    for number, values in enumerate(steps[1:], 1):
        decay = min(0.6, (1 + number) / (10 + number))
        average = [decay * a + (1 - decay) * v for a, v in zip(average, values, strict=True)]
        kept.append(torch.cat([a.flatten() for a in average]))
    assert list(judged) == [2, 4, 6]
    for step, found in judged.items():
        assert torch.allclose(found, kept[step - 1], rtol=1e-12)
        assert not torch.allclose(found, torch.cat([v.flatten() for v in steps[step]]), rtol=1e-3)
    assert parameters(fitted).equal(judged[int(fitted.best["step"])])


def test_an_older_run_had_no_average():
    stored = Training().to_dict()
    assert Training.read(stored).ema == 0.999
    del stored["ema"]
    assert Training.read(stored).ema == 0.0


def test_an_average_is_resumed_to_the_bit(data, tmp_path):
    whole = trained(data, ema=0.9, epochs=4)
    trained(data, ema=0.9, epochs=2, run=tmp_path / "run")
    resumed = trained(data, ema=0.9, epochs=4, run=tmp_path / "run", resume=True)
    assert resumed.history == whole.history
    assert parameters(resumed).equal(parameters(whole))
    assert not close(whole, trained(data, ema=0.0, epochs=4))


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "recorded"])
def test_pieces_of_a_batch_add_up(data, compile):
    """The autoencoder draws nothing, so the steps are the same; 25 data fall into 9, 9 and 7."""
    whole = trained(data, "autoencoder", epochs=4)
    assert close(trained(data, "autoencoder", epochs=4, accumulate=3, compile=compile), whole)
    assert close(trained(data, "autoencoder", epochs=4, accumulate=40, compile=compile), whole)


def test_only_a_piece_is_in_memory(data):
    rows = []

    class Noted(pyro.infer.Trace_ELBO):
        def differentiable_loss(self, model, guide, batch):
            rows.append(len(batch["x"]))
            return super().differentiable_loss(model, guide, batch)

    pair = pv.pairs.latent(data.spec, latent=2, hidden=[4], objective=Noted())
    InPieces(pair.objective, 4).loss_and_grads(pair.bound_model, pair.bound_guide, data.batch("train", 50))
    assert rows == [13, 13, 13, 11]


def test_a_run_with_an_own_optimizer_opens_and_says_where_it_goes_on(data, tmp_path, capsys):
    x = data.batch("train", 60)["x"].numpy()
    np.save(tmp_path / "x.npy", x)
    known = pv.load_data(str(tmp_path / "x.npy"))
    run = tmp_path / "run"
    own = trained(known, optimizer=torch.optim.RMSprop, schedule=lambda step, steps: 0.5, run=run)
    opened = pv.load(run)
    assert parameters(opened).equal(parameters(own).float())
    assert opened.training.optimizer.__name__ == "RMSprop"
    assert main(["resume", str(run), "--epochs", "3"]) == 2
    assert "trained with a optimizer" not in (said := capsys.readouterr().err)
    assert "an optimizer of its own, RMSprop; go on with it in Python" in said
    longer = trained(
        known, optimizer=torch.optim.RMSprop, schedule=lambda step, steps: 0.5, epochs=3, run=run, resume=True
    )
    assert longer.epochs == 3
