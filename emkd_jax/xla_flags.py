"""Settings of the compiler that must stand in the environment before jax is imported."""

import importlib.metadata
import os

_FUSIONS = '--xla_cpu_experimental_ynn_fusion_type'
_KINDS = '-LIBRARY_FUSION_TYPE_ELTWISE,-LIBRARY_FUSION_TYPE_REDUCE'


def set_xla_flags() -> None:
    """Leaves element-wise work and reductions on the CPU to XLA's own code.

    From jaxlib 0.10 on XLA hands them to a library that takes four times as long over the blocks of
    the streamed loss. Other versions may not know the flag, and XLA dies of flags it does not know.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    if importlib.metadata.version('jaxlib').startswith('0.10.') and _FUSIONS not in flags:
        os.environ['XLA_FLAGS'] = f'{flags} {_FUSIONS}={_KINDS}'
