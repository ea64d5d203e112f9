"""Variational autoencoders as probabilistic programs: a model and a guide, two short Pyro programs.

Importing the package changes no global state and loads nothing heavy; every name below is fetched
on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PACKAGE_OF = {
    "Pair": "program",
    "PairError": "program",
    "Problem": "program",
    "check_pair": "program",
    "compare": "comparison",
    "find_problems": "program",
    "Data": "data",
    "DataError": "data",
    "Spec": "data",
    "load_data": "data",
    "SVI": "svi",
    "Fitted": "training",
    "fit": "training",
    "density_ratio": "diagnostics",
    "diagnose": "diagnostics",
    "em": "training",
    "load": "using",
    "elbo": "evidence",
    "explore": "explorer",
    "log_evidence": "evidence",
    "log_weights": "program",
    "query": "evidence",
    "to_datatree": "diagnostics",
}
_MODULES = {
    "checking": "program.checking",
    "checkpoint": "runs.checkpoint",
    "cli": "cli",
    "comparison": "comparison",
    "compiled": "compiled",
    "conditionals": "conditionals",
    "data": "data",
    "diagnostics": "diagnostics",
    "distributions": "distributions",
    "evidence": "evidence",
    "explorer": "explorer",
    "guides": "guides",
    "handlers": "program.handlers",
    "models": "models",
    "nets": "nets",
    "objectives": "objectives",
    "pairing": "program.pair",
    "pairs": "pairs",
    "plots": "plots",
    "posterior": "posterior",
    "program": "program",
    "report": "report",
    "runs": "runs",
    "svi": "svi",
    "training": "training",
    "using": "using",
}

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
    "compare",
    "density_ratio",
    "diagnose",
    "elbo",
    "em",
    "explore",
    "find_problems",
    "fit",
    "load",
    "load_data",
    "log_evidence",
    "log_weights",
    "query",
    "to_datatree",
]

if TYPE_CHECKING:
    from pyro_vae.comparison import compare
    from pyro_vae.data import Data, DataError, Spec, load_data
    from pyro_vae.diagnostics import density_ratio, diagnose, to_datatree
    from pyro_vae.evidence import elbo, log_evidence, query
    from pyro_vae.explorer import explore
    from pyro_vae.program import Pair, PairError, Problem, check_pair, find_problems, log_weights
    from pyro_vae.svi import SVI
    from pyro_vae.training import Fitted, em, fit
    from pyro_vae.using import load


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pyro_vae.{_MODULES[name]}")
    if name in _PACKAGE_OF:
        return getattr(import_module(f"pyro_vae.{_PACKAGE_OF[name]}"), name)
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__"})
