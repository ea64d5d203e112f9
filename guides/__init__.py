"""Amortized guides q(z | x): one Pyro program per file, imported as ``pyro_vae.guides.NAME``.

The guide of a model's usual partner carries the model's file name.
"""
