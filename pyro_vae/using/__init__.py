"""A trained pair in use: opened from its run folder, and what one asks of it.

The functions are the methods of `Pair` and `Fitted`, which take either first.
"""

from pyro_vae.using.loading import PYTHON, Words, load, note_other_data, rebuild
from pyro_vae.using.modules import Decoder, LossModule
from pyro_vae.using.saving import save
from pyro_vae.using.verbs import decode, elbo, encode, log_evidence, reconstruct, sample

__all__ = [
    "PYTHON",
    "Decoder",
    "LossModule",
    "Words",
    "decode",
    "elbo",
    "encode",
    "load",
    "log_evidence",
    "note_other_data",
    "rebuild",
    "reconstruct",
    "sample",
    "save",
]
