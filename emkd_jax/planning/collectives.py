"""Bytes that a compiled program moves between devices."""

import re

_COLLECTIVE = re.compile(
    r'= (?P<result>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|'
    r'collective-permute)(?P<start>-start)?\('
)
_ARRAY = re.compile(r'(pred|[a-z]+(\d+))\w*\[([\d,]*)\]')


def bytes_between_devices(program: str, num_devices: int) -> int:
    """Returns the bytes that each device sends to others, as the collectives of a program need.

    The fewest bytes that each collective can need are counted: of D devices, each sends (D - 1) / D
    of what it gathers or scatters, and twice as much of what is summed for all. The body of a loop
    counts once.

    Args:
      program: the text of a compiled program (HLO).
      num_devices: D, the devices that take part in every collective.
    """
    others, total = num_devices - 1, 0.0
    for found in _COLLECTIVE.finditer(program):
        size, kind = sum(map(_size, _ARRAY.finditer(found['result']))), found['kind']
        if found['start'] and kind == 'all-gather':  # the arrays before it are in the result, too
            size *= num_devices / (num_devices + 1)
        if kind == 'reduce-scatter':  # its result is a part
            size *= num_devices
        if kind == 'collective-permute':
            total += size / 2 if found['start'] else size
        else:
            total += size * others / num_devices * (2 if kind == 'all-reduce' else 1)
    return round(total)


def _size(array):
    bits = 8 if array[1] == 'pred' else int(array[2])
    size = bits / 8
    for length in filter(None, array[3].split(',')):
        size *= int(length)
    return size
