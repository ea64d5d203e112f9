"""The latent explorer: a trained pair's decoder as one web page, to move z and see x at once."""

from pyro_vae.explorer.page import explore, page_of

__all__ = ["explore", "page_of"]
