"""Draws docs/assets/architecture.svg: what one train step computes, and how items are ranked.

    python docs/architecture.py > docs/assets/architecture.svg

A colour always stands for a network. The monospaced names are the files that do the work.
"""

import sys

WIDTH, HEIGHT = 1200, 938
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONOSPACED = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PAGE, PANEL, ITEM, LINE = '#eef1f6', '#ffffff', '#e6e9f0', '#b9c1cf'
INK, MUTED = '#1b2333', '#5a6477'
NETWORKS = ('#2f66d8', '#0f9d8a', '#e0633a')
NAMES = '12N'
TINTS = ('#e4ecfb', '#dcf2ef', '#fbe6dd')

TILE, GAP = 30, 4  # size of a sequence's slot, and the space between two slots
PANEL_X, PANEL_WIDTH, PAD = 28, 1128, 32
LOSS_TOP, LOSS_HEIGHT, LOSS_GAP = 164, 74, 10
NETWORK_X, NETWORK_WIDTH, SHIFT = 374, 172, 14  # the front card; the cards behind are shifted
FILES_Y = 600  # the line with the names of files under the first four columns
HEAD_X, HEAD_WIDTH, LOSS_X, LOSS_WIDTH = 628, 172, 836, 288

HISTORY = (None, None, 12, 7, 93, 40, 5)
MASK = '?'


def text(x, y, content, size=14, weight=400, fill=INK, anchor='start'):
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{content}</text>'
    )


def file_name(x, y, content):
    """The name of a file of the package."""
    return (
        f'<text x="{x}" y="{y}" font-size="12" font-family="{MONOSPACED}" fill="{MUTED}">'
        f'{content}</text>'
    )


def box(x, y, width, height, fill=PANEL, stroke=LINE, radius=10, extra=''):
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{fill}" '
        f'stroke="{stroke}"{extra}/>'
    )


def line(path, stroke=MUTED, arrow=True):
    end = f' marker-end="url(#arrow-{stroke[1:]})"' if arrow else ''
    return f'<path d="{path}" fill="none" stroke="{stroke}" stroke-width="1.6"{end}/>'


def arrowhead(color):
    return (
        f'<marker id="arrow-{color[1:]}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M1 1 L9 5 L1 9" fill="none" stroke="{color}" '
        'stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round"/></marker>'
    )


def dot(x, y, radius, fill, stroke='none'):
    return f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{stroke}"/>'


def bars(x, base, heights, fill, width=6, gap=3):
    """A small bar chart; `fill` is one colour, or a list with a colour for each bar."""
    fills = [fill] * len(heights) if isinstance(fill, str) else fill
    return ''.join(
        f'<rect x="{x + i * (width + gap)}" y="{base - height}" width="{width}" '
        f'height="{height}" rx="1.5" fill="{color}"/>'
        for i, (height, color) in enumerate(zip(heights, fills, strict=True))
    )


def tile(x, y, item):
    """One slot: padding (None), a masked item, a random replacement ('~12') or an item."""
    if item is None:
        return box(x, y, TILE, TILE, 'none', LINE, 7, ' stroke-dasharray="3 3"')
    if item == MASK:
        fill, stroke, ink, weight = INK, INK, PANEL, 700
    elif str(item).startswith('~'):
        fill, stroke, ink, weight = PANEL, INK, INK, 600
    else:
        fill, stroke, ink, weight = ITEM, ITEM, INK, 500
    return box(x, y, TILE, TILE, fill, stroke, 7) + text(
        x + TILE / 2, y + TILE / 2 + 5, str(item).removeprefix('~'), 14, weight, ink, 'middle'
    )


def row(x, y, items):
    return ''.join(tile(x + i * (TILE + GAP), y, item) for i, item in enumerate(items))


def panel(y, height):
    return box(PANEL_X, y, PANEL_WIDTH, height, PANEL, LINE, 16)


def heading(x, number, content, y=140):
    return (
        dot(x + 10, y - 5, 11, INK)
        + text(x + 10, y, number, 13, 700, PANEL, 'middle')
        + text(x + 29, y, content, 16, 650)
    )


def sequences():
    """Column 1: a sequence, its masked views, and the rates of masking."""
    x, top, step = PANEL_X + PAD, 164, 67
    width = len(HISTORY) * (TILE + GAP) - GAP
    views = {
        'view 1': (None, None, 12, MASK, 93, 40, 5),
        'view 2': (None, None, 12, 7, 93, MASK, '~68'),
        'view M': (None, None, MASK, 7, 93, 40, MASK),
    }
    out = [heading(x, 1, 'One sequence, M views')]
    out += [text(x, top + 12, 'sequence', 13, fill=MUTED), row(x, top + 20, HISTORY)]
    places = [top + step, top + 2 * step, top + 3 * step + 22]
    for (name, view), y in zip(views.items(), places, strict=True):
        out += [text(x, y + 12, name, 13, fill=MUTED), row(x, y + 20, view)]
    middle = x + width / 2
    out += [dot(middle, places[2] - 12 + dy, 1.8, MUTED) for dy in (-7, 0, 7)]
    first, last, right = top + 35, places[2] + 35, x + width + 10
    out.append(line(f'M{right} {first} h4 q6 0 6 6 V{last - 6} q0 6 -6 6 h-4', arrow=False))
    out.append(line(f'M{right + 10} 300 H{NETWORK_X - 5}'))
    y = places[2] + 84
    out.append(text(x, y, '15% of the real positions are chosen:', 13, fill=MUTED))
    for i, (shown, share) in enumerate(((MASK, '80%'), ('~68', '10%'), (5, '10%'))):
        left = x + (0, 80, 170)[i]
        out += [tile(left, y + 12, shown), text(left + 37, y + 32, share, 14)]
    for i, meaning in enumerate(('mask', 'random item', 'kept')):
        out.append(text(x + (0, 80, 170)[i], y + 60, meaning, 13, fill=MUTED))
    return out


def networks():
    """Column 2: the stack of networks; the front card shows the inside of one."""
    x, y, width, height = NETWORK_X, 216, NETWORK_WIDTH, 308
    out = [heading(x, 2, 'N networks, one stack')]
    for n in (2, 1, 0):
        left, top = x + n * SHIFT, y - n * 26
        out += [
            box(left, top, width, height, TINTS[n], NETWORKS[n], 12, ' stroke-width="1.6"'),
            text(left + 14, top + 19, f'network {NAMES[n]}', 13, 650, NETWORKS[n]),
        ]
    inside, wide, middle = x + 12, width - 24, x + width / 2
    out += [
        box(inside, y + 30, wide, 48, PANEL, NETWORKS[0], 8),
        text(middle, y + 50, 'embeddings', 14, 600, anchor='middle'),
        text(middle, y + 68, 'item + slot', 13, fill=MUTED, anchor='middle'),
        line(f'M{middle} {y + 78} v12', NETWORKS[0]),
        box(inside, y + 94, wide, 98, PANEL, NETWORKS[0], 8),
        box(inside + 10, y + 104, wide - 20, 26, TINTS[0], TINTS[0], 6),
        text(middle, y + 122, 'attention', 14, 500, anchor='middle'),
        box(inside + 10, y + 136, wide - 20, 26, TINTS[0], TINTS[0], 6),
        text(middle, y + 154, 'feed forward', 14, 500, anchor='middle'),
        text(middle, y + 182, '&#215; blocks', 13, fill=MUTED, anchor='middle'),
        line(f'M{middle} {y + 192} v12', NETWORKS[0]),
        box(inside, y + 208, wide, 88, PANEL, NETWORKS[0], 8),
        text(middle, y + 228, 'hidden states', 14, 600, anchor='middle'),
    ]
    for column in range(7):
        for level in range(3):
            strength = 0.18 + 0.62 * ((column * 5 + level * 3) % 7) / 6
            out.append(
                f'<rect x="{middle - 55 + column * 16}" y="{y + 238 + level * 16}" width="13" '
                f'height="13" rx="3" fill="{NETWORKS[0]}" opacity="{strength:.2f}"/>'
            )
    out += [
        text(x, y + height + 22, 'jax.vmap over weights [N, …]:', 13, fill=MUTED),
        text(x, y + height + 40, 'one call for all networks and rows', 13, fill=MUTED),
    ]
    return out


def heads():
    """Column 3: the heads that use the hidden states, and arrows to the losses."""
    centres = [LOSS_TOP + LOSS_HEIGHT / 2 + i * (LOSS_HEIGHT + LOSS_GAP) for i in range(5)]
    groups = {
        (centres[0] + centres[1]) / 2: ('item head', 'd → V + 1 logits', 'masked positions only'),
        centres[2]: ('attribute head', 'd → A + 1 logits', 'unmasked sequence'),
        (centres[3] + centres[4]) / 2: ('whole sequence', 'L · d values', 'cosine similarity / τ'),
    }
    out = [heading(HEAD_X, 3, 'Heads')]
    source = NETWORK_X + NETWORK_WIDTH + 2 * SHIFT
    trunk = (source + HEAD_X) / 2 - 2
    for centre, (name, size, detail) in groups.items():
        out += [
            box(HEAD_X, centre - 37, HEAD_WIDTH, 74),
            text(HEAD_X + 14, centre - 13, name, 14, 650),
            text(HEAD_X + 14, centre + 7, size, 13, fill=MUTED),
            text(HEAD_X + 14, centre + 25, detail, 13, fill=MUTED),
        ]
    first, second, third = groups
    out += [
        line(f'M{source} {second} H{HEAD_X - 4}'),
        line(f'M{trunk} {second} V{first + 8} q0 -8 8 -8 H{HEAD_X - 4}'),
        line(f'M{trunk} {second} V{third - 8} q0 8 8 8 H{HEAD_X - 4}'),
        line(f'M{HEAD_X + HEAD_WIDTH} {second} H{LOSS_X - 4}'),
    ]
    middle = (HEAD_X + HEAD_WIDTH + LOSS_X) / 2 - 2
    for centre, up, down in ((first, centres[0], centres[1]), (third, centres[3], centres[4])):
        out += [
            line(f'M{HEAD_X + HEAD_WIDTH} {centre} H{middle}', arrow=False),
            line(f'M{middle} {centre} V{up + 8} q0 -8 8 -8 H{LOSS_X - 4}'),
            line(f'M{middle} {centre} V{down - 8} q0 8 8 8 H{LOSS_X - 4}'),
        ]
    return out


def masked_items_picture(x, y):
    heights = (9, 16, 7, 40, 12, 18, 6)
    fills = [NETWORKS[0] if height == 40 else LINE for height in heights]
    return bars(x - 30, y + 22, heights, fills) + dot(x, y - 27, 3.5, INK)


def distillation_picture(x, y):
    return (
        bars(x - 40, y + 20, (12, 36, 22, 9), NETWORKS[0], 5, 2)
        + bars(x + 15, y + 20, (16, 29, 26, 7), NETWORKS[1], 5, 2)
        + line(f'M{x - 8} {y - 1} h16', INK)
        + line(f'M{x + 8} {y + 9} h-16', INK)
    )


def attributes_picture(x, y):
    has = (1, 4, 6)
    return ''.join(
        dot(x - 26 + i % 4 * 17, y - 9 + i // 4 * 18, 6, *colors)
        for i in range(8)
        for colors in [(NETWORKS[0], NETWORKS[0]) if i in has else (PANEL, LINE)]
    )


def contrast_picture(x, y, anchor, views):
    near = ((14, -12), (20, 4), (6, 14), (-6, -16))
    apart = ((-32, 18), (-30, -20), (36, -24), (34, 24))
    out = [
        line(f'M{x} {y} l{dx * 0.62:.1f} {dy * 0.62:.1f}', views, arrow=False) for dx, dy in near
    ]
    out += [dot(x + dx, y + dy, 4, views) for dx, dy in near]
    out += [dot(x + dx, y + dy, 4, LINE) for dx, dy in apart]
    return ''.join(out) + dot(x, y, 6.5, anchor)


def losses():
    """Column 4: the five parts of the objective, each with its weight."""
    cards = (
        ('Masked items', ('cross-entropy over', 'the whole catalogue'), '', masked_items_picture),
        ('Distillation (KD)', ('from each network', 'to every other'), 'μ', distillation_picture),
        ('Attributes', ('which ones does', 'the item have?'), '', attributes_picture),
        (
            'Contrast within (ICL)',
            ('own views close,', 'other sequences apart'),
            'λ',
            lambda x, y: contrast_picture(x, y, NETWORKS[0], NETWORKS[0]),
        ),
        (
            'Contrast across (CCL)',
            ('the same, between', 'different networks'),
            'λ',
            lambda x, y: contrast_picture(x, y, NETWORKS[0], NETWORKS[1]),
        ),
    )
    out = [heading(LOSS_X, 4, 'Five losses, one sum')]
    for i, (name, lines, weight, picture) in enumerate(cards):
        y = LOSS_TOP + i * (LOSS_HEIGHT + LOSS_GAP)
        middle = y + LOSS_HEIGHT / 2
        out += [
            box(LOSS_X, y, LOSS_WIDTH, LOSS_HEIGHT),
            picture(LOSS_X + 50, middle),
            text(LOSS_X + 102, middle - 13, name, 14, 650),
            text(LOSS_X + 102, middle + 7, lines[0], 13, fill=MUTED),
            text(LOSS_X + 102, middle + 24, lines[1], 13, fill=MUTED),
        ]
        if weight:
            out += [
                box(LOSS_X + LOSS_WIDTH - 42, y + LOSS_HEIGHT - 30, 34, 22, ITEM, ITEM, 11),
                text(
                    LOSS_X + LOSS_WIDTH - 25,
                    y + LOSS_HEIGHT - 14,
                    f'&#215; {weight}',
                    13,
                    600,
                    anchor='middle',
                ),
            ]
    return out


def train_panel():
    """The share of one device in the step; cards behind it stand for other devices."""
    top, height = 92, 606
    out = [box(PANEL_X + 8 * i, top + 8 * i, PANEL_WIDTH, height, PANEL, LINE, 16) for i in (2, 1)]
    out += [panel(top, height), *sequences(), *networks(), *heads(), *losses()]
    out += [
        file_name(PANEL_X + PAD, FILES_Y, 'objective/masking.py'),
        file_name(NETWORK_X, FILES_Y, 'model/encoders/'),
        file_name(HEAD_X, FILES_Y, 'model/ensemble.py'),
        file_name(LOSS_X, FILES_Y, 'objective/'),
    ]
    return out + devices(616)


def devices(top):
    """Row 5: how all devices together take one step."""
    x, middle = PANEL_X + PAD, top + 42
    out = [
        line(f'M{x} {top} H{PANEL_X + PANEL_WIDTH - PAD}', LINE, arrow=False),
        heading(x, 5, 'One pmapped step', middle - 5),
        file_name(x + 29, middle + 20, 'training/dispatch.py'),
    ]
    left = NETWORK_X - 76
    for name, wide in (('device 0', 84), ('device 1', 84), ('…', 26), ('device D &#8722; 1', 104)):
        if wide > 26:
            out.append(box(left, middle - 25, wide, 28, ITEM, ITEM, 8))
        out.append(text(left + wide / 2, middle - 6.5, name, 13, 600, anchor='middle'))
        left += wide + 6
    out += [
        text(
            NETWORK_X - 76,
            middle + 20,
            'rows of one global batch; many steps per dispatch',
            13,
            fill=MUTED,
        ),
        line(f'M{left + 4} {middle - 10} H{HEAD_X + 22}'),
        text(HEAD_X + 34, middle - 5, 'all_gather, psum', 14, 650),
        text(HEAD_X + 34, middle + 20, 'negatives, sums, gradients', 13, fill=MUTED),
        line(f'M{LOSS_X + 30} {middle - 10} H{LOSS_X + 82}'),
        text(LOSS_X + 102, middle - 5, 'Adam', 14, 650),
        text(LOSS_X + 102, middle + 20, 'each network on its own', 13, fill=MUTED),
    ]
    return out


def ranking_panel():
    """The same networks rank items: their logits at the last slot are summed."""
    top, height = 742, 166
    x, middle, base = PANEL_X + PAD, top + 100, top + 124
    out = [
        panel(top, height),
        text(x, top + 38, 'Ranking by the sum of the logits', 16, 650),
        file_name(x, top + 58, 'evaluation/metrics.py'),
        row(x, middle - 15, (None, 12, 7, 93, 40, 5, MASK)),
        text(x, middle + 40, 'history, then the mask token', 13, fill=MUTED),
        line(f'M{x + 246} {middle} H{NETWORK_X - 5}'),
    ]
    for n in (2, 1, 0):
        out.append(
            box(
                NETWORK_X + SHIFT * n,
                middle - 28 - 13 * n,
                100,
                60,
                TINTS[n],
                NETWORKS[n],
                10,
                ' stroke-width="1.6"',
            )
        )
    out += [
        text(NETWORK_X + 50, middle - 1, 'networks', 14, 650, NETWORKS[0], 'middle'),
        text(NETWORK_X + 50, middle + 18, 'last slot', 13, fill=MUTED, anchor='middle'),
        line(f'M{NETWORK_X + 100 + 2 * SHIFT} {middle} h34'),
    ]
    logits = ((12, 26, 8, 19, 13), (16, 21, 11, 23, 7), (10, 29, 13, 12, 16))
    left, width, gap = NETWORK_X + 178, 9, 4
    wide = 5 * (width + gap) - gap
    out.append(text(left, middle + 40, 'each network&#8217;s logits of all items', 13, fill=MUTED))
    for n, values in enumerate(logits):
        out.append(bars(left, base - 1, values, NETWORKS[n], width, gap))
        out.append(line(f'M{left - 4} {base} h{wide + 8}', LINE, arrow=False))
        out.append(text(left + wide + 15, base - 8, '++='[n], 18, 500, MUTED, 'middle'))
        left += wide + 30
    for i, stack in enumerate(zip(*logits, strict=True)):
        foot = base - 1
        for n, value in enumerate(stack):
            out.append(bars(left + i * (width + gap), foot, (value,), NETWORKS[n], width))
            foot -= value
    out += [
        line(f'M{left - 4} {base} h{wide + 8}', LINE, arrow=False),
        line(f'M{left + wide + 14} {middle} h28'),
    ]
    left += wide + 52
    out.append(text(left, middle + 40, 'without excluded items', 13, fill=MUTED))
    for i, item in enumerate((68, 22, 31)):
        out += [
            text(left + i * 65, middle + 5, f'{i + 1}.', 14, 600, MUTED),
            tile(left + i * 65 + 19, middle - 15, item),
        ]
    return out


def figure():
    body = [
        box(0.5, 0.5, WIDTH - 1, HEIGHT - 1, PAGE, LINE, 20),
        text(PANEL_X + 4, 46, 'EMKD in one train step', 26, 700),
        text(
            PANEL_X + 4,
            72,
            'An ensemble of sequential recommenders that teach one another, on '
            'every device at once',
            15,
            fill=MUTED,
        ),
    ]
    for n, name in enumerate(NAMES):
        left = 856 + n * 106
        body += [
            dot(left, 67, 6, NETWORKS[n]),
            text(left + 12, 72, f'network {name}', 14, fill=MUTED),
        ]
    body += train_panel() + ranking_panel()
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="{FONT}" role="img">',
            '<title>EMKD: masked views, N vectorised networks, five losses, one pmapped step; '
            'ranking by the sum of logits</title>',
            f'<defs>{"".join(arrowhead(color) for color in (MUTED, INK, NETWORKS[0]))}</defs>',
            *body,
            '</svg>\n',
        ]
    )


if __name__ == '__main__':
    sys.stdout.buffer.write(figure().encode())
