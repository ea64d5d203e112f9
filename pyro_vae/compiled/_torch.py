"""Every name of torch that torch does not promise to keep, looked up when it is used.

Importing the package needs none of them. Where the installed torch lacks one, what needs it raises `MissingName`: the
program then runs eagerly, or its recording is replayed uncompiled, and one warning says why. tests/compiled/test_torch.py
asserts that the installed torch has each.
"""

import functools
import pkgutil
from collections.abc import Callable
from typing import Any

import torch

NAMES = {
    "TracingContext": "torch._guards:TracingContext",
    "tracing": "torch._guards:tracing",
    "FakeTensorMode": "torch._subclasses.fake_tensor:FakeTensorMode",
    "disable_current_modes": "torch.utils._python_dispatch:_disable_current_modes",
    "function_modes_count": "torch._C:_len_torch_function_stack",
    "dispatch_modes_count": "torch._C:_len_torch_dispatch_stack",
    "function_modes": "torch.overrides:_get_current_function_mode_stack",
    "dispatch_modes": "torch.utils._python_dispatch:_get_current_dispatch_mode_stack",
    "DefaultDevice": "torch.utils._device:DeviceContext",
    "tree_leaves": "torch.utils._pytree:tree_leaves",
    "tree_flatten": "torch.utils._pytree:tree_flatten",
    "tree_unflatten": "torch.utils._pytree:tree_unflatten",
    "dict_version": "torch._C._dynamo.guards:dict_version",
    "one_hot": "torch._C._nn:one_hot",
    "set_grad_enabled": "torch._C:_set_grad_enabled",
    "has_internal_overlap": "torch:_debug_has_internal_overlap",
    "suggest_memory_format": "torch._prims_common:suggest_memory_format",
    "validate_arguments": "torch.distributions.distribution:_all_true_or_runtime_assert",  # since 2.15
    "compile_fx": "torch._inductor.compile_fx:compile_fx",
    "inductor_config": "torch._inductor.config",
    "inductor_decompositions": "torch._inductor.decomposition:select_decomp_table",
}
TALKATIVE = ("torch.utils.cpp_extension", "torch._inductor.ir")  # loggers: no GPU, operations without an interface in C


class MissingName(RuntimeError):
    """The installed torch lacks a private name that the engine needs."""


@functools.cache
def private(name: str) -> Any:
    """Return what torch has under one of `NAMES`.

    Raises:
        MissingName: the installed torch has no such thing.
    """
    try:
        return pkgutil.resolve_name(NAMES[name])
    except (ImportError, AttributeError) as error:
        place = NAMES[name].replace(":", ".")
        raise MissingName(f"torch {torch.__version__} has no {place}; install one of torch 2.11 to 2.15") from error


def optional(name: str) -> Any:
    """Return what torch has under one of `NAMES`, None if it has no such thing."""
    try:
        return private(name)
    except MissingName:
        return None


def tree_leaves(tree: Any) -> list[Any]:
    """Return what a nest of lists, tuples and dictionaries holds, in order."""
    return private("tree_leaves")(tree)  # type: ignore[no-any-return]


def unseen(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function under none of the present modes."""
    with private("disable_current_modes")():
        return func(*args, **kwargs)
