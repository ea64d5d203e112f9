"""The pair quantized from end to end: state, figures, codes, the command line."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.commands import main
from pyro_vae.conditionals import CodebookPrior
from pyro_vae.evidence import best_temperature, evaluate, global_sites, meaning_of, remarks
from pyro_vae.models.latent import LatentModel
from pyro_vae.nets import MaskedLabels
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.posterior import at_temperature, code_use, codebooks, encode, words
from pyro_vae.program import latents_of, plate_nesting, points, takes_particles
from pyro_vae.runs import Run

SMALL: dict[str, Any] = {"codes": 6, "places": 3, "size": 2, "hidden": [16]}


@pytest.fixture(scope="module")
def data() -> pv.Data:
    return pv.load_data("digits")


def built(data: pv.Data, **options: Any) -> pv.Pair:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return pv.pairs.quantized(data.spec, **{**SMALL, **options})


def state(pair: pv.Pair) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in pair.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["averages", pytest.param("gradient", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_the_same_bits_codebook_and_all(data: pv.Data, tmp_path: Any, kind: str) -> None:
    settings: dict[str, Any] = {"batch_size": 256, "seed": 3, "compile": "off"}
    whole = pv.fit(built(data, codebook=kind), data, epochs=4, **settings)
    pv.fit(built(data, codebook=kind), data, run=tmp_path / "run", epochs=2, **settings)
    again = built(data, codebook=kind)
    fitted = pv.fit(again, data, run=tmp_path / "run", resume=True, epochs=4, **settings)
    assert equal(state(whole.pair), state(again))
    assert whole.history == fitted.history
    assert {"codes_used", "perplexity"} <= whole.history[0].keys()


def test_asking_what_a_pair_is_moves_no_averages(data: pv.Data) -> None:
    pair, other, batch = built(data), pv.pairs.latent(data.spec, latent=2, hidden=[8]), data.batch("train", 50)
    before = state(pair.train(True))
    for ask in (global_sites, plate_nesting, points, meaning_of, codebooks, words, pv.find_problems):
        ask(pair, batch)
        assert equal(before, state(pair)), ask
        assert pair.training
    takes_particles(pair, batch, 1)
    assert equal(before, state(pair))
    latents_of(other.train(True), batch)
    assert other.training


def test_an_objective_counts_plates_without_moving_averages(data: pv.Data) -> None:
    pair, objective = built(data).train(True), OBJECTIVES["iwae"](2, 1437)
    objective.differentiable_loss(pair.bound_model, pair.bound_guide, data.batch("train", 50))
    assert pair.model.prior.counts.sum().item() == pytest.approx(0.01 * 50 * 3), "one run, two particles side by side"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "prior"), [("averages", "autoregressive"), ("gradient", "learned")])
def test_recorded_steps_move_the_codebook_as_eager_ones_do(data: pv.Data, kind: str, prior: str) -> None:
    ends = []
    for compile in ("off", "recorded"):
        pair = built(data, codebook=kind, prior=prior)
        pair.model.prior.restart = 600  # so that codes are restarted on the way
        fitted = pv.fit(pair, data, epochs=3, batch_size=256, seed=3, compile=compile)
        assert fitted.compiled is (compile == "recorded")
        ends.append(state(pair))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_the_elbo_is_a_bound_and_the_figures_say_so(data: pv.Data) -> None:
    pair = pv.fit(built(data), data, epochs=3, seed=0).pair
    point = evaluate(pair, data, num_samples=50)
    assert point.log_evidence is None
    assert point.meaning.modes == ("z",)
    assert point.meaning.bound == "ELBO"
    assert any("which is a bound" in line for line in remarks(point))
    assert point.codes is not None
    assert f"{point.codes['z'].used} of 6 codes of z are in use" in "\n".join(remarks(point))
    assert json.loads(json.dumps(point.to_dict()))["codes"]["z"]["codes"] == 6
    with at_temperature(pair, best_temperature(pair, data.batch("valid", 200))):
        soft = evaluate(pair, data, num_samples=50)
    assert soft.log_evidence is not None
    assert soft.log_evidence > soft.elbo > point.elbo
    assert soft.codes == point.codes
    assert pair.guide.encoder.temperature == 0


def test_a_prior_of_codes_that_follow_each_other_makes_the_bound_tighter(data: pv.Data) -> None:
    """Of the same codes, on data not trained on: what is gained is what the places say of each other."""
    pair = built(data, places=6).train(False)
    pair.guide.encoder.start_from(data.batch("train")["x"])
    codes, few = words(pair, data.batch("train"))["z"], data.batch("test")
    bounds = []
    for net in (None, MaskedLabels(6, 6, hidden=(64,))):
        p = CodebookPrior(6, 6, 2, net=net)
        optimizer = torch.optim.Adam(p.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = -p.index().log_prob(codes).mean()
            loss.backward()
            optimizer.step()
        p.base.copy_(pair.model.prior.base)
        bounds.append(pv.elbo(pv.Pair(LatentModel(p, pair.model.decoder), pair.guide), few).elbo)
    assert bounds[0] + 0.5 < bounds[1], bounds


def test_use_is_counted_over_the_whole_split(data: pv.Data) -> None:
    pair = pv.fit(built(data), data, epochs=1, seed=0).pair
    use = code_use(pair, data.batches("test", 50))["z"]
    codes = words(pair, data.batch("test"))["z"]
    share = torch.bincount(codes.flatten(), minlength=6).double() / codes.numel()
    assert use.used == int((share > 0).sum())
    assert use.perplexity == pytest.approx(torch.distributions.Categorical(share).entropy().exp().item())
    assert len(use.by_place) == 3
    assert code_use(pv.pairs.latent(data.spec, latent=2, hidden=[8]), data.batches("test", 50)) == {}


def test_codes_are_written_as_whole_numbers_and_train_the_next_pair(data: pv.Data, tmp_path: Any) -> None:
    pair = built(data).train(False)
    arrays = encode(pair, data)
    assert arrays["x_train"].shape == (data.size("train"), 3)
    assert arrays["x_train"].dtype.kind == "i"
    assert np.array_equal(arrays["x_test"], words(pair, data.batch("test"))["z"].numpy())
    assert np.array_equal(arrays["y_test"], data.batch("test")["y"].numpy())
    np.savez(tmp_path / "codes.npz", **arrays)
    assert pv.load_data(tmp_path / "codes.npz", levels=6).spec.features == 3
    for option in ({"draws": True}, {"idle": True}):
        with pytest.raises(pv.PairError, match="leave"):
            encode(pair, data, **option)


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture) -> None:
    run = str(tmp_path / "run")
    words = "--codes 6 --places 3 --size 2 --hidden 16 --epochs 2 --compile off".split()
    assert main(["train", "quantized", *words, "--run", run]) == 0
    said = capsys.readouterr().out
    assert "codes of z are in use" in said
    assert main(["train", "quantized", *words, "--prior", "autoregressive", "--run", f"{run}-json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["codes"]["z"]
    assert found["used"] <= found["codes"] == 6
    assert 1 <= found["perplexity"] <= 6
    assert "perplexity" in Run.open(run).history[-1]
    assert main(["evaluate", run, "--samples", "20", "--temperature", "auto", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["temperature"] >= 0
    assert found["codes"]["z"]["codes"] == 6
    assert main(["encode", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latent"] == 3
    for argv, part in (
        (["evaluate", run, "--temperature", "warm"], "--temperature must be a number, 0 or more, or auto, got 'warm'"),
        (["evaluate", run, "--temperature", "-1"], "--temperature must be a number"),
        (["train", "quantized", "--codes", "1"], "codes must be at least 2, got 1"),
        (["train", "quantized", "--net", "conv", "--places", "4"], "cannot be chosen with convolutions"),
        (["encode", run, "--draws", "true"], "leave draws out"),
    ):
        assert main(argv) == 2
        assert part in " ".join(capsys.readouterr().err.split())


def test_a_temperature_without_codes_is_refused(data: pv.Data) -> None:
    pair = pv.pairs.latent(data.spec, latent=2, hidden=[8])
    with pytest.raises(pv.PairError, match="this pair's guide chooses none"), at_temperature(pair, 0.1):
        pass
    with pytest.raises(pv.PairError, match="this pair's guide chooses none"):
        best_temperature(pair, data.batch("valid", 10))
    with pytest.raises(ValueError, match="0 or more, got -1"), at_temperature(pair, -1.0):
        pass
