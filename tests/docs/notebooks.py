"""The notebooks in docs/, run as a reader runs them: in the folder with `archive` and `scores`.

They are stored with what they print and draw. A test runs them and compares the text; `python -m tests.docs.refresh`
stores anew what they give now. Of pictures only their number is compared: another machine draws letters otherwise.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

from .running import Desk

MOST_BYTES = 300_000
"""Of a notebook with its pictures."""
TIMEOUT_SECONDS = 300


def run(page: Path, desk: Desk) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel. Raises CellExecutionError for the first cell that fails."""
    notebook = nbformat.read(page, as_version=4)
    with tempfile.TemporaryDirectory() as settings:
        # Nothing of the user's own Jupyter: no profile, no start-up files.
        own = dict.fromkeys(("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"), settings)
        with desk.at_work(), mock.patch.dict(os.environ, own):
            _execute(notebook, desk.folder)
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this machine's
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata.pop("execution", None)  # times
        for output in cell.outputs:
            if "text" in output:
                output["text"] = desk.as_shown(output["text"]) + "\n"
            if output.output_type == "execute_result":
                output["execution_count"] = number + 1
    return notebook


def _execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=TIMEOUT_SECONDS, kernel_name="python3", resources=resources).execute()


def told(notebook: nbformat.NotebookNode) -> list[tuple[str, str, int]]:
    """(source, text that was printed, number of pictures) of each code cell."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = "".join(output.get("text", "") for output in cell.outputs)
            drawn = sum("image/png" in output.get("data", {}) for output in cell.outputs)
            found.append((cell.source, text.rstrip("\n"), drawn))
    return found


def refresh(page: Path, desk: Desk) -> None:
    desk.clear()
    nbformat.write(run(page, desk), page)
