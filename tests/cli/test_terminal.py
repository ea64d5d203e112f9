"""What strangers named cannot steer the terminal, and notes are one line."""

import sys
import warnings
from types import SimpleNamespace

import pytest

from pyro_vae.cli import commands
from pyro_vae.cli.terminal import notes_on_stderr, say, show_figures, show_verdicts, visible
from pyro_vae.data.readers import DataNote
from pyro_vae.svi import EagerWarning

STRANGE = "m[/b][red]\x1b[31m\x07\u202e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [b] é 漢", "plain [b] é 漢"),
        ("a\x1b[2Jb\rc\x9b", r"a\x1b[2Jb\rc\x9b"),
        ("\udcff.npz", r"\udcff.npz"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_control_characters_become_visible(text, shown):
    assert visible(text) == shown


def test_say_keeps_line_breaks_and_nothing_else_that_steers(capsys):
    say("a\x1b[31m\nb")
    say("c\x07", sys.stderr)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a\\x1b[31m\nb\n", "c\\x07\n")


def test_markup_and_escapes_in_names_are_printed_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    show_verdicts([SimpleNamespace(check=STRANGE, verdict="bad", advice=f"[/x] {STRANGE}")], "title")
    verdicts = capsys.readouterr().out
    meaning = SimpleNamespace(
        latent=False, evidence=f"log p({STRANGE})", divergence="KL", bound="ELBO", is_density=False, given=(), unweighable=None,
        whole=False, points=False, numbers=0, implicit=False, is_evidence=lambda sites: True,
    )  # fmt: skip
    figures = SimpleNamespace(
        meaning=meaning, split="test", num_data=3, elbo=-1.0, sites={}, own=None, log_evidence=-1.0, evidence="-1.00 (exact)", doubtful=False,
        rms_error=None, proposal="exact", latent=0, codes=None, steps=None, log_z=None, bits_per_dimension=None,
    )  # fmt: skip
    show_figures(figures, SimpleNamespace(title=f"{STRANGE}.py:build"), None)
    shown = capsys.readouterr().out
    for text in (verdicts, shown):
        assert r"m[/b][red]\x1b[31m\x07\u202e" in text
        assert "\x1b" not in text
        assert "\x07" not in text


def test_a_refusal_shows_no_escape_codes(capsys):
    assert commands.main(["train", "x\x1b[31m.py:f"]) == 2
    assert r"\x1b[31m" in capsys.readouterr().err


def test_notes_are_one_line_and_other_warnings_stay(capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = warnings.showwarning
        with notes_on_stderr():
            warnings.warn("turned\nupright", DataNote, stacklevel=1)
            warnings.warn("runs eagerly", EagerWarning, stacklevel=1)
            warnings.warn("another's", UserWarning, stacklevel=1)
        assert warnings.showwarning is before
    assert capsys.readouterr().err == "pyro-vae: note: turned upright\npyro-vae: note: runs eagerly\n"
    assert [str(w.message) for w in caught] == ["another's"]
