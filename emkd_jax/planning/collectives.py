"""Bytes that a compiled program moves between devices."""

import re

from emkd_jax.planning.program import Operation, Program

_COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_CHAIN = re.compile(r'chain_id="(\d+)"')


def bytes_between_devices(program: Program, num_devices: int) -> int:
    """Returns the bytes that each device sends to others, as the collectives of a program need.

    The fewest bytes that each collective can need are counted: of D devices, each sends (D - 1) / D
    of what it gathers or scatters, and twice as much of what is summed for all. The body of a loop
    counts as often as it runs, or once where the program does not tell.

    Args:
      program: a compiled program.
      num_devices: D, the devices that take part in every collective.
    """
    chains: set[str] = set()

    def sent_by(name: str) -> float:
        total = 0.0
        for operation in program.computations.get(name, ()):
            if operation.kind.removesuffix('-start') in _COLLECTIVES:
                # A collective that runs beside other work is written in each part of this work.
                chain = _CHAIN.search(operation.attributes)
                if not (chain and chain[1] in chains):
                    total += _sent(operation, num_devices)
                    chains.update(chain.groups() if chain else ())
            rounds = program.rounds(operation) if operation.kind == 'while' else 1
            total += rounds * sum(map(sent_by, operation.called))
        return total

    return round(sent_by(program.entry))


def _sent(operation: Operation, num_devices: int) -> float:
    others = num_devices - 1
    kind, started = operation.kind.removesuffix('-start'), operation.kind.endswith('-start')
    size = sum(array.size for array in operation.result)
    if started and kind == 'all-gather':  # the arrays before it are in the result, too
        size *= num_devices / (num_devices + 1)
    if kind == 'reduce-scatter':  # its result is a part
        size *= num_devices
    if kind == 'collective-permute':
        return size / 2 if started else size
    return size * others / num_devices * (2 if kind == 'all-reduce' else 1)
