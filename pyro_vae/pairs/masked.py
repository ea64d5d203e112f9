"""Autoregressive heads for given data: the likelihood, the order and the masked net, by name."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from pyro_vae.conditionals import Autoregressive, Head
from pyro_vae.data import Spec
from pyro_vae.nets import MaskedMLP, PixelCNN, pixel_distance, raster
from pyro_vae.options import Count, Registry, Whole
from pyro_vae.pairs.likelihoods import LIKELIHOODS, Likelihood, likelihood
from pyro_vae.pairs.nets import Net, image_of
from pyro_vae.pairs.registry import refuse_categories
from pyro_vae.program import PairError

MASKED = Registry("net")
MaskedKind = Annotated[str, MASKED]
Order = Literal["raster", "random"] | list[Whole]

FEW_LEVELS = 32  # up to which each level has a probability of its own


def usual(spec: Spec, chosen: Likelihood) -> Likelihood:
    """Return the likelihood of one feature given others: ``chosen``, or what suits the data.

    Grey levels get probabilities: a Normal that predicts its scale would find infinite densities where
    they repeat.
    """
    if chosen != "auto" or not isinstance(chosen, str):
        return chosen
    if spec.levels is not None:
        return "categorical" if spec.levels <= FEW_LEVELS else "logistic-mixture"
    return "bernoulli" if spec.support == "binary" else "normal-predicted"


def autoregressive(
    spec: Spec,
    chosen: Likelihood,
    *,
    net: str,
    hidden: Sequence[int],
    activation: str,
    order: Tensor,
    field: int | None,
) -> Head:
    """Return the head of p(x | ...) whose features are drawn one after the other, in the data's
    units.

    Raises:
        PairError: the likelihood has no autoregressive form, or the net does not suit the data.
    """
    refuse_categories(spec, "a decoder of one feature after the other")
    chosen = usual(spec, chosen)
    head = LIKELIHOODS[chosen](spec) if isinstance(chosen, str) else chosen
    if head.features != spec.features:
        return likelihood(spec, head)  # which refuses it
    _refuse_idle(spec, field)
    try:
        masked = MASKED[net](spec, head.size // head.features, tuple(hidden), activation, order, field)
        return likelihood(spec, Autoregressive(head, masked))
    except ValueError as error:
        raise PairError(str(error)) from None


def _refuse_idle(spec: Spec, field: int | None) -> None:
    """Refuse a field that reaches further than x does, and so limits nothing.

    Raises:
        PairError: saying how far x reaches.
    """
    furthest, unit = (spec.features - 1, "features") if spec.image is None else (max(spec.image[1:]) - 1, "pixels")
    if field is not None and field > furthest:
        raise PairError(
            f"field {field} limits nothing: no two {unit} of x are more than {furthest} apart; "
            f"give {furthest} at most, or leave it out"
        )


def given_codes(
    spec: Spec, chosen: Likelihood, net: Net, hidden: Sequence[int] | None, activation: str | None, field: int | None
) -> Head:
    """Return the head of p(x | z) in raster order: a PixelCNN beside convolutions, else a MADE, whose
    ``hidden`` widths are those of perceptrons.

    Raises:
        PairError: see `autoregressive`.
    """
    kind = "pixelcnn" if net == "conv" else "made"
    if net == "conv":
        image_of(spec)  # which refuses what is none in the terms of --net
    return autoregressive(
        spec,
        chosen,
        net=kind,
        hidden=widths(hidden if net == "mlp" else None, kind),
        activation=activation or "relu",
        order=order_of(spec, "raster", None, kind),
        field=field,
    )


def refuse_field(field: int | None) -> None:
    """Refuse a field of independent features.

    Raises:
        PairError: there is one.
    """
    if field is not None:
        raise PairError(
            f"field {field} limits what an autoregressive decoder sees, and --decoder is independent; "
            "leave --field out, or use --decoder autoregressive",
            unused="field",
        )


def order_of(spec: Spec, asked: Order, seed: int | None, net: str) -> Tensor:
    """Return the features in the order in which they are drawn, long ``(features,)``.

    Raises:
        PairError: it is no permutation of the features, or the net has another order.
    """
    natural = torch.arange(spec.features) if spec.image is None else raster(spec.image)
    if seed is not None and asked != "random":
        said = asked if isinstance(asked, str) else "given"
        raise PairError(
            f"order_seed {seed} draws a random order, and --order is {said}; leave --order-seed out, or use "
            "--order random",
            unused="order_seed",
        )
    if net == "pixelcnn" and asked != "raster":
        named = asked if isinstance(asked, str) else f"of {len(asked)} numbers"
        raise PairError(
            f"order {named} is not that of a PixelCNN, which draws an image row by row; leave --order out, or use "
            "--net made",
            unused="order",
        )
    if asked == "raster":
        return natural
    if asked == "random":
        return torch.randperm(spec.features, generator=torch.Generator().manual_seed(seed or 0))
    return _permutation(spec, torch.tensor(asked))


def _permutation(spec: Spec, order: Tensor) -> Tensor:
    features = spec.features
    if len(order) != features:
        raise PairError(
            f"order has {len(order)} numbers and x of {spec.name} has {features} features; name each from 0 to "
            f"{features - 1} once"
        )
    wrong = [int(f) for f in range(features) if f not in set(order.tolist())]
    if wrong:
        raise PairError(
            f"order is no permutation: it lacks {', '.join(map(str, wrong[:5]))}"
            f"{' and others' if len(wrong) > 5 else ''}; name each feature from 0 to {features - 1} once"
        )
    return order


@MASKED.enter("made", "a masked perceptron (MADE)")
def made(
    spec: Spec, kinds: int, hidden: tuple[int, ...], activation: str, order: Tensor, field: int | None
) -> MaskedMLP:
    """Return a `MaskedMLP`, whose field is in pixels where x is an image."""
    distance = pixel_distance(spec.image) if spec.image is not None and field is not None else None
    return MaskedMLP(order, kinds, hidden, activation, distance=distance, field=field)


@MASKED.enter("pixelcnn", "masked convolutions, for images (PixelCNN)")
def pixelcnn(
    spec: Spec, kinds: int, hidden: tuple[int, ...], activation: str, order: Tensor, field: int | None
) -> PixelCNN:
    """Return a `PixelCNN`.

    Raises:
        PairError: x is not an image.
    """
    if spec.image is None:
        raise PairError(
            f"a PixelCNN needs images, and {spec.name} has {spec.features} features without a shape; use --net made"
        )
    return PixelCNN(spec.image, kinds, hidden, activation, field=field)


def widths(hidden: Sequence[Count] | None, net: str) -> tuple[int, ...]:
    """Return the widths of a masked net's hidden layers, or the channels of its convolutions."""
    if hidden is not None:
        return tuple(hidden)
    return (500,) if net == "made" else (32,) * 5
