"""Encoders that break one rule of `SequenceEncoder` each, or raise errors."""

import jax.numpy as jnp

from emkd_jax import SequenceEncoder


class _MeanOfEarlierItems(SequenceEncoder):
    has_slot_embeddings = False

    def blocks(self, x, segments, keys, last_only):
        total, count = (jnp.cumsum(v, axis=1) for v in (x, (segments > 0)[..., None]))
        mean = total / count.clip(1).astype(x.dtype)
        return mean[:, -1:] if last_only else mean


class SeesOtherSegments(_MeanOfEarlierItems):
    packs = True


class SeesLaterItems(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        return super().blocks(x, segments, keys, last_only) + x.mean(1, keepdims=True)


class PacksButSeesLaterItems(SeesLaterItems):
    """With the task cloze it would be right."""

    causal = False
    packs = True


class SeesOtherRows(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        return super().blocks(x, segments, keys, last_only) + x.mean(0, keepdims=True)[:, -1:]


class CountsPadding(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        return super().blocks(x, jnp.ones_like(segments), keys, last_only)


class TakesTheFirstSlot(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        states = super().blocks(x, segments, keys, False)
        return states[:, :1] if last_only else states


class HasNoStateWithoutItems(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        count = jnp.cumsum(segments > 0, axis=1)[..., None]
        return super().blocks(x, segments, keys, last_only) + 0 / count[:, -1:].astype(x.dtype)


class IsTooWide(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        states = super().blocks(x, segments, keys, last_only)
        return jnp.concatenate([states, states], -1)


class Raises(SequenceEncoder):
    def blocks(self, x, segments, keys, last_only):
        return x @ jnp.ones((3, 3), x.dtype)


class RaisesInTraining(_MeanOfEarlierItems):
    def blocks(self, x, segments, keys, last_only):
        states = super().blocks(x, segments, keys, last_only)
        return states if keys is None else states + keys


class DefinesNothing(SequenceEncoder):
    pass
