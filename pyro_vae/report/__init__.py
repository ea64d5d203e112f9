"""``report.html``: what a run trained and reached, on one page."""

from pyro_vae.report.report import figures, write_report, write_run_report, write_tree
from pyro_vae.report.sections import command

__all__ = [
    "command",
    "figures",
    "write_report",
    "write_run_report",
    "write_tree",
]
