"""The private names of torch: each exists, none is used elsewhere, and where one is missing the program runs eagerly."""

import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae
from pyro_vae.compiled import _torch
from pyro_vae.svi import SVI, EagerWarning


@pytest.mark.parametrize("name", _torch.NAMES)
def test_the_installed_torch_has_it(name):
    if name == "validate_arguments" and torch.__version__ < "2.15":
        pytest.skip("torch asks in other places")
    assert _torch.private(name) is not None


def test_no_other_module_names_them():
    private = re.compile(r"torch\.(_(inductor|dynamo|C|guards|subclasses)|utils\._pytree)\b")
    files = Path(pyro_vae.__file__).parent.rglob("*.py")
    assert [path.name for path in files if private.search(path.read_text())] == ["_torch.py"]


def train(steps: int = 3) -> tuple[list[float], SVI]:
    pyro.clear_param_store()

    def model(x):
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0).to_event(1), obs=x)

    torch.manual_seed(0)
    svi = SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), compile="on")
    return [svi.step(x) for x in torch.randn(steps, 3)], svi


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engine", "said"),
    [
        ("TracingContext", "eager", "SVI runs eagerly: .*has no torch._guards.TracingContext"),
        ("compile_fx", "recorded", "inductor failed .*has no torch._inductor.compile_fx.compile_fx"),
        ("dict_version", "inductor", None),
        ("one_hot", "inductor", None),
    ],
)
def test_without_it_a_program_still_trains(name, engine, said, monkeypatch, recwarn, uncompiled_unless):
    uncompiled_unless(name == "compile_fx")
    expected, _ = train()
    monkeypatch.setitem(_torch.NAMES, name, _torch.NAMES[name].replace("torch._", "torch._gone_", 1))
    _torch.private.cache_clear()
    recwarn.clear()
    try:
        found, svi = train()
    finally:
        _torch.private.cache_clear()
    assert found == pytest.approx(expected, rel=1e-5)
    assert svi.engine == engine
    warned = [str(w.message) for w in recwarn if w.category is EagerWarning]
    assert len(warned) == (said is not None)
    assert said is None or re.search(said.replace("torch._", "torch._gone_"), warned[0])


@pytest.fixture
def uncompiled_unless(monkeypatch):
    """Compiling takes seconds; the graph runs as it is, except where the compiler is what is missing."""

    def use(compiles: bool) -> None:
        if not compiles:
            monkeypatch.setattr("pyro_vae.compiled.inductor.compile_graph", lambda graph, inputs: graph)

    return use
