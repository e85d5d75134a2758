"""An ensemble's weights as a file: safetensors, NumPy's npz, or the authors' PyTorch checkpoint.

The first two hold our parameters by their path, `encoder/block_0/attention/qkv_kernel`, each with a
leading networks axis. A `.pth` holds the released model's state dict (see `pytorch.py`).
"""

import os
import pathlib
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, PyTree

from emkd_jax.errors import UserError
from emkd_jax.serving.pytorch import params_from_state_dict, state_dict_from_params

FORMATS = ('safetensors', 'npz', 'pth')
_STATE = 'model_state_dict'  # the released checkpoints' entry for the model


def load_weights(path: str) -> PyTree[Float[np.ndarray, 'networks ...']]:
    """Parameters from the file at `path`; its suffix tells the format.

    Raises:
      UserError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        match pathlib.Path(path).suffix:
            case '.safetensors':
                return _tree(safetensors.numpy.load_file(path))
            case '.npz':
                with np.load(path, allow_pickle=False) as arrays:
                    return _tree(arrays)
            case '.pth':
                return _from_pytorch(path)
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror or error}).') from error
    except (safetensors.SafetensorError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f'{path} is damaged, or no file of weights ({_first_line(error)}); write it again.'
        ) from error
    raise UserError(f'{path} ends in none of {", ".join(FORMATS)}; name a file of weights.')


def save_weights(path: pathlib.Path, params: PyTree[Float[np.ndarray, 'networks ...']]) -> None:
    """Writes the parameters to `path`, whole or not at all; its suffix tells the format.

    Raises:
      UserError: PyTorch is needed and not installed, or the encoder is not the released model's.
    """
    params = jax.device_get(params)
    match path.suffix:
        case '.safetensors':
            _whole(path, lambda file: safetensors.numpy.save_file(_flat(params), file))
        case '.npz':
            _whole(path, lambda file: np.savez(file, **_flat(params)))
        case '.pth':
            torch = _torch()
            try:
                state = state_dict_from_params(params)
            except KeyError as error:
                raise UserError(
                    'A .pth file is for model.encoder=bert4rec only, which the released code has; '
                    'take safetensors.'
                ) from error
            tensors = {name: torch.tensor(np.asarray(leaf)) for name, leaf in state.items()}
            _whole(path, lambda file: torch.save({_STATE: tensors}, file))


def check_weights(
    params: PyTree[Float[np.ndarray, 'networks ...']], expected: PyTree, path: str
) -> None:
    """Raises UserError unless `params`, from `path`, have the leaves and shapes of `expected`."""
    ours, theirs = _shapes(expected), _shapes(params)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f'{path} does not fit this model: {name} is {theirs.get(name, "missing")} there '
                f'and {ours.get(name, "missing")} here; give the configuration and the data that '
                'the weights were trained with.'
            )


def _from_pytorch(path):
    torch = _torch()
    try:
        loaded = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f'{path} is refused: its pickle holds more than weights; save the state dict alone.'
        ) from error
    except RuntimeError as error:
        raise ValueError(error) from error
    state = loaded.get(_STATE, loaded) if isinstance(loaded, Mapping) else None
    if not state or not all(isinstance(leaf, torch.Tensor) for leaf in state.values()):
        raise UserError(f'{path} holds no state dict; it needs one, or one under {_STATE}.')
    arrays = {
        name.removeprefix('module.'): leaf.float().numpy()  # what DataParallel puts before names
        for name, leaf in state.items()
    }
    try:
        return jax.device_get(params_from_state_dict(arrays))
    except (KeyError, ValueError, TypeError) as error:  # names or shapes that do not fit together
        raise UserError(f'{path} is not a checkpoint of the released EMKD model.') from error


def _torch():
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            '.pth files need PyTorch, which is not installed; run pip install torch.'
        ) from error
    return torch


def _flat(params: PyTree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {'/'.join(key.key for key in path): np.ascontiguousarray(leaf) for path, leaf in leaves}


def _tree(arrays: Mapping[str, np.ndarray]) -> PyTree:
    tree = {}
    for name, array in arrays.items():
        *folders, leaf = name.split('/')
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = array
    return tree


def _shapes(params):
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {'/'.join(key.key for key in path): tuple(leaf.shape) for path, leaf in leaves}


def _whole(path: pathlib.Path, write: Callable[[str], None]) -> None:
    descriptor, partial = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        write(partial)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        pathlib.Path(partial).unlink(missing_ok=True)


def _first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
