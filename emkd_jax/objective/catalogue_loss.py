"""Masked-item prediction and mutual distillation in one pass over blocks of the catalogue.

No array of (positions x catalogue) is stored, forward or backward. Let z_n be the logits of network
n at one position, q_n = softmax(z_n / t) and S = sum_b z_b. The log-normalisers of each pair cancel:

    sum_{a > b} ( KL(q_b || q_a) + KL(q_a || q_b) ) / 2 = sum_a E_{q_a}[N z_a - S] / (2 t),

so both losses follow from the running `Sums` of each network. The backward pass computes each block
of logits again. With g and k the incoming gradients of the two losses, the gradient of z_n is

    w_p ( g (softmax(z_n) - onehot) + k / (2 t) (N q_n - sum_b q_b) ).

The arrays of a block have classes before positions, because reductions over a major axis vectorise.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from emkd_jax.model.precision import accumulation_dtype

BLOCK = 1024  # classes of the catalogue that training holds at a time

Logits = list[Float[Array, 'classes positions']]  # one array for each network


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def catalogue_loss(
    hidden: Float[Array, 'networks positions dim'],
    kernel: Float[Array, 'networks classes dim'],
    bias: Float[Array, 'networks classes'],
    labels: Int[Array, ' positions'],
    weights: Float[Array, ' positions'],
    temperature: float | Float[Array, ''] | None,
    block: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Computes cross-entropy and distillation of the logits z = hidden kernel^T + bias.

        cross_entropy = sum_p w_p sum_n ( logsumexp(z[n, p]) - z[n, p, label_p] )
        distillation  = sum_p w_p sum_{a > b} ( KL(q_b || q_a) + KL(q_a || q_b) ) / 2

    Here q_n = softmax(z[n, p] / t), and the first distribution of each divergence is a constant.

    Args:
      hidden: hidden states at the masked positions.
      kernel, bias: the item heads. Class 0 is the padding item, which is never a label.
      labels: the true items.
      weights: w, which is 0 in the unused part of the buffer. It is not differentiated.
      temperature: t. None leaves distillation out (0). It is not differentiated.
      block: classes that a pass holds at a time. Temporary memory grows with positions x block.
    """
    return _forward(hidden, kernel, bias, labels, weights, temperature, block)[0]


def _forward(hidden, kernel, bias, labels, weights, temperature, block):
    def visit(first, size, carry):
        hits = label_hits(labels, first, size)
        logits, _ = block_logits(hidden, kernel, bias, first, size)
        total = sum(logits)
        return [
            sums.add(own, len(logits) * own - total, hits, temperature)
            for sums, own in zip(carry, logits, strict=True)
        ]

    zeros = jnp.zeros(len(labels), accumulation_dtype(hidden.dtype))
    start = [Sums.start(zeros, temperature)] * len(hidden)
    per_network = over_blocks(visit, start, kernel.shape[1], block)
    sums = jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_network)
    lse = sums.log_normaliser()
    cross_entropy = ((lse - sums.picked).sum(0) * weights).sum()
    residuals = hidden, kernel, bias, labels, weights, temperature, lse
    if temperature is None:
        return (cross_entropy, jnp.zeros_like(cross_entropy)), (*residuals, None)
    distillation = (sums.mean_lead().sum(0) * weights).sum() / (2 * temperature)
    return (cross_entropy, distillation), (*residuals, sums.soft_log_normaliser(temperature))


def _backward(block, residuals, cotangents):
    hidden, kernel, bias, labels, weights, temperature, lse, soft_lse = residuals
    ce_grad, kd_grad = cotangents
    scale_ce = ce_grad * weights[None]

    def logit_gradients(logits, first, size):
        hits = label_hits(labels, first, size).astype(lse.dtype)
        grads = [
            scale_ce * (jnp.exp(z - own[None]) - hits) for z, own in zip(logits, lse, strict=True)
        ]
        if temperature is None:
            return grads
        scale_kd = kd_grad / (2 * temperature) * weights[None]
        soft = [
            jnp.exp(z / temperature - own[None]) for z, own in zip(logits, soft_lse, strict=True)
        ]
        total = sum(soft)
        return [
            grad + scale_kd * (len(logits) * q - total) for grad, q in zip(grads, soft, strict=True)
        ]

    grads = head_gradients(logit_gradients, hidden, kernel, bias, block)
    return *grads, np.zeros(labels.shape, jax.dtypes.float0), None, None


catalogue_loss.defvjp(_forward, _backward)


class Sums(NamedTuple):
    """Running sums over the classes of the catalogue, for each position of one network.

    Exponentials are taken relative to `top`, so that they cannot overflow.

    Attributes:
      top: the largest logit z so far.
      one: sum of exp(z - top).
      picked: the logit of the label, or 0 before its block was visited.
      soft: sum of exp((z - top) / t); None without distillation.
      moment: sum of exp((z - top) / t) times the `lead` given to `add`; None without distillation.
    """

    top: Float[Array, '*networks positions']
    one: Float[Array, '*networks positions']
    picked: Float[Array, '*networks positions']
    soft: Float[Array, '*networks positions'] | None = None
    moment: Float[Array, '*networks positions'] | None = None

    @classmethod
    def start(
        cls, zeros: Float[Array, ' positions'], temperature: float | Float[Array, ''] | None
    ) -> 'Sums':
        """Returns the sums over no class at all."""
        more = () if temperature is None else (zeros, zeros)
        return cls(jnp.full_like(zeros, -jnp.inf), zeros, zeros, *more)

    def add(
        self,
        logits: Float[Array, 'classes positions'],
        lead: Float[Array, 'classes positions'],
        hits: Bool[Array, 'classes positions'],
        temperature: float | Float[Array, ''] | None,
    ) -> 'Sums':
        """Adds a block of logits; `lead` is what `mean_lead` averages."""
        top = jnp.maximum(self.top, logits.max(0))
        shifted = logits - top[None]
        one = self.one * jnp.exp(self.top - top) + jnp.exp(shifted).sum(0)
        picked = self.picked + jnp.where(hits, logits, 0).sum(0)
        if temperature is None:
            return Sums(top, one, picked)
        soft = jnp.exp(shifted / temperature)
        rescale = jnp.exp((self.top - top) / temperature)
        return Sums(
            top,
            one,
            picked,
            self.soft * rescale + soft.sum(0),
            self.moment * rescale + (soft * lead).sum(0),
        )

    def log_normaliser(self) -> Float[Array, '*networks positions']:
        """Returns logsumexp(z)."""
        return self.top + jnp.log(self.one)

    def soft_log_normaliser(
        self, temperature: float | Float[Array, '']
    ) -> Float[Array, '*networks positions']:
        """Returns logsumexp(z / t)."""
        return self.top / temperature + jnp.log(self.soft)

    def mean_lead(self) -> Float[Array, '*networks positions']:
        """Returns the expectation of `lead` under softmax(z / t)."""
        return self.moment / self.soft


def over_blocks(visit: Callable, carry: Any, classes: int, block: int) -> Any:
    """Runs visit(first class, classes, carry) over the blocks; the last one may be smaller."""
    full, rest = divmod(classes, block)
    if full:
        carry = jax.lax.fori_loop(
            np.int32(0), np.int32(full), lambda i, carry: visit(i * block, block, carry), carry
        )
    return visit(np.int32(full * block), rest, carry) if rest else carry


def block_logits(hidden, kernel, bias, first, size):
    """Returns the logits of each network for `size` classes from `first`, and these kernels.

    Networks come one at a time: plain products run faster than batched ones, and the operations
    after them fuse.
    """
    kernel = jax.lax.dynamic_slice_in_dim(kernel, first, size, axis=1)
    # Rounding before the conversion keeps XLA from converting the whole kernel ahead of the loop.
    precision = jnp.finfo(hidden.dtype)
    kernel = jax.lax.reduce_precision(kernel, precision.nexp, precision.nmant).astype(hidden.dtype)
    bias = jax.lax.dynamic_slice_in_dim(bias, first, size, axis=1).astype(
        accumulation_dtype(hidden.dtype)
    )
    logits = [
        jnp.einsum('cd,pd->cp', k, h, preferred_element_type=b.dtype) + b[:, None]
        for k, h, b in zip(kernel, hidden, bias, strict=True)
    ]
    return logits, kernel


def head_gradients(
    logit_gradients: Callable[..., Logits],
    hidden: Float[Array, 'networks positions dim'],
    kernel: Float[Array, 'networks classes dim'],
    bias: Float[Array, 'networks classes'],
    block: int,
) -> tuple[Array, Array, Array]:
    """Returns the gradients of hidden states, kernels and biases, from those of the logits.

    Args:
      logit_gradients: function of (logits, first class, classes) that returns the gradients of a
        block of logits.
      hidden, kernel, bias, block: as for `catalogue_loss`.
    """

    def visit(first, size, carry):
        hidden_grad, kernel_grad, bias_grad = carry
        logits, kernels = block_logits(hidden, kernel, bias, first, size)
        grads = logit_gradients(logits, first, size)
        narrow = [grad.astype(hidden.dtype) for grad in grads]
        new_kernel_grad = [
            jnp.einsum('cp,pd->cd', grad, h, preferred_element_type=kernel.dtype)
            for grad, h in zip(narrow, hidden, strict=True)
        ]
        new_bias_grad = [grad.sum(1).astype(bias.dtype) for grad in grads]
        update = jax.lax.dynamic_update_slice_in_dim
        return (
            [
                so_far + jnp.einsum('cp,cd->pd', grad, k, preferred_element_type=so_far.dtype)
                for so_far, grad, k in zip(hidden_grad, narrow, kernels, strict=True)
            ],
            update(kernel_grad, jnp.stack(new_kernel_grad), first, axis=1),
            update(bias_grad, jnp.stack(new_bias_grad), first, axis=1),
        )

    start = (
        [jnp.zeros(hidden.shape[1:], accumulation_dtype(hidden.dtype))] * len(hidden),
        jnp.zeros_like(kernel),
        jnp.zeros_like(bias),
    )
    hidden_grad, *head_grads = over_blocks(visit, start, kernel.shape[1], block)
    return jnp.stack(hidden_grad).astype(hidden.dtype), *head_grads


def label_hits(
    labels: Int[Array, ' positions'], first: int | Int[Array, ''] | np.int32, size: int
) -> Bool[Array, 'classes positions']:
    """Returns whether each of `size` classes from `first` is the label of each position."""
    return (first + jnp.arange(size, dtype=labels.dtype))[:, None] == labels[None]
