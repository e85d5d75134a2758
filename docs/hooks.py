"""Hooks of mkdocs: equations as MathML, and the records in results/ as part of the site.

The pages can also be read where they are stored, on a code host. They link to `../results/` and
write equations as hosts render them: in fences named `math`, and as $`...`$ within a line.
"""

import pathlib
import posixpath
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

RESULTS = pathlib.Path(__file__).parent.parent / 'results'


def on_config(config):
    """Renders fences named `math`."""
    fences = config['mdx_configs'].setdefault('pymdownx.superfences', {})
    fences['custom_fences'] = [{'name': 'math', 'class': 'math', 'format': _equation}]
    return config


def on_files(files, config):
    """Adds results/ to the site."""
    for path in sorted(RESULTS.iterdir()):
        if path.suffix in ('.json', '.png'):
            files.append(File.generated(config, f'results/{path.name}', abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Sets equations within a line aside, and points links to records at the copies in the site.

    Markdown would take an equation at the beginning of a line for a block of HTML.
    """
    del config, files
    page.meta['equations'] = equations = []

    def set_aside(found):
        equations.append(convert(found[1]))
        return f'@equation{len(equations) - 1}@'

    markdown = re.sub(r'\$`(.+?)`\$', set_aside, markdown)
    return re.sub(r'\]\(((?:\.\./)*)\.\./results/', r'](\1results/', markdown)


def on_page_content(html, page, config, files):
    """Puts the equations within lines back, and lets the links of notebooks point at pages."""
    del config
    if page.file.src_uri.endswith('.ipynb'):
        folder = posixpath.dirname(page.file.src_uri)

        def to_page(found):
            target = files.get_file_from_path(posixpath.normpath(f'{folder}/{found[1]}'))
            if target is None:
                raise PluginError(f'{page.file.src_uri} links to {found[1]}, which does not exist.')
            return f'href="{target.url_relative_to(page.file)}'

        html = re.sub(r'href="([^":#]+\.(?:md|ipynb))', to_page, html)
    return re.sub(r'@equation(\d+)@', lambda found: page.meta['equations'][int(found[1])], html)


def _equation(source, language, css_class, options, md, **kwargs):
    del language, options, md, kwargs
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'
