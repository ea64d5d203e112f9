"""Runs on the same data side by side: density, sampling, representation and cost, in one table."""

from pyro_vae.comparison.comparison import Comparison, compare, compare_entries
from pyro_vae.comparison.cost import Cost
from pyro_vae.comparison.density import Density
from pyro_vae.comparison.entries import Entry, with_names
from pyro_vae.comparison.representation import Representation
from pyro_vae.comparison.sampling import Sampling, judged, yardstick
from pyro_vae.comparison.table import Row
from pyro_vae.comparison.words import Section, as_text, remarks, sections

__all__ = [
    "Comparison",
    "Cost",
    "Density",
    "Entry",
    "Representation",
    "Row",
    "Sampling",
    "Section",
    "as_text",
    "compare",
    "compare_entries",
    "judged",
    "remarks",
    "sections",
    "with_names",
    "yardstick",
]
