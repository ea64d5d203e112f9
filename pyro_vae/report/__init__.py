"""``report.html``: what a run trained and reached, on one page; runs side by side on another."""

from pyro_vae.report.comparison import write_comparison
from pyro_vae.report.evaluation import show_evaluation
from pyro_vae.report.report import figures, write_report, write_run_report, write_tree
from pyro_vae.report.sections import command

__all__ = [
    "command",
    "figures",
    "show_evaluation",
    "write_comparison",
    "write_report",
    "write_run_report",
    "write_tree",
]
