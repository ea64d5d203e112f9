"""Nets by name: the encoder's and the decoder's, in the sizes that a pair needs; or ready-made
ones.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from torch import nn

from pyro_vae.data import Spec
from pyro_vae.nets import MLP, ConvDecoder, ConvEncoder
from pyro_vae.options import Registry
from pyro_vae.program import PairError

NETS = Registry("net")
Net = Annotated[str | tuple[nn.Module, nn.Module] | Callable[[int, int], nn.Module], NETS]


class NetSize(NamedTuple):
    """What a net is built for."""

    spec: Spec
    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    activation: str
    dropout: float = 0.0


class Nets(NamedTuple):
    """What builds the two nets: ``x, context -> numbers`` and ``z, context -> numbers`` of x."""

    encoder: Callable[[NetSize], nn.Module]
    decoder: Callable[[NetSize], nn.Module]
    ready_made: bool = False


def _mlp(size: NetSize) -> nn.Module:
    return MLP(size.inputs, size.outputs, size.hidden, size.activation, dropout=size.dropout)


def _conv_encoder(size: NetSize) -> nn.Module:
    image, context = image_of(size.spec), size.inputs - size.spec.features
    return ConvEncoder(image, size.outputs, extra=context, activation=size.activation, dropout=size.dropout)


def _conv_decoder(size: NetSize) -> nn.Module:
    return ConvDecoder(size.inputs, image_of(size.spec), size.outputs, activation=size.activation)


NETS.enter("mlp", "multilayer perceptrons")(Nets(_mlp, _mlp))
NETS.enter("conv", "convolutions, for images")(Nets(_conv_encoder, _conv_decoder))


def nets_of(chosen: Net) -> Nets:
    """Return what builds the nets of a name, of two ready-made nets or of a function ``inputs,
    outputs -> net``.

    Raises:
        PairError: one net is given where two are needed.
    """
    if isinstance(chosen, str):
        return NETS[chosen]
    if isinstance(chosen, tuple | list):
        if len(chosen) != 2 or not all(isinstance(net, nn.Module) for net in chosen):
            raise PairError(
                f"net takes two nets, the encoder's and the decoder's, and got {len(chosen)} of {type(chosen).__name__}"
            )
        first, second = chosen
        return Nets(lambda size: first, lambda size: second, ready_made=True)
    if isinstance(chosen, nn.Module):
        raise PairError(
            f"net is one {type(chosen).__name__}, and a pair has an encoder's and a decoder's: give both, "
            "net=(encoder, decoder), "
            "or a function of (inputs, outputs) that builds one"
        )

    def build(size: NetSize) -> nn.Module:
        return chosen(size.inputs, size.outputs)

    return Nets(build, build, ready_made=True)


def built(nets: Nets, role: Literal["encoder", "decoder"], size: NetSize) -> nn.Module:
    """Return the net of a role, in this size.

    Raises:
        PairError: a ready-made net has another size.
    """
    net = getattr(nets, role)(size)
    if nets.ready_made:
        _refuse_misfit(net, role, size)
    return net


def _refuse_misfit(net: nn.Module, role: str, size: NetSize) -> None:
    if not isinstance(net, nn.Module):
        raise PairError(
            f"the function given as net returns {type(net).__name__}, not a module; let it return the {role}'s net"
        )
    like = next(iter(net.parameters()), torch.zeros(()))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shape = tuple(net(like.new_zeros(2, size.inputs)).shape)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PairError(
            f"the {role}'s net {type(net).__name__} does not take {size.inputs} numbers per datum, which it "
            f"is given here: {reason}"
        ) from None
    if shape != (2, size.outputs):
        raise PairError(
            f"the {role}'s net {type(net).__name__} makes {shape} of 2 data, and {(2, size.outputs)} is needed: "
            f"build it with {size.inputs} inputs and {size.outputs} outputs"
        )


def image_of(spec: Spec) -> tuple[int, int, int]:
    """Return (channels, height, width) of x.

    Raises:
        PairError: x is not an image.
    """
    if spec.image is None:
        raise PairError(
            f"a convolutional net needs images, and {spec.name} has {spec.features} features without a shape; "
            "load the data with --image channels,height,width (in Python image=), or use mlp"
        )
    return spec.image
