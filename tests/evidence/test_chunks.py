"""Evidence in compiled chunks: the same figures as eagerly, and eagerly where nothing can be compiled."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.evidence import estimate, evaluate, rows, rows_together
from pyro_vae.evidence.chunks import COMPILES_AT, Chunks
from pyro_vae.program import takes_particles
from pyro_vae.svi import EagerWarning


def binary(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).round()


class Nets(nn.Module):
    """p(z) p(x | z) and q(z | x), two small nets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        self.double()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class AsFloat(nn.Module):
    def forward(self, x):
        return x.float()


class Single(Nets):
    """With nets in single precision, which autocast halves."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (nn.Sequential(AsFloat(), net.float()) for net in (self.encoder, self.decoder))


class Mixed(Nets):
    """With a component that is summed out."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3).double()), infer={"enumerate": "parallel"})
            locs = torch.arange(3.0).double()[:, None].expand(3, 2)
            z = pyro.sample("z", dist.Normal(locs[c], 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Rejected(Nets):
    """With a latent angle, whose sampler tries until it accepts."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(len(x)).double()
            a = pyro.sample("a", dist.VonMises(zero, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(torch.stack([a, a], -1))).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.VonMises(self.encoder(x)[:, 0], 1.0))


class Stubborn(Nets):
    """Written for no particles."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1))
            if z.dim() > 2:
                raise ValueError("no particles")
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


def pair_of(nets: type[Nets]) -> pv.Pair:
    programs = nets()
    return pv.Pair(programs.model, programs.guide)


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling takes seconds; the graph that inductor would be given runs as it is."""
    monkeypatch.setattr("pyro_vae.compiled.inductor.compile_graph", lambda graph, inputs: graph)


@pytest.mark.slow
@pytest.mark.parametrize("proposal", ["refined", "guide"])
@pytest.mark.parametrize("mode", ["on", "auto"])
@pytest.mark.parametrize("nets", [Nets, Mixed, Stubborn])
def test_figures_are_those_of_an_eager_run(nets, mode, proposal, uncompiled, monkeypatch):
    monkeypatch.setattr("pyro_vae.evidence.chunks.COMPILES_AT", 3)
    pair, x = pair_of(nets), {"x": binary(5, 6)}
    options = {"num_samples": 60, "rows": 128, "proposal": proposal}  # several chunks, and two data in the first
    eager = pv.log_evidence(pair, x, compile="off", **options)
    other = pv.log_evidence(pair, x, compile=mode, **options)
    assert other.proposal == eager.proposal == ("guide" if nets is Stubborn else proposal)
    for ours, theirs in zip(other[:5], eager[:5], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_compiled_figures_are_those_of_an_eager_run():
    pair, x = pair_of(Nets), {"x": binary(64, 6)}
    eager = pv.log_evidence(pair, x, num_samples=200, compile="off")
    compiled = pv.log_evidence(pair, x, num_samples=200, compile="on")
    for ours, theirs in zip(compiled[:5], eager[:5], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_half_precision_is_compiled_as_it_is_run(uncompiled):
    pair, x = pair_of(Single), {"x": binary(20, 6)}
    single = pv.log_evidence(pair, x, num_samples=500, proposal="guide", compile="off").estimate
    half = []
    for mode in ("off", "on"):
        with torch.autocast("cpu", torch.bfloat16):
            half.append(pv.log_evidence(pair, x, num_samples=500, proposal="guide", compile=mode).estimate)
    torch.testing.assert_close(half[0], half[1], rtol=1e-6, atol=1e-6)
    assert 1e-4 < (half[0] - single).abs().max() < 0.1


def test_auto_goes_by_the_number_of_chunks_of_a_shape(uncompiled):
    chunks = Chunks()
    engines = []
    for number in range(COMPILES_AT):
        (total,) = chunks(lambda x: (x.sum() + 1,), "sum", torch.full((3,), float(number)))
        assert total == 3 * number + 1
        engines.append(chunks.engine)
    chunks(lambda x: (x.sum() + 1,), "sum", torch.zeros(4))
    assert chunks.engine == "eager"  # another shape counts for itself
    chunks(lambda x: (x.sum() + 2,), "other", torch.zeros(3))
    assert chunks.engine == "eager"  # and so does another function
    assert engines.index("inductor") == COMPILES_AT - 1


def test_tensors_from_outside_are_read_anew(uncompiled):
    chunks, outside = Chunks("on"), torch.ones(2)
    before = chunks(lambda x: (x * outside,), "product", torch.ones(2))[0].clone()
    outside.fill_(3.0)
    after = chunks(lambda x: (x * outside,), "product", torch.ones(2))[0]
    assert chunks.engine == "inductor"
    assert before.tolist() == [1.0, 1.0]
    assert after.tolist() == [3.0, 3.0]


def test_what_cannot_be_recorded_runs_eagerly_and_says_why():
    pair, x = pair_of(Rejected), {"x": binary(5, 6)}
    eager = pv.log_evidence(pair, x, num_samples=20, proposal="guide", compile="off")
    with pytest.warns(EagerWarning, match="log-weights are computed eagerly: .*depends on") as told:
        other = pv.log_evidence(pair, x, num_samples=20, proposal="guide", compile="on")
    assert len(told) == 1
    assert told[0].filename == __file__
    torch.testing.assert_close(other.estimate, eager.estimate, rtol=0, atol=0)


@pytest.mark.parametrize("proposal", ["refined", "guide"])
def test_errors_while_recording_are_told_and_cost_nothing(proposal, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("no such kernel")

    pair, x = pair_of(Nets), {"x": binary(5, 6)}
    eager = pv.log_evidence(pair, x, num_samples=20, proposal=proposal, compile="off")
    monkeypatch.setattr("pyro_vae.evidence.chunks.record", broken)
    with pytest.warns(EagerWarning, match="eagerly: recording them raised ValueError: no such kernel") as told:
        other = pv.log_evidence(pair, x, num_samples=20, proposal=proposal, compile="on")
    assert len(told) == 1
    assert told[0].filename == __file__
    torch.testing.assert_close(other.estimate, eager.estimate, rtol=0, atol=0)


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="compile is 'yes'; give 'auto', 'on' or 'off'"):
        Chunks("yes")


def test_the_programs_are_looked_at_once_whatever_the_pieces(monkeypatch):
    """Of a long chain a look costs several pieces: the programs are run to find out how they may be run."""
    nets, looks = Nets(), []
    monkeypatch.setattr(estimate, "takes_particles", lambda *args: looks.append(args) or takes_particles(*args))
    pair = pv.Pair(nets.model, nets.guide)
    batches = [{"x": binary(5, 6, seed=seed)} for seed in range(4)]
    found = pv.log_evidence(pair, batches, num_samples=40, rows=80, proposal="guide")
    assert len(found.estimate) == 20
    assert len(looks) == 1


def test_where_many_states_are_summed_fewer_data_go_together(monkeypatch):
    data = pv.load_data({"x": binary(40, 6).numpy()})
    batch = data.batch("train")
    mixture = pv.pairs.mixture(data.spec, components=32)
    assert rows_together(mixture, batch, 4096) == 4096 * 16 // 32
    assert rows_together(pv.pairs.mixture(data.spec, components=16), batch, 4096) == 4096
    assert rows_together(pv.pairs.bayes_net(data.spec, graph="chain"), batch, 4096) == 4096
    whole, looked = pv.elbo(mixture, batch), []
    terms = estimate.terms
    monkeypatch.setattr(
        estimate, "terms", lambda pair, piece, *a, **k: looked.append(len(piece["x"])) or terms(pair, piece, *a, **k)
    )
    monkeypatch.setattr(estimate, "MAX_ROWS", 14)
    assert pv.elbo(mixture, batch).elbo == pytest.approx(whole.elbo, rel=1e-6)
    assert set(looked[:-1]) == {7}


def test_a_chain_of_many_levels_has_no_rms_error():
    """It would be that of x under next to no noise, at the cost of running the whole chain."""
    data = pv.load_data({"x": binary(40, 6).numpy()})
    figures = {
        steps: evaluate(pv.pairs.diffusion(data.spec, steps=steps, width=4, blocks=1), data, num_samples=2)
        for steps in (3, 12)
    }
    assert figures[3].rms_error is not None
    assert figures[12].rms_error is None
    assert not any("RMS" in row.label for row in rows(figures[12]))
