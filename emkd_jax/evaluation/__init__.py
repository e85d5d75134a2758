"""Evaluation: every held-out item is ranked among the whole catalogue, on the devices."""

from emkd_jax.evaluation.diversity import Diversity
from emkd_jax.evaluation.evaluator import Evaluator, Result
from emkd_jax.evaluation.metrics import RULES

__all__ = ['RULES', 'Diversity', 'Evaluator', 'Result']
