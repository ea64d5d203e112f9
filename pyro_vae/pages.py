"""Pages in HTML, from templates."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader


def rendered(template: Path, **shown: Any) -> str:
    """Return a page; the template escapes whatever it is given, and may extend those beside it."""
    pages = Environment(loader=FileSystemLoader(template.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template.name).render(shown)
