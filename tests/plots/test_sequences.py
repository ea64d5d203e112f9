"""Pictures of sequences: what they show is what the pair and the data say."""

from dataclasses import replace
from pathlib import Path

import mido
import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae import pairs, plots
from pyro_vae.data import LOWEST, write_midi
from pyro_vae.pairs.registry import PAIRS
from pyro_vae.plots.panels import in_box, lines_of
from pyro_vae.posterior import reconstruct


def test_rolls_show_the_steps_that_are_there() -> None:
    data = pv.load_data("digit_rows")
    pair = PAIRS["markov"](data.spec, latent=2, hidden=4, posterior="filter")
    figure = plots.rolls(pair, data, count=2)
    batch = data.batch("test", 2)
    tiles = [axes.images[0].get_array() for axes in figure.axes]
    x = batch["x"].reshape(2, 8, 8)
    used = np.flatnonzero((x != 0).any(0).any(0))
    low, high = max(0, used[0] - 2), min(7, used[-1] + 2)
    np.testing.assert_allclose(tiles[0], x[0, :, low : high + 1].T)
    mean = reconstruct(pair, batch)["x"].reshape(2, 8, 8)
    np.testing.assert_allclose(tiles[3], mean[1, :, low : high + 1].T, rtol=1e-6)
    assert len(tiles) == 6


def test_states_of_a_linear_chain_that_sees_them_are_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.normal(size=(60, 9, 1)), 1).astype(np.float32)
    lengths = rng.integers(4, 10, 60)
    x = state + 0.01 * rng.normal(size=state.shape).astype(np.float32)
    data = pv.load_data({"x": x, "state": 3 * state.reshape(60, 9) + 1, "lengths": lengths})
    pair = PAIRS["markov"](data.spec, transition="linear", latent=1)
    with torch.no_grad():
        pair.model.emission.one.raw_scale.fill_(-4.0)
        pair.model.emission.one.weight.fill_(1.0)
    figure = plots.states(pair, data, count=2)
    true, guess = (line.get_ydata() for line in figure.axes[0].lines)
    assert len(true) == data.batch("test", 1)["mask"].sum()
    np.testing.assert_allclose(guess, true, atol=0.3)
    assert "explains 100 %" in figure.get_suptitle().replace("\n", " ")


def test_what_does_not_apply_says_so() -> None:
    digits, rows = pv.load_data("digits"), pv.load_data("digit_rows")
    pair = pairs.latent(digits.spec, hidden=[4])
    for draw in (plots.rolls, plots.states):
        with pytest.raises(plots.NotDrawable, match="digits are no sequences; draw `samples`"):
            draw(pair, digits)
    with pytest.raises(plots.NotDrawable, match="has no field 'state'"):
        plots.states(PAIRS["markov"](rows.spec, latent=2, hidden=4), rows)
    pendulum = pv.load_data("pendulum")
    with pytest.raises(plots.NotDrawable, match="a state for each step"):
        plots.states(pairs.latent(replace(pendulum.spec), latent=3, hidden=[4]), pendulum)


def drawing() -> torch.Tensor:
    """A square and, after a move of the pen in the air, a point and a line to the right of it."""
    moves = [(5, 5, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 1), (3, 0, 0), (1, 0, 1), (0, 0, 0), (0, 0, 0)]
    return torch.tensor(moves, dtype=torch.float32)


def test_a_drawing_is_lines_between_points_where_the_pen_is_down() -> None:
    square, line, _ = lines_of(drawing())
    assert square.tolist() == [[5, 5], [6, 5], [6, 6], [5, 6], [5, 5]]
    assert line.tolist() == [[8, 5], [9, 5]]
    boxed = in_box([square, line], 10.0, (20.0, 30.0))
    assert boxed[0].amin(0).tolist() == pytest.approx([20.5, 33.875])
    assert boxed[1][1].tolist() == pytest.approx([29.5, 33.875])
    assert not in_box([], 1.0, (0.0, 0.0))
    assert list(lines_of(torch.tensor([[1.0, 1, 1], [1, 1, 1]])))[1].tolist() == [[2, 2]]


def strokes_and_rolls() -> dict[str, pv.Data]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 40)
    strokes = rng.normal(size=(40, 8, 3)).astype(np.float32)
    strokes[..., 2] = rng.random((40, 8)) < 0.3
    rolls = np.zeros((40, 8, 88), np.uint8)
    for i, key in np.ndindex(40, 4):
        rolls[i, : lengths[i], rng.integers(40, 50) + key] = 1
    return {name: pv.load_data({"x": x, "lengths": lengths}) for name, x in (("strokes", strokes), ("rolls", rolls))}


@pytest.mark.parametrize("what", ["strokes", "rolls"])
def test_drawings_and_piano_rolls_are_tiles_and_the_way_between_two_has_all_lengths(what: str, tmp_path: Path) -> None:
    data = strokes_and_rolls()[what]
    pair = PAIRS["sequence"](data.spec, latent=2, hidden=4).train(False)
    for draw in (plots.samples, plots.reconstructions, plots.traversal, plots.rolls):
        draw(pair, data, **({"count": 3} if draw is not plots.traversal else {"steps": 3})).draw_without_rendering()
    midi = {"midi": str(tmp_path / "way.mid")} if what == "rolls" else {}
    figure = plots.interpolation(pair, data, steps=4, **midi)
    figure.draw_without_rendering()
    if what == "strokes":
        assert figure.axes[0].collections[0].get_paths()
        with pytest.raises(plots.NotDrawable, match="midi is of piano rolls, and x of arrays is none"):
            plots.interpolation(pair, data, midi="x.mid")
        return
    notes = [message for message in mido.MidiFile(tmp_path / "way.mid") if message.type.startswith("note")]
    first = data.batch("test", 1)["x"].reshape(8, 88)
    sounding = [note.note for note in notes if note.type == "note_on"][: int(first[0].sum())]
    assert sounding == (first[0].nonzero().flatten() + LOWEST).tolist()


def test_a_midi_file_holds_what_sounds_and_for_how_long(tmp_path: Path) -> None:
    roll = np.zeros((4, 88), bool)
    roll[0:3, 39] = roll[1, 43] = roll[3, 0] = True  # a long note, a short one beside it, the lowest key
    write_midi([roll, roll[:1]], tmp_path / "notes.mid")
    now, sounds, lasted = 0.0, {}, []
    for message in mido.MidiFile(tmp_path / "notes.mid"):
        now += message.time
        if message.type == "note_on":
            sounds[message.note] = now
        elif message.type == "note_off":
            begun = sounds.pop(message.note)
            lasted.append(
                (message.note, round(begun * 1.5, 4), round((now - begun) * 1.5, 4))
            )  # in steps, at 90 a minute
    assert sorted(lasted) == [(21, 3, 1), (60, 0, 3), (60, 6, 1), (64, 1, 1)]
    assert not sounds
    with pytest.raises(pv.DataError, match=r"let its name end in .mid"):
        write_midi([roll], tmp_path / "notes.wav")
    with pytest.raises(pv.DataError, match=r"has the shape \(steps, 88\), and this has \(4, 12\)"):
        write_midi([roll[:, :12]], tmp_path / "notes.mid")
    with pytest.raises(pv.DataError, match="cannot be written"):
        write_midi([roll], "/proc/none/notes.mid")
