"""What ``pyro-vae evaluate`` found, put into a report that was written before."""

import re
from pathlib import Path
from typing import Any

from pyro_vae.report.page import rendered
from pyro_vae.runs import Run, open_regular, write_whole

# of the template's two comments
PLACE = re.compile(r"<!-- evaluation: (\w+) -->.*?<!-- /evaluation -->", re.DOTALL)


def evaluated(run: Run) -> dict[str, Any] | None:
    """Return what the report shows of the run's evaluation; None where there is none."""
    found, history = run.evaluation, run.history
    if found is None:
        return None
    now = int(history[-1]["step"]) if history else 0
    later = f"step {found.step:,} of {now:,}" if now > found.step else ""
    return {**found._asdict(), "later": later, "lines": [*found.table.items()]}


def show_evaluation(run: Run) -> Path | None:
    """Put the run's evaluation into its report, in place of an older one, and return its path; None
    where there is no report that has a place for it.

    Raises:
        OSError: it cannot be read or written.
    """
    report = run.folder / "report.html"
    if not report.is_file():
        return None
    with open_regular(report) as file:
        text = file.read().decode(errors="replace")
    places = {match[1]: match[0] for match in PLACE.finditer(rendered("evaluation.html.j2", evaluation=evaluated(run)))}
    new, count = PLACE.subn(lambda match: places.get(match[1], match[0]), text)
    if not count:
        return None
    write_whole(report, new.encode())
    return report
