"""Bytes between devices: of single operations, and of a step with split item tables."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.planning.collectives import bytes_between_devices
from emkd_jax.planning.cost import step_cost
from emkd_jax.planning.plan import plan
from emkd_jax.planning.program import read_program
from emkd_jax.planning.topology import slices_of
from tests.support import tiny
from tests.unit.planning.test_plan import small_config, windows_of


@pytest.mark.parametrize(
    ('operation', 'expected'),
    [
        ('f32[8,100]{1,0} all-gather(f32[2,100]{1,0} %x), dimensions={0}', 2400),
        ('(f32[2,100], f32[8,100]) all-gather-start(f32[2,100] %x), dimensions={0}', 2400),
        ('f32[2,100] reduce-scatter(f32[8,100] %x), dimensions={0}', 2400),
        ('bf16[800] all-reduce(bf16[800] %x), to_apply=%add', 2400),
        ('(f32[100]{0}, s32[100]) all-reduce-start(f32[100] %x, s32[100] %y)', 1200),
        ('f32[4,200] all-to-all(f32[4,200] %x), dimensions={0}', 2400),
        ('f32[8,100] fusion(f32[2,100] %all-gather.1), kind=kLoop', 0),
    ],
)
def test_the_fewest_bytes_of_an_operation_count(operation, expected):
    assert sent(_program(operation)) == expected


def sent(program):
    return bytes_between_devices(read_program(program), 4)


def _program(*operations, rest=''):
    lines = ''.join(f'  %name.{n} = {text}\n' for n, text in enumerate(operations))
    return f'HloModule jit_f\n{rest}\nENTRY %main.1 (x: f32[2]) -> f32[2] {{\n{lines}}}\n'


def test_a_loop_counts_as_often_as_it_runs():
    def gathered(x, count):
        def body(total, row):
            return total + jax.lax.all_gather(row + total[0], 'devices').sum(0), None

        return jax.lax.scan(body, jnp.zeros(100), jnp.stack([x] * count))[0]

    counts = []
    for count in (1, 7):
        step = jax.pmap(functools.partial(gathered, count=count), 'devices')
        program = step.lower(jnp.ones((4, 100))).compile().as_text()
        counts.append(sent(program))
    assert counts == [1200, 7 * 1200]


def test_a_loop_of_a_tpu_tells_its_length_in_its_condition():
    condition = """%until (x: (s32[], f32[8])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(12), metadata={op_name="x"}
  %x = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%x), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit.1), direction=LT, metadata={}
}
%body.2 (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %y = f32[8,100]{1,0} all-gather(f32[2,100]{1,0} %x), dimensions={0}
}
"""
    loop = '(s32[], f32[8]) while(%x), condition=%until, body=%body.2'
    assert sent(_program(loop, rest=condition)) == 12 * 2400


def test_a_collective_that_runs_beside_other_work_counts_once():
    gather = 'f32[8,100] all-gather(f32[2,100] %x), frontend_attributes={chain_id="0"}'
    other = gather.replace('"0"', '"1"')
    assert sent(_program(gather, gather, other)) == 2 * 2400


def test_split_tables_need_less_memory_and_other_traffic():
    """Whole tables cost their gradients between devices; split ones what is looked up in them."""
    config, items = small_config(objective__contrast_weight=0.0), 20_000
    rows = windows_of(np.full(100, 8), config)
    whole = make_ensemble(config, items, 1, 'cpu')
    costs = [step_cost([config], whole.sharded(n), rows, 1, jax.devices()[:4]) for n in (1, 4)]
    tables = 3 * 3 * 2 * items * config.model.hidden_dim * 4  # with moments; tokens and heads
    assert costs[0].memory - costs[1].memory > 0.7 * tables
    gradients = tables / 3 * 2 * 3 / 4
    assert costs[0].between == pytest.approx(gradients, rel=0.1)
    assert costs[1].between < 0.3 * costs[0].between


def test_a_plan_splits_tables_that_do_not_fit_whole(monkeypatch, capsys):
    config = small_config()
    data = tiny.tiny_data()
    monkeypatch.setattr('emkd_jax.data.load', lambda options: data)
    monkeypatch.setattr('emkd_jax.planning.plan.device_memory', lambda devices: 1e4)
    report = plan(config)
    assert report['shard_items'] and not report['fits']
    assert 'split over the devices' in capsys.readouterr().out
    # Where the memory is not known, no larger batches are tried.
    monkeypatch.setattr('emkd_jax.planning.plan.device_memory', lambda devices: math.inf)
    assert plan(config)['shard_items'] is False
    assert plan(small_config(ensemble__shard_items=True))['shard_items'] is True


def test_the_slices_of_a_kind_begin_with_the_smallest():
    assert slices_of('v5e')[:2] == ['v5e:2x2', 'v5e:2x4']
    assert slices_of('v5p:2x2x1') == ['v5p:2x2x1'] and slices_of('') == ['']
