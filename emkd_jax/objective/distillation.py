"""The loss of students, which learn from the labels and from a trained ensemble.

Each student imitates the distribution of the ensemble over the catalogue at every position that has
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
    no_gradients,
    over_blocks,
    with_gradients,
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
    """Computes this device's share of the students' loss. It returns what `emkd_loss` or
    `next_item_loss` returns.

        total = cross_entropy + weight kd
        kd = sum_s KL( softmax(mean_n y_n / t) || softmax(z_s / t) )

    Here z_s are the logits of student s and y_n those of the teacher's networks, which see the same
    input without dropout. Students do not see each other.

    Args:
      params: parameters of the students.
      ensemble: the students, one network each.
      options: `config.distill`.
      batch, key, axis_name: as for `emkd_loss` or `next_item_loss`.
      capacity: as for `emkd_loss`; None for packed rows.
      teacher_params: parameters of the teacher, which get no gradient.
      teacher: the ensemble that teaches, on the same task.
    """
    if ensemble.one_after_another:
        ensemble, params = ensemble.apart(params)
    params = ensemble.effective(params)
    teacher_params = teacher.effective(teacher_params)
    positions = _packed_positions if isinstance(batch, PackedBatch) else _masked_positions
    at = positions(params, ensemble, batch, teacher_params, teacher, capacity, key, axis_name)
    cross_entropy, divergence = _labels_and_teacher(
        at.students,
        ensemble.item_heads(params),
        at.targets.astype(accumulation_dtype(at.students.dtype)),
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
    """Hidden states of students and teacher where there are labels."""

    students: Float[Array, 'students positions dim']
    teacher: Float[Array, 'networks positions teacher_dim']
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
    students = ensemble.hidden(params, batch.items, row_keys, batch.segments)
    taught = teacher.hidden(teacher_params, batch.items, segments=batch.segments)
    states = (x.reshape(len(x), batch.items.size, x.shape[-1]) for x in (students, taught))
    return _Positions(*states, *next_items(batch, axis_name), jnp.zeros((), jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _labels_and_teacher(
    hidden: Float[Array, 'students positions dim'],
    heads: ItemHeads,
    targets: Targets,
    teacher: tuple[Float[Array, 'networks positions teacher_dim'], ItemHeads],
    temperature: float,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Computes weighted sums over positions of cross-entropy and of KL(teacher || student).

    Both are summed over the students. Let z be the logits of one of them, y the mean of the
    teacher's, and q and p their softmaxes at temperature t. One pass over blocks of the catalogue
    gives

        KL(p || q) = E_p[y - z] / t - logsumexp(y / t) + logsumexp(z / t),

    and a second pass gives the gradient of z, which is g (softmax(z) - onehot) + k / t (q - p) with
    g and k the incoming gradients.
    """
    return _forward(hidden, heads, targets, teacher, temperature, block)[0]


class _OfTeacher(NamedTuple):
    """Sums over classes of the teacher's logits y at each position."""

    top: Float[Array, ' positions']
    total: Float[Array, ' positions']  # of exp((y - top) / t)


class _OfStudent(NamedTuple):
    """Sums over classes of a student's logits z at each position."""

    top: Float[Array, ' positions']
    total: Float[Array, ' positions']  # of exp(z - top)
    soft: Float[Array, ' positions']  # of exp((z - top) / t)
    picked: Float[Array, ' positions']  # the logit of the label
    moment: Float[Array, ' positions']  # of exp((y - top of the teacher) / t) (y - z)


def _mean_logits(teacher, first, size):
    """The mean of the logits of the teacher's networks, (classes, positions)."""
    logits, _ = block_logits(*teacher, first, size)
    return sum(logits) / len(logits)


def _forward(hidden, heads, targets, teacher, temperature, block):
    labels, weights = targets
    zeros = jnp.zeros(len(labels), accumulation_dtype(hidden.dtype))
    least = jnp.full_like(zeros, -jnp.inf)

    def visit(first, size, carry):
        before, students = carry
        taught = _mean_logits(teacher, first, size).astype(zeros.dtype)
        top = jnp.maximum(before.top, taught.max(0))
        old = jnp.exp((before.top - top) / temperature)
        soft = jnp.exp((taught - top[None]) / temperature)
        logits, _ = block_logits(hidden, heads, first, size)
        hits = label_hits(labels, first, size)
        return _OfTeacher(top, before.total * old + soft.sum(0)), [
            _accumulate(sums, z, hits, temperature)._replace(
                moment=sums.moment * old + (soft * (taught - z)).sum(0)
            )
            for sums, z in zip(students, logits, strict=True)
        ]

    start = (
        _OfTeacher(least, zeros),
        [_OfStudent(least, zeros, zeros, zeros, zeros)] * len(hidden),
    )
    of_teacher, students = over_blocks(visit, start, heads.kernel.shape[1], block)
    sums = jax.tree.map(lambda *of_each: jnp.stack(of_each), *students)
    lse_one = sums.top + jnp.log(sums.total)
    lse_soft = sums.top / temperature + jnp.log(sums.soft)
    lse_taught = of_teacher.top / temperature + jnp.log(of_teacher.total)
    moment = sums.moment / of_teacher.total[None] / temperature
    divergence = moment - lse_taught[None] + lse_soft
    losses = tuple((x.sum(0) * weights).sum() for x in (lse_one - sums.picked, divergence))
    return losses, (hidden, heads, targets, teacher, (lse_one, lse_soft, lse_taught))


def _accumulate(sums, logits, hits, temperature):
    """Adds a block to the sums of one student, but to the moment."""
    top = jnp.maximum(sums.top, logits.max(0))
    old, shifted = sums.top - top, logits - top[None]
    return sums._replace(
        top=top,
        total=sums.total * jnp.exp(old) + jnp.exp(shifted).sum(0),
        soft=sums.soft * jnp.exp(old / temperature) + jnp.exp(shifted / temperature).sum(0),
        picked=sums.picked + jnp.where(hits, logits, 0).sum(0),
    )


def _backward(temperature, block, kept, cotangents):
    hidden, heads, (labels, weights), teacher, (lse_one, lse_soft, lse_taught) = kept
    ce_scale = (cotangents[0] * weights)[None]
    kd_scale = (cotangents[1] * weights)[None] / temperature

    def visit(first, size, carry):
        taught = _mean_logits(teacher, first, size).astype(lse_one.dtype)
        wanted = jnp.exp(taught / temperature - lse_taught[None])
        hits = label_hits(labels, first, size).astype(lse_one.dtype)
        logits, kernels = block_logits(hidden, heads, first, size)
        d_logits = [
            ce_scale * (jnp.exp(z - one[None]) - hits)
            + kd_scale * (jnp.exp(z / temperature - soft[None]) - wanted)
            for z, one, soft in zip(logits, lse_one, lse_soft, strict=True)
        ]
        return with_gradients(carry, d_logits, hidden, kernels, first)

    start = no_gradients(hidden, heads)
    d_hidden, d_heads = over_blocks(visit, start, heads.kernel.shape[1], block)
    return jnp.stack(d_hidden).astype(hidden.dtype), d_heads, None, None


_labels_and_teacher.defvjp(_forward, _backward)
