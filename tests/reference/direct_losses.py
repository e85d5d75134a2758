"""Masked-item prediction and knowledge distillation, in their direct form.

Both act on the logits z[n, p] of network n at masked position p (Sections 3.3 and 3.5 of the EMKD
paper). Tests compare `catalogue_loss` with these definitions. It computes the same losses faster,
and without their arrays of (networks x positions x catalogue).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, 'networks positions classes'],
    labels: Int[Array, ' positions'],
    weights: Float[Array, ' positions'],
) -> Float[Array, '']:
    """sum_p w_p sum_n ( logsumexp(z[n, p]) - z[n, p, label_p] ).

    With w_p = 1 / (masked positions of p's view) this is the sum over views and networks of the
    mean cross-entropy. Class 0 is in the softmax, but it is never a label.
    """
    picked = jnp.take_along_axis(logits, labels[None, :, None], axis=2)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=2) - picked
    return (losses.sum(0) * weights).sum()


def distillation(
    logits: Float[Array, 'networks positions classes'],
    weights: Float[Array, ' positions'],
    temperature: float | Float[Array, ''],
) -> Float[Array, '']:
    """sum_p w_p sum_{a > b} ( KL(q_b || q_a) + KL(q_a || q_b) ) / 2,  q_n = softmax(z[n, p] / t).

    The first distribution of each divergence is the teacher and is detached. There is no factor
    t^2.
    """
    log_q = jax.nn.log_softmax(logits / temperature, axis=2)
    teacher = jax.lax.stop_gradient(log_q)
    # cross[a, b] = E_{q_a}[log q_b]; the diagonal is minus the teacher's entropy.
    cross = jnp.einsum('apc,bpc->abp', jnp.exp(teacher), log_q)
    entropy = jnp.einsum('apc,apc->ap', jnp.exp(teacher), teacher)
    divergence = entropy[:, None] - cross
    different = 1 - jnp.eye(logits.shape[0], dtype=logits.dtype)
    # Each unordered pair stands twice in the sum over (a, b), once for each teacher.
    return (divergence * different[:, :, None]).sum((0, 1)) @ weights / 2
