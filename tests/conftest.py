"""Every test must leave torch, NumPy and Pyro as it found them.

What is heavy is imported where it is used: the process that hands tests to others runs none itself.
"""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_global_state() -> Iterator[None]:
    """Fail a test that leaks a setting, a parameter or a seed's effect into the process."""
    import pyro

    from pyro_vae.runs.checkpoint import seed_all

    seed_all(20)
    before = _state()
    with pyro.get_param_store().scope():  # a test may use Pyro's one store itself, as users do
        yield
    assert _state() == before, "the test changed global state"


@pytest.fixture
def unchanged_random_state() -> Iterator[None]:
    """Fail when the code under test draws from, or seeds, a global generator."""
    import numpy as np
    import torch

    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(torch.get_rng_state(), torch_before), "the global torch generator moved"
    assert (np.random.get_state()[1] == numpy_before).all(), "the global NumPy generator moved"


def _state() -> dict[str, object]:
    import pyro
    import torch

    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "validation": torch.distributions.Distribution._validate_args,
        "pyro": tuple(sorted((k, str(v)) for k, v in pyro.settings.get().items())),
        "store": tuple(pyro.get_param_store().keys()),
        "handlers": len(pyro.poutine.runtime._PYRO_STACK),
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=5, help="processes that each test of tests/faults kills")


def pytest_collectstart() -> None:
    """Collect no garbage while modules are imported: they leave next to none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Set up the process that runs tests: one thread, and few collections of garbage."""
    import sympy  # noqa: F401 (torch loads it on first use of some operations, and it adds a filter for its warnings)
    import torch

    torch.set_num_threads(1)  # small operations on several threads wait for each other, more so beside other processes
    gc.freeze()  # the million objects that are there before the first test, and stay
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests/faults tried, survived and lost: the table of docs/reliability.md."""
    table: dict[str, list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for kind, tried in (value for name, value in report.user_properties if name == "fault"):
                row = table.setdefault(kind, [0, 0])
                row[0] += tried
                row[1] += tried if outcome == "passed" else 0
    if table:
        terminalreporter.section("faults")
        terminalreporter.write_line("| fault | tried | survived | lost |")
        terminalreporter.write_line("|---|---|---|---|")
        for kind, (tried, survived) in sorted(table.items()):
            terminalreporter.write_line(f"| {kind} | {tried:,} | {survived:,} | {tried - survived:,} |")


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling takes seconds; the graph that inductor would be given runs as it is."""
    monkeypatch.setattr("pyro_vae.compiled.inductor.compile_graph", lambda graph, inputs: graph)
