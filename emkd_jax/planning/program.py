"""A compiled program as XLA prints it (HLO), read as far as the plan needs it.

https://openxla.org/xla/operation_semantics describes the operations.
"""

import math
import re
from typing import NamedTuple

_HEADER = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_OPERATION = re.compile(r'^\s*(?P<root>ROOT )?%?(?P<name>[\w.-]+) = ')
_ARRAY = re.compile(r'(pred|[a-z]+(\d+))\w*\[([\d,]*)\](\{[^}]*\})?')
_TILE = re.compile(r':T\(([\d,]+)\)')
_CALLED = re.compile(r'(?:calls|to_apply|body)=%?([\w.-]+)|branch_computations=\{([^}]*)\}')


class ArrayType(NamedTuple):
    """An array in a program.

    Attributes:
      size: in bytes, with the padding of the last tiles on a TPU.
      in_main_memory: whether it lies there, and not in a faster memory of the chip.
    """

    size: float
    in_main_memory: bool


class Operation(NamedTuple):
    """One line of a program.

    Attributes:
      name: it is unique in the program.
      kind: such as `fusion` or `all-reduce`.
      result: the arrays that it gives.
      operands: the names of those that it takes; of a parameter, its number.
      attributes: the rest of the line.
      is_root: whether its result is that of its computation.
    """

    name: str
    kind: str
    result: tuple[ArrayType, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def called(self) -> list[str]:
        """The computations that run within this operation."""
        return [
            name.strip(' %')
            for one, several in _CALLED.findall(self.attributes)
            for name in (one or several).split(',')
        ]


class Program(NamedTuple):
    """Computations by name, each a list of operations, and the name of the first."""

    computations: dict[str, list[Operation]]
    entry: str

    def rounds(self, loop: Operation) -> int:
        """How often a loop runs its body, or 1 where the program does not tell."""
        if known := re.search(r'known_trip_count\D*(\d+)', loop.attributes):
            return int(known[1])
        condition = re.search(r'condition=%?([\w.-]+)', loop.attributes)
        lines = self.computations.get(condition[1], []) if condition else []
        limits = {line.name: line.operands[0] for line in lines if line.kind == 'constant'}
        for line in lines:
            if line.is_root and line.kind == 'compare' and 'direction=LT' in line.attributes:
                for operand in line.operands:
                    if limits.get(operand, '').isdigit():
                        return int(limits[operand])
        return 1


def read_program(text: str) -> Program:
    """Reads the text of a compiled program."""
    computations: dict[str, list[Operation]] = {}
    name = entry = ''
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header['name']
            entry = name if header['entry'] else entry
        elif found := _OPERATION.match(line):
            computations.setdefault(name, []).append(_operation(found, line[found.end() :]))
    return Program(computations, entry)


def _operation(found, line):
    types, rest = _parted(line) if line.startswith('(') else line.split(' ', 1)
    kind, rest = rest.lstrip().split('(', 1)
    inner, attributes = _parted(f'({rest}')
    names = re.findall(r'%([\w.-]+)', inner) or [inner[1:-1]]
    return Operation(
        found['name'],
        kind,
        tuple(_array(array) for array in _ARRAY.finditer(types)),
        tuple(filter(None, names)),
        attributes,
        bool(found['root']),
    )


def _parted(text):
    """A text that begins with a parenthesis: that parenthesis, and what follows it."""
    depth = 0
    for end, mark in enumerate(text, start=1):
        depth += (mark == '(') - (mark == ')')
        if not depth:
            return text[:end], text[end:]
    return text, ''


def _array(found):
    bits, shape, layout = found[2], found[3], found[4] or ''
    lengths = [int(length) for length in shape.split(',') if length]
    # TPUs store whole tiles of the axes that vary fastest, which stand first in the layout.
    if tile := _TILE.search(layout):
        order = [int(axis) for axis in layout.strip('{').split(':')[0].split(',') if axis]
        for axis, length in zip(order, reversed(tile[1].split(',')), strict=False):
            lengths[axis] = math.ceil(lengths[axis] / int(length)) * int(length)
    size = (8 if found[1] == 'pred' else int(bits)) / 8 * math.prod(lengths)
    return ArrayType(size, 'S(' not in layout)
