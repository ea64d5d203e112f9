"""Record a callable that runs Pyro programs once and replay it without Python; knows nothing of pairs."""

from pyro_vae.compiled._torch import tree_leaves
from pyro_vae.compiled.capture import trace
from pyro_vae.compiled.guards import Held, Same
from pyro_vae.compiled.inductor import Code
from pyro_vae.compiled.names import of_library
from pyro_vae.compiled.observe import Observe
from pyro_vae.compiled.recording import Recording, call_with, record, refuse_written, signature
from pyro_vae.compiled.state import (
    RecordingError,
    copies,
    like,
    memory,
    put_back,
    random_state,
    set_random_state,
    surroundings,
    undisturbed,
)
from pyro_vae.compiled.verify import differences, furthest, in_short
from pyro_vae.compiled.watch import Watch

__all__ = [
    "Code",
    "Held",
    "Observe",
    "Recording",
    "RecordingError",
    "Same",
    "Watch",
    "call_with",
    "copies",
    "differences",
    "furthest",
    "in_short",
    "like",
    "memory",
    "of_library",
    "put_back",
    "random_state",
    "record",
    "refuse_written",
    "set_random_state",
    "signature",
    "surroundings",
    "trace",
    "tree_leaves",
    "undisturbed",
]
