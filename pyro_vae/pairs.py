"""The zoo: a function a variant, each building its model and its guide from finished parts.

Every function takes the description of the data and its own options; the command line reads both from here.
"""

import difflib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vae import parts
from pyro_vae.conditionals import StandardNormal
from pyro_vae.data import Spec
from pyro_vae.guides.latent import LatentGuide
from pyro_vae.guides.linear import LinearGuide
from pyro_vae.models.latent import LatentModel
from pyro_vae.models.linear import LinearModel
from pyro_vae.pairing import Pair, PairError

Builder = Callable[..., Pair]
PAIRS: dict[str, Builder] = {}


def recorded(name: str, build: Builder) -> Builder:
    """Let the pairs that ``build`` returns remember the name and options that they were built with."""

    @functools.wraps(build)
    def built(spec: Spec, *args: Any, **options: Any) -> Pair:
        pair = build(spec, *args, **options)
        if not isinstance(pair, Pair):
            raise PairError(
                f"{name} returned {type(pair).__name__}, not a Pair; end it with `return Pair(model, guide)`"
            )
        return pair if args else replace(pair, recipe={"name": name, "options": options})

    return built


def pair(build: Builder) -> Builder:
    """Enter a function into the zoo under its own name."""
    PAIRS[build.__name__] = recorded(build.__name__, build)
    return PAIRS[build.__name__]


@pair
def latent(
    spec: Spec,
    *,
    latent: int | None = None,
    likelihood: parts.Likelihood = "auto",
    covariance: parts.Covariance = "diagonal",
    net: parts.Net = "mlp",
    hidden: list[int] = [500, 500],  # noqa: B006 (read only; jsonargparse shows it)
    activation: str = "silu",
) -> Pair:
    """The variational autoencoder: z -> x, with an encoder for q(z | x).

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        likelihood: p(x | z); auto is Bernoulli for binary data, else Normal with one learned scale.
        covariance: of the Gaussian q(z | x).
        net: multilayer perceptrons, or convolutions for images.
        hidden: widths of the perceptrons' hidden layers; the decoder has them in reverse.
        activation: of the nets.
    """
    size = parts.latent_size(spec, latent)
    p_x = parts.decoder(
        spec,
        size,
        parts.likelihood(spec, likelihood),
        net=net,
        hidden=tuple(hidden[::-1]),
        activation=activation,
    )
    q_z = parts.encoder(
        spec, parts.posterior_head(size, covariance), net=net, hidden=tuple(hidden), activation=activation
    )
    return Pair(LatentModel(StandardNormal(size), p_x), LatentGuide(q_z))


@pair
def linear(spec: Spec, *, latent: int | None = None, noise: str = "scalar") -> Pair:
    """Probabilistic PCA or factor analysis, with its exact posterior as guide.

    Args:
        latent: size of z; 10 for small data and 40 from a hundred features on.
        noise: scalar (probabilistic PCA) or per-feature (factor analysis).
    """
    if noise not in ("scalar", "per-feature"):
        raise PairError(f"noise must be scalar or per-feature, got {noise!r}")
    model = LinearModel(parts.latent_size(spec, latent), spec.features, 1 if noise == "scalar" else spec.features)
    return Pair(model, LinearGuide(model))


def find(name: str) -> Builder:
    """Return the function behind a pair's name, ``file.py:function`` or ``package.module:function``.

    Raises:
        PairError: when there is none; near names are suggested.
    """
    if name in PAIRS:
        return PAIRS[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, PAIRS, 1)
        hint = (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(PAIRS)}; your own is named file.py:function"
        )
        raise PairError(f"there is no pair {name!r}; {hint}")
    place, function = name.rsplit(":", 1)
    module = _load_file(Path(place)) if place.endswith(".py") else _import(place)
    build = getattr(module, function, None)
    if not callable(build):
        raise PairError(
            f"{place} has no function {function!r}; it should take the data's description and return a Pair"
        )
    return recorded(name, build)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise PairError(f"there is no file {path}; a pair of your own is named file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PairError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PairError(f"module {name!r} cannot be imported: {error}") from error
