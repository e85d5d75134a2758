"""The speed of a system can be measured beyond the end of its training."""

from emkd_jax.analysis.speed import make_trainer, train_for
from tests.support.tiny import tiny_config, tiny_experiment


def test_training_goes_on_beyond_the_last_step():
    trainer = make_trainer(tiny_experiment(tiny_config(train__num_steps=2)))
    beyond = trainer.num_steps + trainer.per_epoch + 1
    steps, _ = train_for(trainer, 0.0, min_steps=beyond)
    assert steps == trainer.step >= beyond
