"""What a student learns from: the labels, and a trained ensemble's distribution over the catalogue.

Hinton et al., "Distilling the knowledge in a neural network" (2015), at the masked positions.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, PyTree, UInt32

from emkd_jax.model import hash_rng as counted
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective.catalogue_loss import streamed_loss
from emkd_jax.objective.emkd import BLOCK, PARTS, Batch, Capacity
from emkd_jax.objective.masking import masked_positions


def imitation(
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
    """This device's share of a student's loss; arguments and results as those of `objective`.

        total = masked_items + weight kd,   kd = KL(softmax(mean_n z_n / t) || softmax(z / t))

    with z_n the logits of the teacher's networks, which see the same views without dropout. The
    mean of the networks' item heads is one item head over their hidden states side by side, so that
    teacher and student go through the streamed loss as a pair of networks. What that computes
    beside is a constant to the student: 'masked_items' includes the teacher's cross-entropy, and
    'kd' is the mean of both directions, of which one has a gradient.

    Args:
      params, ensemble: the student, one network.
      options: `config.distill`.
      batch, capacity, key, axis_name: as for `objective`.
      teacher_params, teacher: the ensemble that teaches.
    """
    teacher_params = jax.lax.stop_gradient(teacher_params)
    num_views, _, slots = batch.views.items.shape
    items = batch.views.items.reshape(-1, slots)
    row_keys = None
    if key is not None:
        views = jnp.arange(num_views)[:, None]
        row_keys = counted.fold(key, views, batch.row_ids[None]).reshape(-1)
    masked = masked_positions(batch.views.labels, capacity.all_views, axis_name)

    def at_masked(hidden):
        return hidden[:, masked.row, masked.slot]

    [of_student] = at_masked(ensemble.hidden(params, items, row_keys))
    of_teacher = at_masked(teacher.hidden(teacher_params, items)) / teacher.num_networks
    side_by_side = [
        jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
        for x in (of_teacher, teacher_params['item_head_kernel'])
    ]
    student_head = params['item_head_kernel'][0], params['item_head_bias'][0]
    hidden = _pair(side_by_side[0].astype(of_student.dtype), of_student)
    kernel = _pair(side_by_side[1], student_head[0])
    bias = jnp.stack([teacher_params['item_head_bias'].mean(0), student_head[1]])
    cross_entropy, divergence = streamed_loss(
        hidden,
        kernel,
        bias,
        masked.label,
        masked.weight.astype(jnp.float32),
        options.temperature,
        BLOCK,
    )
    parts = dict.fromkeys(PARTS, jnp.zeros((), cross_entropy.dtype))
    parts |= {'masked_items': cross_entropy, 'kd': divergence}
    # Of the mean of both directions, the student's gradient is half that of its own.
    total = cross_entropy + 2 * options.weight * divergence
    return total, parts | {'masked': masked.count, 'overflow': masked.overflow}


def _pair(of_teacher, of_student):
    """(2, rows, width): the teacher's and the student's, padded with zeros."""
    width = max(of_teacher.shape[1], of_student.shape[1])
    return jnp.stack(
        [jnp.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (of_teacher, of_student)]
    )
