"""Variational autoencoders as probabilistic programs: a model and a guide, two short Pyro programs.

Importing the package changes no global state and loads nothing heavy; every name below is fetched on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULE_OF = {
    "Pair": "pairing",
    "PairError": "pairing",
    "Problem": "contract",
    "check_pair": "checking",
    "find_problems": "checking",
    "Data": "data",
    "DataError": "data",
    "Spec": "data",
    "load_data": "data",
    "SVI": "svi",
    "Fitted": "training",
    "fit": "training",
    "diagnose": "diagnostics",
    "elbo": "evidence",
    "log_evidence": "evidence",
    "log_weights": "weights",
    "to_datatree": "datatree",
}
_MODULES = frozenset(
    [
        "checking",
        "checkpoint",
        "compiled",
        "conditionals",
        "data",
        "diagnostics",
        "evidence",
        "guides",
        "handlers",
        "models",
        "nets",
        "objectives",
        "pairing",
        "pairs",
        "plots",
        "svi",
        "training",
    ]
)

__all__ = [
    "SVI",
    "Data",
    "DataError",
    "Fitted",
    "Pair",
    "PairError",
    "Problem",
    "Spec",
    "check_pair",
    "diagnose",
    "elbo",
    "find_problems",
    "fit",
    "load_data",
    "log_evidence",
    "log_weights",
    "to_datatree",
]

if TYPE_CHECKING:
    from pyro_vae.checking import check_pair, find_problems
    from pyro_vae.contract import Problem
    from pyro_vae.data import Data, DataError, Spec, load_data
    from pyro_vae.datatree import to_datatree
    from pyro_vae.diagnostics import diagnose
    from pyro_vae.evidence import elbo, log_evidence, log_weights
    from pyro_vae.pairing import Pair, PairError
    from pyro_vae.svi import SVI
    from pyro_vae.training import Fitted, fit


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pyro_vae.{name}")
    if name in _MODULE_OF:
        return getattr(import_module(f"pyro_vae.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__"})
