"""The strictness every test runs under; set before jax starts."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

import pytest

from tests.support import QUICK_TO_COMPILE

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
)
if 'xla_backend_optimization_level' not in os.environ['XLA_FLAGS']:
    os.environ['XLA_FLAGS'] += f' {QUICK_TO_COMPILE}'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # XLA aborts on flags it does not know
    # On a machine that stalls, the threads of a collective may meet later than XLA waits for them.
    os.environ['XLA_FLAGS'] += ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
# Most of the time goes into compiling: what one test compiled the others read.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    str(pathlib.Path(tempfile.gettempdir(), f'emkd_jax_test_cache_{os.getuid()}')),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
# More fake devices than cores can abort in an XLA rendezvous; a larger thread pool cures it.
os.environ.setdefault('NPROC', '16')
os.environ['no_proxy'] = 'localhost,127.0.0.1'  # processes of a test speak with each other

import jax
from jaxtyping import install_import_hook

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

install_import_hook('emkd_jax', 'beartype.beartype').__enter__()


def pytest_make_parametrize_id(val):
    """Content is no name: it may be long, or differ between pytest-xdist's workers."""
    if isinstance(val, bytes | str) and len(val) > 100:
        return f'{type(val).__name__}{len(val)}'
    return None


@pytest.fixture(autouse=True, scope='module')
def few_programs():
    """Frees the compiled programs of a module.

    Each has memory mappings, of which a process may have 65,530 on Linux; beyond them, XLA aborts.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def real_data():
    """The folder with the authors' data files, in the layout of their repository."""
    return _named_folder('EMKD_DATA_DIR', "the authors' data files")


@pytest.fixture(scope='session')
def s3rec():
    """A folder with Toys_and_Games.txt, as S3-Rec's authors released it."""
    return _named_folder('EMKD_S3REC_DIR', "S3-Rec's data files")


def _named_folder(variable, content):
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f'{variable} does not name a folder with {content}')
    return pathlib.Path(folder)


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
    """The results of a small run that is finished, and its folder."""
    from emkd_jax.runs.loop import train
    from tests.support.runs import small_config

    folder = tmp_path_factory.mktemp('runs') / 'whole'
    return train(small_config(), workdir=str(folder)).results, folder
