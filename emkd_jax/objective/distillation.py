"""The loss of a student: the labels, and the distribution of a trained ensemble over the catalogue.

Hinton et al., "Distilling the knowledge in a neural network" (2015), at the masked positions.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.model.precision import accumulation_dtype
from emkd_jax.objective.catalogue_loss import (
    BLOCK,
    Sums,
    block_logits,
    head_gradients,
    label_hits,
    over_blocks,
)
from emkd_jax.objective.emkd import PARTS, Batch, Capacity
from emkd_jax.objective.masking import masked_positions


def student_loss(
    params: PyTree,
    ensemble: Ensemble,
    options: ml_collections.ConfigDict,
    batch: Batch,
    capacity: Capacity,
    teacher_params: PyTree,
    teacher: Ensemble,
    key: UInt32[Array, ''] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Array]]:
    """Computes this device's share of a student's loss. It returns what `emkd_loss` returns.

        total = masked_items + weight kd,   kd = KL(softmax(mean_n z_n / t) || softmax(z / t))

    Here z are the student's logits and z_n those of the teacher's networks, which see the same
    views without dropout.

    Args:
      params: parameters of the student.
      ensemble: the student, which is one network.
      options: `config.distill`.
      batch, capacity, key, axis_name: as for `emkd_loss`.
      teacher_params: parameters of the teacher, which get no gradient.
      teacher: the ensemble that teaches.
    """
    num_views, _, slots = batch.views.items.shape
    items = batch.views.items.reshape(-1, slots)
    row_keys = None
    if key is not None:
        views = jnp.arange(num_views)[:, None]
        row_keys = hash_rng.fold(key, views, batch.row_ids[None]).reshape(-1)
    masked = masked_positions(batch.views.labels, capacity.all_views, axis_name)
    student_hidden = ensemble.hidden(params, items, row_keys)[:, masked.row, masked.slot]
    teacher_hidden = teacher.hidden(teacher_params, items)[:, masked.row, masked.slot]
    cross_entropy, divergence = _labels_and_teacher(
        student_hidden,
        params['item_head_kernel'],
        params['item_head_bias'],
        masked.label,
        masked.weight.astype(accumulation_dtype(student_hidden.dtype)),
        jax.lax.stop_gradient(
            (teacher_hidden, teacher_params['item_head_kernel'], teacher_params['item_head_bias'])
        ),
        options.temperature,
        BLOCK,
    )
    parts = dict.fromkeys(PARTS, jnp.zeros((), cross_entropy.dtype))
    parts |= {'masked_items': cross_entropy, 'kd': divergence}
    total = cross_entropy + options.weight * divergence
    return total, parts | {'masked': masked.count, 'overflow': masked.overflow}


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _labels_and_teacher(
    hidden: Float[Array, 'one positions dim'],
    kernel: Float[Array, 'one classes dim'],
    bias: Float[Array, 'one classes'],
    labels: Int[Array, ' positions'],
    weights: Float[Array, ' positions'],
    teacher: tuple[Array, Array, Array],
    temperature: float,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Sums the student's cross-entropy and KL(teacher || student) over positions, with weights.

    Let z be the student's logits, y the mean of the teacher's, and q and p their softmaxes at
    temperature t. One pass over blocks of the catalogue gives

        KL(p || q) = E_p[y - z] / t - logsumexp(y / t) + logsumexp(z / t),

    and a second pass gives the gradient of z, g (softmax(z) - onehot) + k / t (q - p), with g and k
    the incoming gradients.
    """
    return _forward(hidden, kernel, bias, labels, weights, teacher, temperature, block)[0]


def _teacher_logits(teacher, first, size, dtype):
    logits, _ = block_logits(*teacher, first, size)
    return sum(logits).astype(dtype) / len(logits)


def _forward(hidden, kernel, bias, labels, weights, teacher, temperature, block):
    zeros = jnp.zeros(len(labels), accumulation_dtype(hidden.dtype))

    def visit(first, size, carry):
        student, taught = carry
        hits = label_hits(labels, first, size)
        [z], _ = block_logits(hidden, kernel, bias, first, size)
        y = _teacher_logits(teacher, first, size, z.dtype)
        # XLA removes the sums that are not used: the student's moment, and two of the teacher's.
        return student.add(z, z, hits, temperature), taught.add(y, y - z, hits, temperature)

    start = (Sums.start(zeros, temperature),) * 2
    student, taught = over_blocks(visit, start, kernel.shape[1], block)
    lse, soft_lse = student.log_normaliser(), student.soft_log_normaliser(temperature)
    taught_lse = taught.soft_log_normaliser(temperature)
    divergence = taught.mean_lead() / temperature - taught_lse + soft_lse
    losses = ((lse - student.picked) * weights).sum(), (divergence * weights).sum()
    return losses, (hidden, kernel, bias, labels, weights, teacher, lse, soft_lse, taught_lse)


def _backward(temperature, block, residuals, cotangents):
    hidden, kernel, bias, labels, weights, teacher, lse, soft_lse, taught_lse = residuals
    ce_scale = (cotangents[0] * weights)[None]
    kd_scale = (cotangents[1] * weights)[None] / temperature

    def logit_gradients(logits, first, size):
        [z] = logits
        hits = label_hits(labels, first, size).astype(z.dtype)
        y = _teacher_logits(teacher, first, size, z.dtype)
        q, p = (
            jnp.exp(z / temperature - soft_lse[None]),
            jnp.exp(y / temperature - taught_lse[None]),
        )
        return [ce_scale * (jnp.exp(z - lse[None]) - hits) + kd_scale * (q - p)]

    grads = head_gradients(logit_gradients, hidden, kernel, bias, block)
    return *grads, np.zeros(labels.shape, jax.dtypes.float0), None, None


_labels_and_teacher.defvjp(_forward, _backward)
