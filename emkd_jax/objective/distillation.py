"""The loss of a student, which learns from the labels and from a trained ensemble.

The student imitates the distribution of the ensemble over the catalogue at every position that has
a label, after Hinton et al., "Distilling the knowledge in a neural network" (2015).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.item_heads import ItemHeads
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective import next_item
from emkd_jax.objective.catalogue_loss import (
    BLOCK,
    block_logits,
    label_hits,
    over_blocks,
    with_block,
)
from emkd_jax.objective.emkd import PARTS, Batch, Capacity
from emkd_jax.objective.masking import masked_positions
from emkd_jax.objective.next_item import PackedBatch, next_items
from emkd_jax.objective.targets import Targets


def student_loss(
    params: PyTree,
    ensemble: Ensemble,
    options: ml_collections.ConfigDict,
    batch: Batch | PackedBatch,
    capacity: Capacity | None,
    teacher_params: PyTree,
    teacher: Ensemble,
    key: UInt32[Array, ''] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Array]]:
    """Computes this device's share of a student's loss. It returns what `emkd_loss` or
    `next_item_loss` returns.

        total = cross_entropy + weight kd,   kd = KL(softmax(mean_n z_n / t) || softmax(z / t))

    Here z are the logits of the student and z_n those of the teacher's networks, which see the same
    input without dropout.

    Args:
      params: parameters of the student.
      ensemble: the student, which is one network.
      options: `config.distill`.
      batch, key, axis_name: as for `emkd_loss` or `next_item_loss`.
      capacity: as for `emkd_loss`; None for packed rows.
      teacher_params: parameters of the teacher, which get no gradient.
      teacher: the ensemble that teaches, on the same task.
    """
    params = ensemble.effective(params)
    teacher_params = teacher.effective(teacher_params)
    positions = _packed_positions if isinstance(batch, PackedBatch) else _masked_positions
    at = positions(params, ensemble, batch, teacher_params, teacher, capacity, key, axis_name)
    cross_entropy, divergence = _labels_and_teacher(
        at.student,
        ensemble.item_heads(params),
        at.targets.astype(accumulation_dtype(at.student.dtype)),
        jax.lax.stop_gradient((at.teacher, teacher.item_heads(teacher_params))),
        options.temperature,
        BLOCK,
    )
    names = next_item.PARTS if isinstance(batch, PackedBatch) else PARTS
    parts = dict.fromkeys(names, jnp.zeros((), cross_entropy.dtype))
    parts |= {names[0]: cross_entropy, 'kd': divergence}
    total = cross_entropy + options.weight * divergence
    return total, parts | {'masked': at.count, 'overflow': at.overflow}


class _Positions(NamedTuple):
    """Hidden states of student and teacher where there are labels."""

    student: Float[Array, 'one positions dim']
    teacher: Float[Array, 'networks positions dim']
    targets: Targets
    count: Int[Array, '']
    overflow: Int[Array, '']


def _masked_positions(
    params, ensemble, batch, teacher_params, teacher, capacity, key, axis_name
) -> _Positions:
    num_views, _, slots = batch.views.items.shape
    items = batch.views.items.reshape(-1, slots)
    row_keys = None
    if key is not None:
        views = jnp.arange(num_views)[:, None]
        row_keys = hash_rng.fold(key, views, batch.row_ids[None]).reshape(-1)
    masked = masked_positions(batch.views.labels, capacity.all_views, axis_name)
    return _Positions(
        ensemble.hidden(params, items, row_keys)[:, masked.row, masked.slot],
        teacher.hidden(teacher_params, items)[:, masked.row, masked.slot],
        masked.targets,
        masked.count,
        masked.overflow,
    )


def _packed_positions(
    params, ensemble, batch, teacher_params, teacher, capacity, key, axis_name
) -> _Positions:
    del capacity
    row_keys = None if key is None else hash_rng.fold(key, 0, batch.row_ids)
    student = ensemble.hidden(params, batch.items, row_keys, batch.segments)
    taught = teacher.hidden(teacher_params, batch.items, segments=batch.segments)
    states = (x.reshape(len(x), batch.items.size, x.shape[-1]) for x in (student, taught))
    return _Positions(*states, *next_items(batch, axis_name), jnp.zeros((), jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _labels_and_teacher(
    hidden: Float[Array, 'one positions dim'],
    heads: ItemHeads,
    targets: Targets,
    teacher: tuple[Float[Array, 'networks positions dim'], ItemHeads],
    temperature: float,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Computes weighted sums over positions of cross-entropy and of KL(teacher || student).

    Let z be the student's logits, y the mean of the teacher's, and q and p their softmaxes at
    temperature t. One pass over blocks of the catalogue gives

        KL(p || q) = E_p[y - z] / t - logsumexp(y / t) + logsumexp(z / t),

    and a second pass gives the gradient of z, which is g (softmax(z) - onehot) + k / t (q - p) with
    g and k the incoming gradients.
    """
    return _forward(hidden, heads, targets, teacher, temperature, block)[0]


def _block(hidden, heads, teacher, first, size):
    """Returns the student's logits, the mean of the teacher's, and the student's kernel."""
    [student], [narrow_kernel] = block_logits(hidden, heads, first, size)
    taught, _ = block_logits(*teacher, first, size)
    return student, sum(taught).astype(student.dtype) / len(taught), narrow_kernel


def _forward(hidden, heads, targets, teacher, temperature, block):
    labels, weights = targets
    zeros = jnp.zeros(len(labels), accumulation_dtype(hidden.dtype))
    least = jnp.full_like(zeros, -jnp.inf)

    def visit(first, size, carry):
        top, sum_one, sum_soft, picked, taught_top, taught_sum, moment = carry
        student, taught, _ = _block(hidden, heads, teacher, first, size)
        new_top = jnp.maximum(top, student.max(0))
        old, shifted = top - new_top, student - new_top[None]
        new_taught_top = jnp.maximum(taught_top, taught.max(0))
        old_taught = jnp.exp((taught_top - new_taught_top) / temperature)
        soft = jnp.exp((taught - new_taught_top[None]) / temperature)
        return (
            new_top,
            sum_one * jnp.exp(old) + jnp.exp(shifted).sum(0),
            sum_soft * jnp.exp(old / temperature) + jnp.exp(shifted / temperature).sum(0),
            picked + jnp.where(label_hits(labels, first, size), student, 0).sum(0),
            new_taught_top,
            taught_sum * old_taught + soft.sum(0),
            moment * old_taught + (soft * (taught - student)).sum(0),
        )

    start = (least, zeros, zeros, zeros, least, zeros, zeros)
    top, sum_one, sum_soft, picked, taught_top, taught_sum, moment = over_blocks(
        visit, start, heads.kernel.shape[1], block
    )
    lse_one = top + jnp.log(sum_one)
    lse_soft = top / temperature + jnp.log(sum_soft)
    lse_taught = taught_top / temperature + jnp.log(taught_sum)
    divergence = moment / taught_sum / temperature - lse_taught + lse_soft
    losses = ((lse_one - picked) * weights).sum(), (divergence * weights).sum()
    return losses, (hidden, heads, targets, teacher, (lse_one, lse_soft, lse_taught))


def _backward(temperature, block, kept, cotangents):
    hidden, heads, (labels, weights), teacher, (lse_one, lse_soft, lse_taught) = kept
    ce_scale = (cotangents[0] * weights)[None]
    kd_scale = (cotangents[1] * weights)[None] / temperature

    def visit(first, size, carry):
        d_hidden, d_heads = carry
        student, taught, kernel = _block(hidden, heads, teacher, first, size)
        hits = label_hits(labels, first, size).astype(student.dtype)
        grad = ce_scale * (jnp.exp(student - lse_one[None]) - hits) + kd_scale * (
            jnp.exp(student / temperature - lse_soft[None])
            - jnp.exp(taught / temperature - lse_taught[None])
        )
        narrow = grad.astype(hidden.dtype)
        to_hidden = jnp.einsum('cp,cd->pd', narrow, kernel, preferred_element_type=d_hidden.dtype)
        to_kernel = jnp.einsum(
            'cp,pd->cd', narrow, hidden[0], preferred_element_type=heads.kernel.dtype
        )
        to_bias = grad.sum(1).astype(heads.bias.dtype)
        of_block = ItemHeads(to_kernel[None], to_bias[None])
        return d_hidden + to_hidden, with_block(d_heads, of_block, first)

    zeros = jnp.zeros(hidden.shape[1:], accumulation_dtype(hidden.dtype))
    start = zeros, jax.tree.map(jnp.zeros_like, heads)
    d_hidden, d_heads = over_blocks(visit, start, heads.kernel.shape[1], block)
    return d_hidden[None].astype(hidden.dtype), d_heads, None, None


_labels_and_teacher.defvjp(_forward, _backward)
