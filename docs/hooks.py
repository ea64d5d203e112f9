"""What the site's build does besides MkDocs' own: see ``mkdocs.yml``."""

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Leave out navigation entries whose page is not there, so that a page appears when it is
    written."""
    config["nav"] = _present(config["nav"], Path(config["docs_dir"]))
    return config


def _present(entries: list[Any], docs: Path) -> list[Any]:
    kept = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = _present(target, docs)
        if target and (isinstance(target, list) or (docs / target).is_file()):
            kept.append({title: target})
    return kept
