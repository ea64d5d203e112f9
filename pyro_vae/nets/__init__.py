"""Nets: tensors in, tensors out, with any leading dimensions. Nothing here knows a distribution.

Every net maps ``(..., inputs)`` to ``(..., outputs)`` (`RecurrentNet` the steps of a sequence, with
the mask that says which are there); an image travels flat, as
``channels * height * width`` numbers. No layer mixes the data of a batch (there is no batch
normalisation), so the output for a datum never depends on its neighbours. A net that can begin at a
chosen output has ``start_at(bias)``; one that can describe a datum by its last hidden layer has
``features(x)``.
"""

from pyro_vae.nets.convolution import ConvDecoder, ConvEncoder, ResidualBlock
from pyro_vae.nets.grid import GridDecoder, GridEncoder, grid_of
from pyro_vae.nets.labels import MaskedLabels
from pyro_vae.nets.layers import ACTIVATIONS, Activation, OneHot, Standardize, activation_named, start_at
from pyro_vae.nets.masked import MaskedMLP, pixel_distance, raster
from pyro_vae.nets.masked_convolution import PixelCNN
from pyro_vae.nets.mlp import MLP
from pyro_vae.nets.recurrent import RecurrentNet, scan
from pyro_vae.nets.timed import TimedConv, TimedMLP

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Activation",
    "ConvDecoder",
    "ConvEncoder",
    "GridDecoder",
    "GridEncoder",
    "MaskedLabels",
    "MaskedMLP",
    "OneHot",
    "PixelCNN",
    "RecurrentNet",
    "ResidualBlock",
    "Standardize",
    "TimedConv",
    "TimedMLP",
    "activation_named",
    "grid_of",
    "pixel_distance",
    "raster",
    "scan",
    "start_at",
]
