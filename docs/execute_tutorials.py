"""Runs the tutorials and stores what they print, without progress bars and warnings.

    python docs/execute_tutorials.py

Each notebook runs in a temporary folder. This takes a few minutes; the tests only run the tutorials
at a small size and store nothing.
"""

import os
import pathlib
import tempfile

import nbformat
from nbclient import NotebookClient

TUTORIALS = pathlib.Path(__file__).parent / 'tutorials'


def execute(path: pathlib.Path) -> None:
    """Runs one notebook and writes it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ['TFDS_DATA_DIR'] = f'{folder}/prepared'
        resources = {'metadata': {'path': folder}}
        NotebookClient(notebook, timeout=1800, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)  # when it ran
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    notebook.metadata.pop('language_info', None)  # names the version of Python
    text = nbformat.writes(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    for tutorial in sorted(TUTORIALS.glob('*.ipynb')):
        print(tutorial.name)
        execute(tutorial)
