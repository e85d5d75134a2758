"""Items as vectors, whose inner products with those of histories are the scores of the networks.

With h_n the hidden state of network n that predicts the next item, W_n its item head and b_n its
bias, the sum of the networks' logits is one inner product,

    sum_n (W_n h_n + b_n) = [W_1 ... W_N] [h_1; ...; h_N] + sum_n b_n,

so an index for the search of inner products finds what the networks recommend.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, PyTree

from emkd_jax.errors import import_extra
from emkd_jax.model.ensemble import Ensemble


def item_vectors(
    ensemble: Ensemble, params: PyTree
) -> tuple[Float32[np.ndarray, 'items networks_times_dim'], Float32[np.ndarray, ' items']]:
    """Returns the item heads of all networks side by side, and the sum of their biases.

    Args:
      ensemble: the networks.
      params: their trained parameters.
    """
    kernels, biases = jax.jit(lambda p: ensemble.item_heads(ensemble.effective(p)))(params)
    kernels = np.asarray(kernels, np.float32)[:, 1:]
    vectors = np.ascontiguousarray(np.concatenate(list(kernels), axis=-1))
    return vectors, np.asarray(biases, np.float32)[:, 1:].sum(0)


def directions(
    vectors: Float32[np.ndarray, 'items networks_times_dim'], num_networks: int
) -> Float32[np.ndarray, 'items networks_times_dim']:
    """Scales vectors so that their inner product is the mean of the N networks' cosines.

    Args:
      vectors: as `item_vectors` returns them.
      num_networks: N.
    """
    parts = vectors.reshape(len(vectors), num_networks, -1)
    lengths = np.linalg.norm(parts, axis=-1, keepdims=True) * np.sqrt(np.float32(num_networks))
    scaled: Float32[np.ndarray, 'items networks_times_dim'] = (
        parts / np.maximum(lengths, np.finfo(np.float32).tiny)
    ).reshape(vectors.shape)
    return scaled


def write_index(
    file: pathlib.Path,
    vectors: Float32[np.ndarray, 'items networks_times_dim'],
    biases: Float32[np.ndarray, ' items'],
) -> None:
    """Writes a faiss index that ranks items by their exact inner products.

    Its vectors have the bias in one more column, so that of a history ends with a 1.

    Args:
      file: the file to write.
      vectors, biases: of the items in their order.

    Raises:
      UserError: faiss is not installed.
    """
    faiss = import_faiss()
    index = faiss.IndexFlatIP(vectors.shape[1] + 1)
    index.add(np.concatenate([vectors, biases[:, None]], axis=1))
    file.write_bytes(faiss.serialize_index(index).tobytes())


def import_faiss() -> Any:
    """The module faiss.

    Raises:
      UserError: it is not installed.
    """
    return import_extra('faiss', 'export.index=faiss', '[index]')
