"""Bytes that a compiled program moves between the chip and its main memory."""

from collections import defaultdict

from emkd_jax.planning.program import Operation, Program

# They give names to arrays, or wait for what others move.
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'opt-barrier'}
_PARTS = ('slice', 'dynamic-slice', 'gather')
# They change their first operand in place; the place of the operand that holds what is new.
_CHANGES = {'dynamic-update-slice': 1, 'scatter': 2}


def bytes_of_main_memory(program: Program) -> int:
    """Returns the bytes that operations read from main memory and write to it.

    XLA says of every array whether it lies in main memory or in a faster one. Each operation reads
    its operands and writes its results once. Of an operand of which only parts are taken, these
    parts are read, and of an array that is changed in place, what is new is written. A fusion is
    one operation: what is computed within it stays on the chip. The body of a loop counts as often
    as it runs, or once where the program does not tell; of branches, the most expensive one counts.
    """
    arrays = {
        operation.name: operation.result
        for operations in program.computations.values()
        for operation in operations
    }

    def moved_by(name: str) -> float:
        return sum(map(moved, program.computations.get(name, ())))

    def moved(operation: Operation) -> float:
        kind = operation.kind
        if kind in _FREE or kind.endswith('-done'):
            return 0.0
        if kind in ('while', 'call', 'conditional'):
            rounds = program.rounds(operation) if kind == 'while' else 1
            return rounds * max(map(moved_by, operation.called), default=0.0)
        operands = [arrays.get(name, ()) for name in operation.operands]
        if kind == 'fusion':
            return _moved_by_fusion(program, operation, operands)
        result = operation.result
        if kind in ('copy-start', 'slice-start'):  # the result names what is read, too
            return result[1].size * sum(array.in_main_memory for array in result[:2])
        if kind in _CHANGES:
            new = operands[_CHANGES[kind]][0]
            return new.size * (new.in_main_memory + result[0].in_main_memory)
        if kind in _PARTS:
            read = result[0].size if operands[0][0].in_main_memory else 0.0
            return read + _in_main_memory(result)
        return _in_main_memory(result) + sum(map(_in_main_memory, operands))

    return round(moved_by(program.entry))


def _in_main_memory(arrays):
    return sum((array.size for array in arrays if array.in_main_memory), start=0.0)


def _moved_by_fusion(program, operation, operands):
    inner = program.computations[operation.called[0]]
    made = {one.name: one for one in inner}
    [root] = [one for one in inner if one.is_root]
    results = [made[name] for name in root.operands] if root.kind == 'tuple' else [root]
    total = 0.0
    for array, one in zip(operation.result, results, strict=False):
        while one.kind == 'bitcast' and one.operands[0] in made:
            one = made[one.operands[0]]
        if one.kind in _CHANGES:
            array = array._replace(size=made[one.operands[_CHANGES[one.kind]]].result[0].size)
        total += _in_main_memory([array])
    for place, arrays in enumerate(operands):
        total += min(_in_main_memory(arrays), _read_of_parameter(program, inner, place))
    return total


def _read_of_parameter(program, computation, place):
    """The bytes that a fused computation reads of one of its parameters."""
    uses = defaultdict(list)
    for one in computation:
        if one.kind == 'parameter':
            if one.operands == (str(place),):
                parameter = one
        else:
            for position, name in enumerate(one.operands):
                uses[name].append((position, one))
    whole = parameter.result[0].size if parameter.result else 0.0

    def read(name, is_root):
        total = whole if is_root else 0.0  # whoever takes the result reads it all
        for position, one in uses[name]:
            if one.kind == 'bitcast':
                total += read(one.name, one.is_root)
            elif one.kind == 'fusion':
                total += _read_of_parameter(program, program.computations[one.called[0]], position)
            elif one.kind in _PARTS and position == 0:
                total += one.result[0].size
            elif one.kind not in _CHANGES or position:
                total += whole
        return total

    return min(whole, read(parameter.name, parameter.is_root))
