"""Piano rolls as music: a standard MIDI file, by mido."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pyro_vae.data.readers import DataError
from pyro_vae.data.sequences import LOWEST, PITCHES
from pyro_vae.runs import write_whole

BEAT, PACE = 480, 90  # ticks of a step, steps a minute
ORGAN, LOUDNESS = 19, 80  # a church organ, as General MIDI numbers it
REST = 2  # steps between two pieces


def write_midi(rolls: Iterable[np.ndarray], path: str | os.PathLike) -> None:
    """Write piano rolls, one after the other, as a standard MIDI file of one track.

    A step is a quarter note. A key that sounds in one step after another is held, not struck anew.

    Args:
        rolls: bool, (steps, 88) each: which keys of a piano sound.
        path: of the file, ending in .mid.

    Raises:
        DataError: a roll is none, the file has another ending or cannot be written, or mido is not
            installed.
    """
    try:
        import mido
    except ImportError:
        raise DataError("MIDI files need mido, which is not installed: pip install pyro-vae[midi].") from None
    place = Path(path)
    if place.suffix not in (".mid", ".midi"):
        raise DataError(f"{place} is to be a MIDI file: let its name end in .mid.")
    file = mido.MidiFile(type=0, ticks_per_beat=BEAT)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(PACE)))
    track.append(mido.Message("program_change", program=ORGAN))
    now = 0
    for when, key, begins in _notes(rolls):
        note = mido.Message("note_on" if begins else "note_off", note=key, velocity=LOUDNESS * begins)
        track.append(note.copy(time=BEAT * (when - now)))
        now = when
    content = io.BytesIO()
    file.save(file=content)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, content.getvalue())
    except OSError as error:
        raise DataError(f"{place} cannot be written ({error.strerror or error}): choose another name.") from None


def _notes(rolls: Iterable[np.ndarray]) -> Iterable[tuple[int, int, bool]]:
    """Yield (step, MIDI number, whether it begins or ends), in order of time, ends before
    beginnings.
    """
    start = 0
    for roll in rolls:
        if roll.ndim != 2 or roll.shape[1] != PITCHES:
            raise DataError(f"a piano roll has the shape (steps, {PITCHES}), and this has {roll.shape}: reshape it.")
        sounds = np.pad(roll.astype(bool), ((1, 1), (0, 0))).astype(np.int8)
        for t, change in enumerate(np.diff(sounds, axis=0)):
            for sign in (-1, 1):
                for key in np.flatnonzero(change == sign):
                    yield start + t, int(key) + LOWEST, sign > 0
        start += len(roll) + REST
