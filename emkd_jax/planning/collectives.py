"""Bytes that a compiled program moves between devices."""

import re
from collections.abc import Iterator

_HEADER = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_COLLECTIVE = re.compile(
    r'= (?P<result>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|'
    r'collective-permute)(?P<start>-start)?\('
)
_CALLED = re.compile(r'(?:calls|to_apply|body)=%?([\w.-]+)|branch_computations=\{([^}]*)\}')
_ARRAY = re.compile(r'(pred|[a-z]+(\d+))\w*\[([\d,]*)\]')
_CHAIN = re.compile(r'chain_id="(\d+)"')


def bytes_between_devices(program: str, num_devices: int) -> int:
    """Returns the bytes that each device sends to others, as the collectives of a program need.

    The fewest bytes that each collective can need are counted: of D devices, each sends (D - 1) / D
    of what it gathers or scatters, and twice as much of what is summed for all. The body of a loop
    counts as often as it runs, or once where the program does not tell.

    Args:
      program: the text of a compiled program (HLO).
      num_devices: D, the devices that take part in every collective.
    """
    computations, entry = _computations(program)
    chains: set[str] = set()

    def sent_by(name: str) -> float:
        total = 0.0
        for line in computations.get(name, ()):
            # A collective that runs beside other work is written in each part of this work.
            chain = _CHAIN.search(line)
            if (found := _COLLECTIVE.search(line)) and not (chain and chain[1] in chains):
                total += _sent(found, num_devices)
                chains.update(chain.groups() if chain else ())
            total += _runs(line, computations) * sum(map(sent_by, _called(line)))
        return total

    return round(sent_by(entry))


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a program, and the name of the one that it starts with."""
    computations: dict[str, list[str]] = {}
    name = entry = ''
    for line in program.splitlines():
        if header := _HEADER.match(line):
            name = header['name']
            entry = name if header['entry'] else entry
        computations.setdefault(name, []).append(line)
    return computations, entry


def _called(line: str) -> Iterator[str]:
    for one, several in _CALLED.findall(line):
        yield from [one] if one else (name.strip(' %') for name in several.split(','))


def _runs(line: str, computations: dict[str, list[str]]) -> int:
    """How often an operation runs what it calls: more than once if it is a loop of known length."""
    if ' while(' not in line:
        return 1
    if known := re.search(r'known_trip_count\D*(\d+)', line):
        return int(known[1])
    condition = re.search(r'condition=%?([\w.-]+)', line)
    lines = computations.get(condition[1], []) if condition else []
    [last] = [line for line in lines if 'ROOT' in line] or ['']
    limits = dict(re.findall(r'%?([\w.-]+) = s32\[\]\S* constant\((\d+)\)', '\n'.join(lines)))
    if ' compare(' in last and 'direction=LT' in last:
        for operand in re.findall(r'%?([\w.-]+)', last.partition(' compare(')[2]):
            if operand in limits:
                return int(limits[operand])
    return 1


def _sent(found: re.Match[str], num_devices: int) -> float:
    others = num_devices - 1
    size, kind = sum(map(_size, _ARRAY.finditer(found['result']))), found['kind']
    if found['start'] and kind == 'all-gather':  # the arrays before it are in the result, too
        size *= num_devices / (num_devices + 1)
    if kind == 'reduce-scatter':  # its result is a part
        size *= num_devices
    if kind == 'collective-permute':
        return size / 2 if found['start'] else size
    return size * others / num_devices * (2 if kind == 'all-reduce' else 1)


def _size(array):
    bits = 8 if array[1] == 'pred' else int(array[2])
    size = bits / 8
    for length in filter(None, array[3].split(',')):
        size *= int(length)
    return size
