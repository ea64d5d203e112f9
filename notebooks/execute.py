"""Execute notebooks anew and keep their outputs: ``python notebooks/execute.py notebooks/*.ipynb``; prints the seconds of each."""

import base64
import io
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

COLOURS = 64  # of a picture: a third of the bytes, and no difference to be seen


def execute(path: Path) -> None:
    """Run a notebook in an empty folder and write it back with its outputs, without what depends on the machine."""
    notebook = nbformat.read(path, 4)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=900,
            startup_timeout=900,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
    seconds = time.monotonic() - begun
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output["metadata"] = {}
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = smaller(output["data"]["image/png"])
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)
    print(f"{path.stem} {seconds:.0f} s", flush=True)


def smaller(picture: str) -> str:
    """Return a PNG in base64 with fewer colours."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(COLOURS)
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
