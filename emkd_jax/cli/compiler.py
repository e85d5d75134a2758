"""Settings of XLA, in environment variables that JAX reads when it is imported."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform

from emkd_jax.errors import UserError


def set_xla_flags() -> None:
    """Leaves element-wise work and reductions on CPUs to XLA's own code. Before jax is imported.

    From jaxlib 0.10 on, XLA hands them to a library that takes four times as long over the blocks
    of the catalogue loss. XLA aborts on flags it does not know, so other versions get none.
    """
    name = '--xla_cpu_experimental_ynn_fusion_type'
    given = os.environ.get('XLA_FLAGS', '')
    if importlib.metadata.version('jaxlib').startswith('0.10.') and name not in given:
        kinds = '-LIBRARY_FUSION_TYPE_ELTWISE,-LIBRARY_FUSION_TYPE_REDUCE'
        os.environ['XLA_FLAGS'] = f'{given} {name}={kinds}'.strip()


def set_compilation_cache(folder: str) -> None:
    """Keeps compiled programs, so that a second start is faster.

    JAX's own variables (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE) come first. By
    default, the folder is one of the user and of this kind of CPU, for which XLA compiles. A user
    without a home, as in many containers, has none.

    Args:
      folder: a folder; 'none' for no cache; '' for the default.

    Raises:
      UserError: the folder cannot be used.
    """
    if folder == 'none':
        os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
        return
    if not folder and 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    place = folder or os.path.join(base, 'emkd_jax', 'compiled', _cpu_name())
    try:
        if '://' not in place:
            os.makedirs(place, exist_ok=True)
    except OSError as error:
        if folder:
            raise UserError(
                f'--compilation_cache={folder} cannot be used ({error.strerror}); name another '
                'folder, or none.'
            ) from error
        os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
        return
    os.environ['JAX_COMPILATION_CACHE_DIR'] = place
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')


def _cpu_name() -> str:
    """Hex digits that differ between CPUs with other instructions."""
    features = platform.processor() + platform.machine()
    with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as file:
        features += next((line for line in file if line.startswith(('flags', 'Features'))), '')
    return hashlib.sha256(features.encode()).hexdigest()[:12]
