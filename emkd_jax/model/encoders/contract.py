"""Tries an encoder of a user's own on a few small rows, before anything is trained with it.

An encoder that sees the item which it has to predict, or what lies beside its sequence in a packed
row, trains without any error, and its figures are wrong.
"""

import os
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from emkd_jax.errors import UserError
from emkd_jax.model.encoders.base import SequenceEncoder

_ITEMS = 50  # in the catalogue of the small rows
_SLOTS = 6  # at most
_TOLERANCE = 1e-4  # of the largest hidden state; rounding is a hundredth of it


def check_contract(encoder: SequenceEncoder, name: str) -> None:
    """Tries whether an encoder keeps the rules that `SequenceEncoder` names.

    Args:
      encoder: the encoder; the sizes of its catalogue and its rows do not matter.
      name: what the user calls it, for the message.

    Raises:
      UserError: it breaks a rule, or raises an error itself.
    """
    encoder = encoder.clone(num_items=_ITEMS, dtype=np.dtype('float32'), fast_memory=False)
    try:
        with jax.default_matmul_precision('float32'):
            broken = _broken_rule(encoder)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'The encoder {name} fails on rows of {_SLOTS} items: {type(error).__name__}: '
            f'{" ".join(str(error).split())[:300].rstrip(".")}{_place_of(error, type(encoder))}'
        ) from error
    if broken:
        raise UserError(
            f'The encoder {name} breaks a rule of encoders: {broken}. See the documentation of '
            'emkd_jax.SequenceEncoder.'
        )


def _broken_rule(encoder: SequenceEncoder) -> str:
    """The first rule that an encoder breaks; '' if it breaks none."""
    slots = min(encoder.max_len, _SLOTS)
    half = slots // 2
    rng = np.random.default_rng(0)
    whole, other = rng.integers(1, _ITEMS + 1, (2, slots)).astype(np.int32)
    first = np.arange(slots) < half
    padded, changed, two = np.where(first, [0 * whole, whole, other], [whole, other, whole])
    # Two batches, each of three rows, of which the first is the same.
    items = np.stack([[whole, padded, changed], [whole, two, 0 * whole]])
    segments = (items > 0).astype(np.int32)
    segments[1, 1] = np.where(first, 1, 2)
    states, last = _states(encoder, rng, items, segments, padded[None, half:])

    wanted = (*items.shape, encoder.dim)
    if states.shape != wanted:
        return (
            f'its hidden states have the shape {states.shape[1:]} where the shape (rows, slots, '
            f'model.hidden_dim) is {wanted[1:]}'
        )
    if not np.isfinite(states).all():
        return 'hidden states must be finite, also in a row that has only padding'
    tolerance = _TOLERANCE * np.abs(states).max()

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(np.abs(a - b).max(initial=0) <= tolerance)

    if not same(states[0, 0], states[1, 0]):
        return 'the hidden states of a row must not depend on the other rows'
    must_be_causal = encoder.causal or encoder.task == 'next_item'
    if must_be_causal and not same(states[0, 0, :half], states[0, 2, :half]):
        return (
            'the hidden state of a slot must not depend on later slots; with the task cloze, it '
            'may do so where the encoder says `causal = False`'
        )
    if not same(last[0, -1], states[0, 1, -1]):
        return (
            'the hidden state of the last slot must be the same with `last_only` and without the '
            'padding before the row'
        )
    if encoder.task == 'next_item' and not same(states[1, 1, half:], states[0, 1, half:]):
        return (
            'the hidden states of a segment must not depend on the other segments of its row; keep '
            'segments apart, or leave `packs = True` out'
        )
    return ''


def _states(
    encoder: SequenceEncoder,
    rng: np.random.Generator,
    items: Int[np.ndarray, 'batches rows slots'],
    segments: Int[np.ndarray, 'batches rows slots'],
    short: Int[np.ndarray, 'short_rows short_slots'],
) -> tuple[np.ndarray, np.ndarray]:
    """The hidden states of batches, and the last ones of shorter rows."""
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), items[0])
    # Weights that start from zero would hide what flows through them.
    noise = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(x.dtype), shapes)

    def states(noise, items, segments, short):
        params = jax.tree.map(jnp.add, encoder.init(jax.random.key(0), items[0]), noise)

        def of_batch(rows, parts):
            parts = parts if encoder.task == 'next_item' else None  # the other task knows none
            return encoder.apply(params, rows, segments=parts)

        found = jax.vmap(of_batch)(items, segments)
        return found, encoder.apply(params, short, last_only=True)

    keys = jax.ShapeDtypeStruct(items[0].shape, jnp.uint32)
    jax.eval_shape(encoder.apply, shapes, items[0], keys)  # as in training, for errors alone
    given = (noise, items, segments, short)
    quickly = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
    compiled = (
        jax.jit(states)
        .lower(*given)
        .compile(compiler_options=quickly if jax.default_backend() == 'cpu' else None)
    )
    found, last = compiled(*given)
    return np.asarray(found), np.asarray(last)


def _place_of(error: Exception, encoder: type) -> str:
    """The line of the encoder's own file in which an error arose."""
    file = getattr(sys.modules[encoder.__module__], '__file__', None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f' ({os.path.basename(file)}, line {lines[-1]}).' if file and lines else '.'
