"""What holds for every pair in the registry."""

import math
from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from pyro.poutine.messenger import Messenger
from tables import only
from torch import Tensor
from zoo import ROWS, Row

from pyro_vae import SVI, elbo, find_problems, log_weights
from pyro_vae.pairs import PAIRS
from pyro_vae.program import PARTICLES, Pair, PairError, is_enumerated, is_latent, plate_nesting, run
from pyro_vae.program import structure as structure_of

# What they choose, other rows choose one by one.
SLOW = {"structured-1", "structured-3", "diffusion-conv", "semi_supervised-conv", "hierarchical-dreg", "sequence-vamp"}
SLOW |= {"flow-spline_autoregressive", "markov-linear-smoother", "quantized-conv", "attribute-labels"}
SLOW |= {"hierarchical", "structured-real", "reversible-coupling"}
QUICK = [name for name in ROWS if name not in SLOW]


def programs_of(row: Row) -> str:
    """All of a row but the objective, of which most tests make no use."""
    options = {name: value for name, value in row.options.items() if name not in ("objective", "particles")}
    return f"{row.pair.__name__} {options} {vars(row.spec)}"


OF_PROGRAMS = list({programs_of(ROWS[name]): name for name in reversed(ROWS)}.values())[::-1]


@pytest.fixture(params=only(ROWS, QUICK))
def row(request: pytest.FixtureRequest) -> Row:
    return ROWS[request.param]


@pytest.fixture(params=only(OF_PROGRAMS, [name for name in QUICK if name in OF_PROGRAMS]))
def programs(request: pytest.FixtureRequest) -> Row:
    """Return a row of other programs than every row before it."""
    return ROWS[request.param]


def loss(pair: Pair, batch: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(1)
    return pair.objective.differentiable_loss(pair.bound_model, pair.bound_guide, batch)


def test_every_pair_of_the_zoo_has_a_row() -> None:
    assert {row.pair for row in ROWS.values()} == set(PAIRS.values())


def test_the_contract_is_kept(row: Row) -> None:
    assert find_problems(row.build(), row.batch()) == []


def test_the_elbo_is_finite_and_the_sum_of_its_sites(row: Row) -> None:
    if row.implicit:
        with pytest.raises(PairError, match="known by its draws alone"):
            elbo(row.build(), row.batch())
        return
    table = elbo(row.build(), row.batch(), num_samples=2)
    assert math.isfinite(table.elbo)
    assert table.elbo == pytest.approx(table.reconstruction - table.kl)


def test_pyro_is_told_of_every_parameter(programs: Row) -> None:
    """Pyro's own SVI trains what it is told of as programs run, and leaves other parameters as they are without a word."""
    if programs.implicit:
        return
    pair, batch = programs.build(), programs.batch()
    loss(pair, batch).backward()
    values = []
    for program in (pair.bound_guide, pair.bound_model):
        with poutine.trace(param_only=True) as told:
            program(batch)
        values += [site["value"] for site in told.trace.nodes.values()]
    known = {id(v.unconstrained() if hasattr(v, "unconstrained") else v) for v in values}
    assert [n for n, p in pair.named_parameters().items() if p.grad is not None and id(p) not in known] == []


def test_an_exact_guide_makes_every_draw_give_the_evidence(programs: Row) -> None:
    if not programs.exact:
        return
    log_w = log_weights(programs.build(), programs.batch(), 5)
    torch.testing.assert_close(log_w, log_w[:1].expand_as(log_w), rtol=0, atol=1e-10)


def test_a_step_moves_every_parameter(row: Row) -> None:
    pair = row.build()
    loss(pair, row.batch())  # creates the parameters that programs make on their first run
    parameters = pair.named_parameters()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=1e-3)
    loss(pair, row.batch()).backward()
    optimizer.step()
    assert [name for name, p in parameters.items() if torch.equal(p, before[name])] == []


def test_log_weights_depend_on_their_own_particle_and_datum_alone(programs: Row) -> None:
    if not programs.density:
        return
    pair, batch = programs.build(), programs.batch()
    nesting = plate_nesting(pair, batch)
    guide, _ = run(pair, batch, 2, nesting)
    draws = {n: s for n, s in guide.nodes.items() if s["type"] == "sample" and _is_drawn(s)}
    with _Fixed(draws, slice(0, 2), nesting):
        together = log_weights(pair, batch, 2)
    one_by_one = []
    for k in range(2):
        with _Fixed(draws, slice(k, k + 1), nesting):
            one_by_one.append(log_weights(pair, batch, 1))
    torch.testing.assert_close(together, torch.cat(one_by_one), rtol=1e-12, atol=1e-12)
    half = {name: {**s, "value": _data(s, slice(0, 5))} for name, s in draws.items()}
    with _Fixed(half, slice(0, 2), nesting):
        part = log_weights(pair, {name: tensor[:5] for name, tensor in batch.items()}, 2)
    torch.testing.assert_close(part, together[:, :5], rtol=1e-9, atol=1e-9)


def test_draws_of_the_model_are_valid_data(programs: Row) -> None:
    pair, batch = programs.build(), programs.batch()
    observed = poutine.trace(pair.bound_model).get_trace(batch)
    drawn = poutine.trace(poutine.uncondition(pair.bound_model)).get_trace(batch)
    for name, site in observed.nodes.items():
        if site["type"] == "sample" and site["is_observed"] and type(site["fn"]).__name__ not in ("_Subsample", "Unit"):
            value, fn = drawn.nodes[name]["value"], drawn.nodes[name]["fn"]
            assert value.shape == site["value"].shape
            assert value.isfinite().all()
            assert fn.support.check(value).all()


def test_a_loaded_state_gives_the_same_loss(row: Row, tmp_path: Any) -> None:
    pair, other, batch = row.build(0), row.build(1), row.batch()
    expected = loss(pair, batch)
    assert not torch.equal(loss(other, batch), expected)
    torch.save(pair.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(loss(other, batch), expected)


@pytest.mark.slow
def test_a_recorded_step_is_the_eager_step(row: Row) -> None:
    batch, reached = row.batch(), []
    for compile in ("off", "recorded"):
        pair = row.build()
        loss(pair, batch)
        svi = SVI(
            pair.bound_model,
            pair.bound_guide,
            torch.optim.SGD(pair.named_parameters().values(), lr=1e-3),
            pair.objective,
            compile=compile,  # type: ignore[arg-type]
        )
        torch.manual_seed(2)
        losses = [torch.tensor(svi.step(batch)) for _ in range(4)]
        assert svi.compiled is (compile == "recorded"), svi.why_not
        reached.append(
            torch.cat([torch.stack(losses), *(p.detach().flatten() for p in pair.named_parameters().values())])
        )
    torch.testing.assert_close(*reached, rtol=1e-7, atol=1e-9)


def test_the_graphical_model_can_be_drawn(programs: Row) -> None:
    pair, batch = programs.build(), programs.batch()
    for program in (pair.bound_model, pair.bound_guide):
        seen: set[str] = set()
        for node in structure_of(pair, program, batch):
            assert set(node.parents) <= seen, "every node stands below its parents"
            seen.add(node.name)


def _is_drawn(site: dict[str, Any]) -> bool:
    return is_latent(site) and not is_enumerated(site) and type(site["fn"]).__name__ != "_Subsample"


def _data(site: dict[str, Any], keep: slice) -> Tensor:
    dim = site["value"].dim() - len(site["fn"].event_shape) - 1
    return site["value"][(slice(None),) * dim + (keep,)]


class _Fixed(Messenger):
    """Give the guide's sites the draws of an earlier run; one particle has no plate of its own."""

    def __init__(self, draws: dict[str, dict[str, Any]], keep: slice, nesting: int) -> None:
        super().__init__()
        self.draws, self.keep, self.nesting = draws, keep, nesting
        self.count = keep.stop - keep.start

    def _pyro_sample(self, msg: Any) -> None:
        sizes = [frame.size for frame in msg["cond_indep_stack"] if frame.name == PARTICLES]
        if msg["name"] in self.draws and msg["value"] is None and sizes == [self.count] * (self.count > 1):
            site = self.draws[msg["name"]]
            dim = site["value"].dim() - len(site["fn"].event_shape) - self.nesting - 1
            value = site["value"][(slice(None),) * dim + (self.keep,)]
            msg["value"] = value.squeeze(0) if self.count == 1 and dim == 0 else value
            msg["done"] = True
