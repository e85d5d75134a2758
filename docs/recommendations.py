"""Draws docs/recommendations.svg: what one customer of examples/shop.py bought, and the top ten.

    python3 docs/recommendations.py shop shop/top10.jsonl customer-0007 > docs/recommendations.svg

The answers come from `--mode=recommend` with titles. Colour stands for an item's category.
"""

import csv
import json
import pathlib
import sys
from xml.sax.saxutils import escape

WIDTH, ROW, TOP, PAD = 960, 38, 96, 28
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
PAGE, PANEL, LINE, INK, MUTED = '#eef1f6', '#ffffff', '#b9c1cf', '#1b2333', '#5a6477'
COLOURS = ('#2f66d8', '#0f9d8a', '#e0633a', '#8a4fd0', '#c28a00', '#c2337a')
LEFT, RIGHT, PANEL_WIDTH = PAD, 496, 436
BAR = 120


def text(x, y, content, size=14, weight=400, fill=INK, anchor='start'):
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(str(content))}</text>'
    )


def box(x, y, width, height, fill, stroke='none', radius=12):
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{fill}" '
        f'stroke="{stroke}"/>'
    )


def item_line(x, y, colour, title, lead, width):
    """A colour chip and a title, with `lead` (a date or a rank) of some width before them."""
    return (
        text(x, y + 24, lead, 13, fill=MUTED)
        + box(x + width, y + 10, 18, 18, colour, radius=5)
        + text(x + width + 28, y + 24, title, 15, 500)
    )


def draw(folder, answers, user):
    """The lines of the SVG."""
    items = {row['item']: row for row in read(folder / 'items.csv')}
    bought = [row for row in read(folder / 'events.csv') if row['customer'] == user]
    lines = answers.read_text(encoding='utf-8').splitlines()
    answer = next(found for found in map(json.loads, lines) if found['user'] == user)
    categories = list(dict.fromkeys(row['category'] for row in items.values()))
    colour = {name: COLOURS[place] for place, name in enumerate(categories)}
    height = TOP + ROW * max(len(bought), len(answer['items'])) + 2 * PAD + 24

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="{FONT}">'
    )
    yield box(0, 0, WIDTH, height, PAGE, radius=0)
    for x, title in ((LEFT, f'{user} bought'), (RIGHT, 'and is recommended')):
        yield box(x, PAD, PANEL_WIDTH, height - 2 * PAD, PANEL, LINE, 16)
        yield text(x + 20, PAD + 36, title, 17, 650)
    for place, row in enumerate(bought):
        item = items[row['item']]
        y = TOP + place * ROW
        yield item_line(LEFT + 20, y, colour[item['category']], item['title'], row['date'], 92)
    low, high = min(answer['scores']), max(answer['scores'])
    for place, (name, title, score) in enumerate(
        zip(answer['items'], answer['titles'], answer['scores'], strict=True)
    ):
        y, shade = TOP + place * ROW, colour[items[name]['category']]
        yield item_line(RIGHT + 20, y, shade, title, place + 1, 34)
        share = (score - low) / (high - low or 1)
        x = RIGHT + PANEL_WIDTH - 20 - BAR
        yield box(x, y + 14, round(BAR * max(share, 0.04), 1), 10, shade, radius=5)
    x = LEFT + 20
    shown = {items[name]['category'] for name in answer['items'] + [row['item'] for row in bought]}
    for name in filter(shown.__contains__, categories):
        yield box(x, height - PAD - 30, 14, 14, colour[name], radius=4)
        yield text(x + 20, height - PAD - 18, name, 13, fill=MUTED)
        x += 40 + 7 * len(name)
    yield '</svg>'


def read(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


if __name__ == '__main__':
    folder, answers, user = sys.argv[1:]
    print('\n'.join(draw(pathlib.Path(folder), pathlib.Path(answers), user)))
