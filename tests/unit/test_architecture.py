"""The folders of the package depend on each other in one direction."""

import ast
import pathlib
import re

import emkd_jax

PACKAGE = pathlib.Path(emkd_jax.__file__).parent
PAGE = PACKAGE.parent / 'docs' / 'internals' / 'architecture.md'
LOADS_LATER = ('cli', 'config')  # inside functions they may import what comes after them


def folders():
    """The folders in the order that the documentation gives them."""
    drawing = re.search(r'```text\n(config -> .*?)```', PAGE.read_text(), re.DOTALL)
    assert drawing
    return re.findall(r'\w+', drawing[1])


def imported(path, everywhere):
    """The folders that a file imports from, at its beginning or everywhere."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('emkd_jax'):
            parts = node.module.split('.')[1:]
            yield from parts[:1] or [name.name for name in node.names]


def test_the_page_names_every_folder():
    assert sorted(folders()) == sorted(p.parent.name for p in PACKAGE.glob('*/__init__.py'))


def test_a_folder_imports_only_from_those_before_it():
    order = folders()
    wrong = [
        f'{path.relative_to(PACKAGE)} imports {other}'
        for place, folder in enumerate(order)
        for path in (PACKAGE / folder).rglob('*.py')
        for other in imported(path, everywhere=folder not in LOADS_LATER)
        if other in order[place + 1 :]
    ]
    assert not wrong
