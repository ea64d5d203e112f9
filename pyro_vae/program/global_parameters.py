"""What a pair takes from Pyro's global parameter store: tensors that a script has trained before."""

from collections.abc import Mapping
from typing import Any

import pyro
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import transform_to

from pyro_vae.runs import seeded
from pyro_vae.warning import warn


class GlobalParameters(Messenger):
    """Take parameters of Pyro's global store, trained or not, for those that a pair has not met
    yet.

    Only what ``pyro.param`` begins from a value or function: a net's own parameters are in the net.
    """

    def __init__(self, program: str, outside: Mapping[str, dict]) -> None:
        super().__init__()
        self.program = program
        self.outside = outside

    def _pyro_param(self, msg: Any) -> None:
        name, *init = msg["args"]
        theirs = self.outside["params"].get(name)
        if theirs is None or isinstance(next(iter(init), None), nn.Parameter):
            return
        store = pyro.get_param_store()
        if name not in store:
            state = {kind: {name: values[name]} for kind, values in self.outside.items()}
            if _same_shape(state, name, *init):
                store.set_state(state)
        elif (own := dict(store.named_parameters())[name]) is not theirs and own.shape == theirs.shape:
            warn(
                f"{self.program} has a parameter {name!r} of its own, and Pyro's global store has another of "
                "that name, "
                "made since; the pair uses its own: build it anew to take the other one, or clear the global store"
            )


def _same_shape(state: Any, name: str, init: Any = None) -> bool:
    """Return whether a parameter of Pyro's store has the shape of the program's own initial value."""
    if init is None:
        return True
    with seeded(0):
        first = init() if callable(init) else init
    value = transform_to(state["constraints"][name])(state["params"][name])
    return bool(first.shape == value.shape)
