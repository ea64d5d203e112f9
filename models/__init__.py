"""Generative models p(x, z): one Pyro program a file, imported as ``pyro_vae.models.NAME``."""
