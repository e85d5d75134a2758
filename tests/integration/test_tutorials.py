"""The tutorials run from the first cell to the last, at a small size."""

import pathlib

import pytest

from tests.support import QUICK_TO_COMPILE

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

ROOT = pathlib.Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / 'docs' / 'tutorials').glob('*.ipynb'))


@pytest.mark.parametrize('path', TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path, tmp_path, monkeypatch):
    """A cell that would take long has a small version in its metadata, which runs instead."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
    monkeypatch.setenv('XLA_FLAGS', QUICK_TO_COMPILE)  # one device, as on a laptop
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.metadata.get('small', cell.source)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}}
    )
    client.execute()
    for output in (output for cell in notebook.cells for output in cell.get('outputs', ())):
        assert '\x1b' not in output.get('text', '')  # bold and colours are for terminals
        assert '<pre' not in output.get('data', {}).get('text/html', '')
