"""Tensors in, tensors out: nets and layers, on torch alone."""

from pyro_vae.nets.layers import (
    MLP,
    Activation,
    ConvDecoder,
    ConvEncoder,
    OneHot,
    ResidualBlock,
    Standardize,
    activation_named,
    start_at,
)

__all__ = [
    "MLP",
    "Activation",
    "ConvDecoder",
    "ConvEncoder",
    "OneHot",
    "ResidualBlock",
    "Standardize",
    "activation_named",
    "start_at",
]
