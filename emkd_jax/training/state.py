"""The state of a training run, from which everything that follows is determined."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from emkd_jax.model import hash_rng
from emkd_jax.model.ensemble import Ensemble
from emkd_jax.objective import next_item
from emkd_jax.objective.emkd import PARTS


def parts_of(ensemble: Ensemble) -> tuple[str, ...]:
    """Returns the names of the parts of the loss, of which the first is the main one."""
    return next_item.PARTS if ensemble.network.encoder.task == 'next_item' else PARTS


def sums_of(ensemble: Ensemble) -> tuple[str, ...]:
    """Returns the names of what is summed over the steps of an epoch."""
    return ('total', *parts_of(ensemble), 'masked', 'overflow')


@flax.struct.dataclass
class TrainState:
    """Complete training state, replicated on every device but for item tables that are split.

    Leaves may be device arrays, NumPy arrays or ShapeDtypeStructs. Shapes are those of one run.

    Attributes:
      step: () int32, the number of optimizer steps done.
      params: the parameters, with a leading axis of networks.
      opt_state: the state of the optimizer, with a leading axis of networks.
      seed: () uint32, the seed of the run.
      average: a running average of the parameters, or an empty dictionary where none is kept.
      sums: () float32 for each of `sums_of`, summed over the steps of this epoch so far.
    """

    step: PyTree
    params: PyTree
    opt_state: PyTree
    seed: PyTree
    sums: dict[str, PyTree]
    average: PyTree = flax.struct.field(default_factory=dict)

    @property
    def kept(self) -> PyTree:
        """The parameters that are validated and recommend: the average, if there is one."""
        return self.average or self.params


def make_optimizer(learning_rate: float | Float[Array, '']) -> optax.GradientTransformation:
    """Returns Adam with a constant learning rate."""
    return optax.adam(learning_rate)


def init_state(
    ensemble: Ensemble,
    optimizer: optax.GradientTransformation,
    seed: int,
    with_average: bool = False,
) -> TrainState:
    """Returns the state of one run before the first step, with or without a running average."""
    params = ensemble.init(jax.random.key(seed))

    @jax.jit  # as one program, since each array would be one
    def init_optimizer(params: PyTree) -> PyTree:
        # An optimizer may reduce over the tree, which must not couple the networks.
        return ensemble.over_stacks(lambda _, p: jax.vmap(optimizer.init)(p), params)

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=init_optimizer(params),
        seed=hash_rng.fold(jnp.uint32(seed)),
        sums={name: jnp.zeros(()) for name in sums_of(ensemble)},
        average=params if with_average else {},
    )


def stack_states(states: Sequence[TrainState]) -> TrainState:
    """Stacks the states of single runs into host arrays with a leading axis of runs."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(list(states)))


def unstack_states(stack: TrainState) -> list[TrainState]:
    """Returns the states of the single runs, as host arrays."""
    host = jax.device_get(stack)
    return [jax.tree.map(lambda x: x[r], host) for r in range(len(host.step))]  # noqa: B023
