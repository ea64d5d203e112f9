"""Generative models p(x, z): one Pyro program per file, imported as ``pyro_vae.models.NAME``."""
