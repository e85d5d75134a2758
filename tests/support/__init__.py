"""Helpers that several tests share."""

import importlib.metadata
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the repository

# XLA's flags for tests, which compile much and compute little: no optimisation, and kernels made
# the older way, which takes about half of the time. `.ci/run` tries some tests as users compile.
QUICK_TO_COMPILE = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # XLA aborts on flags it does not know
    QUICK_TO_COMPILE += ' --xla_cpu_use_fusion_emitters=false'
