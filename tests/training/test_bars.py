"""A bar by default where one can be drawn: on a terminal and in a notebook; silence elsewhere."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch

import pyro_vae as pv
from pyro_vae.training import bars


@pytest.fixture(scope="module")
def digits():
    return pv.load_data("digits")


def trained(digits, **options):
    torch.manual_seed(0)
    return pv.fit(pv.pairs.latent(digits.spec, latent=2, hidden=[4]), digits, epochs=2, compile="off", **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ZMQInteractiveShell:
    pass


@pytest.fixture
def notebook(monkeypatch):
    """Pretend to be in a notebook; return what is displayed."""
    shown = []
    handle = SimpleNamespace(update=shown.append)

    def display(what, display_id):
        shown.append(what)
        return handle

    inner = SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell, display=inner))
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    monkeypatch.setattr(bars, "EACH", 0.0)
    return shown


def test_a_log_is_silent_by_default_and_has_lines_when_asked(digits, capsys):
    trained(digits)
    assert capsys.readouterr().err == ""
    trained(digits, progress=True)
    assert "epoch 2/2  validation ELBO" in capsys.readouterr().err


def test_a_terminal_shows_a_bar_by_default(digits, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trained(digits)
    assert "epoch" in terminal.getvalue()
    assert "validation ELBO" in terminal.getvalue()
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    trained(digits, progress=False)
    assert quiet.getvalue() == ""


def test_a_notebook_shows_a_bar_and_takes_it_away(digits, notebook, capsys):
    trained(digits)
    assert notebook[0].startswith('<progress value="0.000" max="2"></progress> epoch 0 of 2')
    assert any("epoch 2 of 2 \u00b7 validation ELBO" in each for each in notebook)
    assert notebook[-1] == ""
    assert capsys.readouterr().err == ""
    count = len(notebook)
    trained(digits, progress=False)
    assert len(notebook) == count
