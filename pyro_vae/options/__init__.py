"""Options: a function's own annotations say what each may be, and a refusal says what was meant.

`checked` checks every argument of a function or constructor against its annotation; a `Registry`
holds what may be chosen by name. Annotations that are understood: int, float, bool, str,
``Literal``, ``list[int]`` and the like, classes, unions of these, each perhaps ``Annotated`` with a
`Within` or a `Registry`. Nothing else is checked, nor are protocols.
"""

from pyro_vae.options.kinds import Count, Fraction, Positive, Weight, Whole, Within, accept
from pyro_vae.options.names import misspelled, one_of, quoted, suggestion, unknown
from pyro_vae.options.registry import Registry
from pyro_vae.options.signatures import checked, is_plain, kinds_of, plain, registries, shown

__all__ = [
    "Count",
    "Fraction",
    "Positive",
    "Registry",
    "Weight",
    "Whole",
    "Within",
    "accept",
    "checked",
    "is_plain",
    "kinds_of",
    "misspelled",
    "one_of",
    "plain",
    "quoted",
    "registries",
    "shown",
    "suggestion",
    "unknown",
]
