"""What the site's build does besides MkDocs' own: see ``mkdocs.yml``."""

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def on_config(config: Any) -> Any:
    """Leave out navigation entries whose page is not there, so that a page appears when it is
    written; enter the notebooks."""
    config["nav"] = [_with_notebooks(entry) for entry in _present(config["nav"], Path(config["docs_dir"]))]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook, with the outputs that it holds."""
    from mkdocs.structure.files import File

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page_of(path)))
    return files


def page_of(path: Path) -> str:
    """Return a notebook as Markdown, its pictures inside it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [f"[The notebook itself](https://github.com/pyro-vae/pyro-vae/blob/main/notebooks/{path.name})"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))  # other notebooks are pages too
        elif source.strip():
            parts += [f"```python\n{source}\n```", *filter(None, map(_output, cell.get("outputs", [])))]
    first, *rest = parts
    title = next((i for i, part in enumerate(rest) if part.startswith("# ")), None)
    return "\n\n".join(rest if title is None else [*rest[: title + 1], first, *rest[title + 1 :]])


def _output(output: dict[str, Any]) -> str:
    """Return an output as Markdown: a picture, the HTML, or the text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"]).replace(chr(10), "")}">'
    if "image/svg+xml" in data or "text/html" in data:
        html = "".join(data.get("image/svg+xml") or data["text/html"])
        return re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|\n\s*\n", "\n", html, flags=re.DOTALL).strip()
    text = "".join(output.get("text") or data.get("text/plain") or [])
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def _with_notebooks(entry: dict[str, Any]) -> dict[str, Any]:
    ((title, target),) = entry.items()
    if title != "Notebooks":
        return entry
    pages = [{_title(path): f"notebooks/{path.stem}.md"} for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    return {title: [{"All of them": target}, *pages]}


def _title(path: Path) -> str:
    number, *words = path.stem.split("_")
    shown = [word.upper() if word in ("pca", "vae") else word for word in words]
    return f"{int(number)} {shown[0][:1].upper()}{' '.join(shown)[1:]}"


def _present(entries: list[Any], docs: Path) -> list[Any]:
    kept = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = _present(target, docs)
        if target and (isinstance(target, list) or (docs / target).is_file()):
            kept.append({title: target})
    return kept
