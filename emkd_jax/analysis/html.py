"""Markdown with plots as one HTML file that opens anywhere."""

import base64
import re

from etils import epath

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 64rem; font: 16px/1.5 system-ui, sans-serif;
  color: #1d2327; background: #ffffff; }}
h1, h2 {{ line-height: 1.2; }}
h2 {{ margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid #d9dcda; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.5rem; border-bottom: 1px solid #d9dcda; white-space: nowrap; }}
img {{ display: block; max-width: 100%; margin: 1rem 0; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def to_html(text: str, folder: epath.Path) -> str:
    """Turns Markdown into a page of its own.

    Args:
      text: Markdown, whose first line is the title. Its images are PNG files.
      folder: where the images are; the page holds copies of them.
    """
    import markdown

    def with_content(match: re.Match[str]) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    body = markdown.markdown(text, extensions=['tables'])
    body = re.sub(r'src="([\w-]+\.png)"', with_content, body)
    title = markdown.markdown(text.splitlines()[0].lstrip('# '))
    return _PAGE.format(title=re.sub('<[^>]*>', '', title), body=body)
