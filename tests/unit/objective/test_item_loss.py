"""How many classes of the catalogue the loss visits at a time."""

import pytest

from emkd_jax.model.ensemble import make_ensemble
from emkd_jax.objective.catalogue_loss import BLOCK
from emkd_jax.objective.item_loss import block_size
from tests.support.tiny import tiny_config


@pytest.mark.parametrize(
    ('kind', 'shards', 'positions', 'expected'),
    [
        ('cpu', 4, 3584, BLOCK),
        ('TPU v5', 1, 100_000, BLOCK),
        ('TPU v5 lite', 1, 64, BLOCK),
        ('TPU v5 lite', 1, 3584, 1024),  # 44 MB of logits of three networks
        ('TPU v5 lite', 4, 3584, 256),
        ('TPU v5 lite', 1, 4000, 512),
        ('TPU v5 lite', 8, 100_000, 256),
    ],
)
def test_logits_of_a_block_stay_in_the_fast_memory_of_a_tpu(kind, shards, positions, expected):
    ensemble = make_ensemble(tiny_config(ensemble__num_networks=3), 30, 6, 'tpu', device_kind=kind)
    assert block_size(ensemble.sharded(shards), positions) == expected
