"""docs/tutorial.ipynb: its contents and, as a slow test, that it runs.

    python -m tests.docs.test_notebook

runs the notebook in `runs/tutorial`, in minutes on a CPU, and saves its outputs; this needs the extra `docs`.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import PROJECT

NOTEBOOK = PROJECT / "docs" / "tutorial.ipynb"


def execute(notebook: Any) -> None:
    """Run every cell; output to stderr, such as progress bars, is dropped."""
    from nbclient import NotebookClient

    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it was run
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}


def code_cells() -> list[dict[str, Any]]:
    """The code cells, with `source` joined into one string."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def pictures(cells: Any) -> list[Any]:
    """The PNGs among the outputs."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def test_the_notebook_is_small_and_its_code_parses():
    assert NOTEBOOK.stat().st_size < 500_000
    for cell in code_cells():
        ast.parse(cell["source"])


def test_every_cell_of_the_notebook_has_run_without_an_error():
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"execute_result", "stream"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}


def test_the_notebook_shows_digits_samples_a_render_and_a_part():
    assert len(pictures(code_cells())) == 5
    assert "size=512, region=" in code_cells()[-1]["source"]


def test_the_scripts_and_configs_of_the_notebook_exist():
    source = "\n".join(cell["source"] for cell in code_cells())
    paths = re.findall(r"\b(?:train|sample|configs)/[\w/]+\.\w+", source)
    assert len(paths) >= 4 and [path for path in paths if not (PROJECT / path).exists()] == []


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    (setup,) = [cell for cell in notebook.cells if 'RUNS = "runs/tutorial"' in cell.source]
    setup.source = setup.source.replace("runs/tutorial", Path(tmp_path / "runs").as_posix())
    execute(notebook)
    assert len(pictures(notebook.cells)) == 5


if __name__ == "__main__":
    import nbformat

    tutorial = nbformat.read(NOTEBOOK, as_version=4)
    execute(tutorial)
    nbformat.write(tutorial, NOTEBOOK)
