"""The loss of a student, against plain softmaxes over the catalogue."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from emkd_jax.objective.distillation import student_loss
from emkd_jax.objective.emkd import emkd_loss
from emkd_jax.objective.masking import masked_positions
from tests.support import small
from tests.support.golden_cases import relative_error

OPTIONS = ml_collections.ConfigDict({'temperature': 0.7, 'weight': 0.4})


@pytest.mark.parametrize('students, student_dim', [(1, 16), (1, 24), (2, 24)])
def test_the_gradient_is_that_of_labels_and_teacher(students, student_dim):
    teacher = small.ensemble(ensemble__num_networks=2)
    student = small.ensemble(ensemble__num_networks=students, model__hidden_dim=student_dim)
    teacher_params = jax.jit(teacher.init)(jax.random.key(1))
    params = jax.jit(student.init)(jax.random.key(2))
    batch = small.batch(small.sequences(6), small.options())

    def loss(params, teacher_params):
        return student_loss(
            params, student, OPTIONS, batch, small.CAPACITY, teacher_params, teacher
        )[0]

    def plain(params):
        masked = masked_positions(batch.views.labels, small.CAPACITY.all_views)
        items = batch.views.items.reshape(-1, small.MAX_LEN)

        def logits(ensemble, params):
            hidden = ensemble.hidden(params, items)
            return ensemble.item_logits(params, hidden[:, masked.row, masked.slot])

        taught = jax.lax.stop_gradient(logits(teacher, teacher_params).mean(0))
        log_p = jax.nn.log_softmax(taught / OPTIONS.temperature)
        labels, weights = masked.targets
        total = 0
        for z in logits(student, params):
            log_q = jax.nn.log_softmax(z / OPTIONS.temperature)
            label = jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1)[:, 0]
            divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(1)
            total += ((OPTIONS.weight * divergence - label) * weights).sum()
        return total

    found, teacher_gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, teacher_params)
    errors = jax.tree.map(relative_error, found, jax.jit(jax.grad(plain))(params))
    assert max(jax.tree.leaves(errors)) < 1e-4, errors
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(teacher_gradient))


def test_the_logged_parts_are_those_of_the_student():
    """They are its own cross-entropy and its divergence from the teacher, without the teacher's."""
    teacher = small.ensemble(ensemble__num_networks=2)
    student = small.ensemble(ensemble__num_networks=1)
    teacher_params = jax.jit(teacher.init)(jax.random.key(1))
    params = jax.jit(student.init)(jax.random.key(2))
    options = small.options(kd_weight=0.0, contrast_weight=0.0, attribute_weight=0.0)
    batch = small.batch(small.sequences(6), options)

    def taught_and_alone(params, teacher_params):
        taught = student_loss(
            params, student, OPTIONS, batch, small.CAPACITY, teacher_params, teacher
        )
        hyper, attributes = small.hyper(options), small.item_attributes()
        return taught, emkd_loss(params, student, options, hyper, batch, attributes, small.CAPACITY)

    (total, parts), (alone, _) = jax.jit(taught_and_alone)(params, teacher_params)
    np.testing.assert_allclose(parts['masked_items'], alone, rtol=1e-5)
    assert parts['kd'] > 0
    np.testing.assert_allclose(total, alone + OPTIONS.weight * parts['kd'], rtol=1e-5)


def test_a_student_that_equals_its_teacher_has_no_divergence():
    teacher = small.ensemble(ensemble__num_networks=1)
    params = jax.jit(teacher.init)(jax.random.key(1))
    batch = small.batch(small.sequences(6), small.options())

    @jax.jit
    def loss(params):
        return student_loss(params, teacher, OPTIONS, batch, small.CAPACITY, params, teacher)

    _, parts = loss(params)
    assert abs(float(parts['kd'])) < 1e-5
