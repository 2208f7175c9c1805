"""The notebook runs from its first cell to its last, and is kept as it was before it ran."""

import json
import shutil

import pytest

from tests.documented import ROOT, clone_in

NOTEBOOK = ROOT / "docs/from_images_to_report.ipynb"


def test_the_notebook_is_kept_without_what_it_showed():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    shown = [(cell["outputs"], cell["execution_count"]) for cell in cells if "outputs" in cell]
    assert shown == [([], None)] * len(shown)
    assert shown


@pytest.mark.slow
def test_the_notebook_runs_and_leaves_its_reports(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra: pip install '.[docs]'")
    import nbformat

    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    clone_in(tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "docs")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(tmp_path / "docs")}}
    nbclient.NotebookClient(notebook, timeout=None, resources=folder).execute()
    for run in ("pretrained", "lesions", "elsewhere"):
        assert (tmp_path / "runs" / run / "report.html").is_file()
    rows = (tmp_path / "predictions/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(list((tmp_path / "data/unlabelled").iterdir()))
