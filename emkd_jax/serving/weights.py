"""The weights of an ensemble in a file: safetensors, NumPy's npz, or the authors' PyTorch format.

The first two hold an array for each parameter, named by its path, such as
`encoder/block_0/attention/qkv_kernel`, with a leading axis of networks. A `.pth` file holds the
state dict of the released model (see `pytorch.py`).
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import Float, PyTree

from emkd_jax.data.atomic import atomic_file
from emkd_jax.errors import UserError, import_extra
from emkd_jax.serving.pytorch import flatten, nest, params_from_state_dict, state_dict_from_params

FORMATS = ('safetensors', 'npz', 'pth')
_STATE = 'model_state_dict'  # the entry of the released checkpoints that holds the model


def load_weights(path: epath.PathLike) -> PyTree[Float[np.ndarray, '_ ...']]:
    """Reads parameters from a file; its ending tells the format.

    Raises:
      UserError: the file cannot be read, is damaged, or holds something else.
    """
    path = epath.Path(path)
    if path.suffix.removeprefix('.') not in FORMATS:
        raise UserError(f'{path} ends in none of {", ".join(FORMATS)}; name a file of weights.')
    try:
        content = path.read_bytes()
        if path.suffix == '.pth':
            return _from_pytorch(path, content)
        if path.suffix == '.npz':
            return nest(np.load(io.BytesIO(content), allow_pickle=False))
        return nest(safetensors.numpy.load(content))
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror or error}).') from error
    except (safetensors.SafetensorError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition('\n')[0] or type(error).__name__
        raise UserError(
            f'{path} is damaged or is not a file of weights ({reason}); write it again.'
        ) from error


def save_weights(path: epath.PathLike, params: PyTree[Float[np.ndarray, '_ ...']]) -> None:
    """Writes parameters to a file, completely or not at all; its ending tells the format.

    Raises:
      UserError: PyTorch is needed and not installed, or the encoder is not the released model's.
      OSError: the file cannot be written.
    """
    ending = epath.Path(path).suffix
    params = jax.device_get(params)
    if ending == '.pth':
        torch = _torch()
        try:
            state = state_dict_from_params(params)
        except KeyError as error:
            raise UserError(
                'A .pth file can only hold networks with model.encoder=bert4rec, the encoder of '
                'the released code; use safetensors.'
            ) from error
        tensors = {name: torch.tensor(np.asarray(array)) for name, array in state.items()}
        with atomic_file(path) as partial:
            torch.save({_STATE: tensors}, partial)
        return
    flat: dict[str, Any] = {k: np.ascontiguousarray(v) for k, v in flatten(params).items()}
    with atomic_file(path) as partial:
        if ending == '.npz':
            np.savez(partial, **flat)
        else:
            safetensors.numpy.save_file(flat, partial)


def check_weights(
    params: PyTree[Float[np.ndarray, '_ ...']], expected: PyTree, path: epath.PathLike
) -> None:
    """Raises UserError unless `params`, read from `path`, have the shapes of `expected`."""
    found, wanted = (
        {name: tuple(array.shape) for name, array in flatten(tree).items()}
        for tree in (params, expected)
    )
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f'{path} does not fit this model: {name} is {found.get(name, "missing")} there '
                f'and {wanted.get(name, "missing")} here; use the configuration and the data that '
                'the weights were trained with.'
            )


def _from_pytorch(path: epath.Path, content: bytes) -> PyTree[Float[np.ndarray, '_ ...']]:
    torch = _torch()
    try:
        loaded = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'{path} is refused: its pickle holds more than weights; save only the state dict.'
        ) from error
    except RuntimeError as error:
        raise ValueError(error) from error
    state = loaded.get(_STATE, loaded) if isinstance(loaded, Mapping) else None
    if not state or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f'{path} holds no state dict; it needs one, or one under {_STATE}.')
    arrays = {  # DataParallel puts `module.` before each name
        name.removeprefix('module.'): tensor.float().numpy() for name, tensor in state.items()
    }
    try:
        return params_from_state_dict(arrays)
    except (KeyError, ValueError, TypeError) as error:  # names or shapes that do not fit together
        raise UserError(f'{path} is not a checkpoint of the released EMKD model.') from error


def _torch() -> ModuleType:
    return import_extra('torch', 'A .pth file', '[torch]')
