"""Bytes between a chip and its main memory, of small programs as TPUs have them."""

import pytest

from emkd_jax.planning.main_memory import bytes_of_main_memory
from emkd_jax.planning.program import read_program

FUSED = """%parts (a: f32[10,100], i: s32[], b: f32[8,100]) -> f32[10,100] {
  %a = f32[10,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[8,100]{1,0} parameter(2)
  %one = f32[1,100]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,100}
  %sum = f32[1,100]{1,0} fusion(%one, %b), kind=kLoop, calls=%inner
  ROOT %new = f32[10,100]{1,0} dynamic-update-slice(%a, %sum, %i, %i)
}
%inner (x: f32[1,100], y: f32[8,100]) -> f32[1,100] {
  %x = f32[1,100]{1,0} parameter(0)
  %y = f32[8,100]{1,0} parameter(1)
  %bits = f32[800]{0} bitcast(%y)
  %two = f32[200]{0} slice(%bits), slice={[0:200]}
  ROOT %z = f32[1,100]{1,0} add(%x, %x)
}
%until (x: (s32[])) -> pred[] {
  %limit = s32[] constant(12)
  %x.1 = (s32[]) parameter(0)
  %n = s32[] get-tuple-element(%x.1), index=0
  ROOT %lt = pred[] compare(%n, %limit), direction=LT
}
%body (x: (s32[])) -> (s32[]) {
  %row = f32[5,100]{1,0} iota(), iota_dimension=0
}
%small (x: f32[8]) -> f32[8] {
  %s = f32[8]{0} iota(), iota_dimension=0
}
"""
MAIN = 'f32[10,100]{1,0} '
FAST = 'f32[10,100]{1,0:S(1)} '


@pytest.mark.parametrize(
    ('operations', 'expected'),
    [
        ([f'%p = {MAIN}parameter(0)', f'%q = {MAIN}add(%p, %p)'], 3 * 4000),
        ([f'%p = {FAST}parameter(0)', f'%q = {MAIN}negate(%p)'], 4000),
        ([f'%p = {FAST}parameter(0)', f'%q = {FAST}negate(%p)'], 0),
        ([f'%p = {MAIN}parameter(0)', f'%q = {MAIN}bitcast(%p)'], 0),
        # From main memory into the faster one: it is read once, and waiting costs nothing.
        (
            [
                f'%p = {MAIN}parameter(0)',
                f'%s = ({FAST}, {MAIN}, u32[]{{:S(2)}}) copy-start(%p)',
                f'%d = {FAST}copy-done(%s)',
            ],
            4000,
        ),
        # A row is read and written, and of the second array two rows are read.
        (
            [
                f'%p = {MAIN}parameter(0)',
                '%i = s32[]{:S(6)} parameter(1)',
                '%b = f32[8,100]{1,0} parameter(2)',
                f'%q = {MAIN}fusion(%p, %i, %b), kind=kLoop, calls=%parts',
            ],
            400 + 400 + 800,
        ),
        # TPUs store whole tiles: 16 x 128 here, and 24 x 128 of two bytes.
        (['%p = f32[10,100]{1,0:T(8,128)} iota(), iota_dimension=0'], 8192),
        (['%p = bf16[20,3,20]{0,2,1:T(8,128)(2,1)} iota(), iota_dimension=0'], 18432),
        (['%w = (s32[]) while(%t), condition=%until, body=%body'], 12 * 2000),
        (['%c = f32[8] conditional(%t), branch_computations={%small, %body}'], 2000),
        (
            [
                f'%p = {MAIN}parameter(0)',
                '%i = s32[3]{0:S(1)} parameter(1)',
                '%u = f32[3,100]{1,0} parameter(2)',
                f'%q = {MAIN}scatter(%p, %i, %u), to_apply=%small',
            ],
            2 * 1200,
        ),
    ],
)
def test_what_an_operation_moves(operations, expected):
    lines = ''.join(f'  {operation}\n' for operation in operations)
    program = f'HloModule jit_f\n{FUSED}\nENTRY %main.1 (x: f32[2]) -> f32[2] {{\n{lines}}}\n'
    assert bytes_of_main_memory(read_program(program)) == expected
