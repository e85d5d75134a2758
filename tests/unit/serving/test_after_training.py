"""What a training ends with."""

import pytest

from emkd_jax.runs.loop import train
from emkd_jax.serving.after_training import gain_in_words, show
from tests.support.runs import small_config


def results(value, counts=False, **floors):
    found = {
        'config': {'eval': {'rule': 'history'}},
        'test': {'history': {'NDCG@10': value}},
        'floors': {name: {'history': {'NDCG@10': floor}} for name, floor in floors.items()},
    }
    return found | ({'counts': {'weight': 1}} if counts else {})


@pytest.mark.parametrize(
    ('found', 'words'),
    [
        (
            results(0.06, popularity=0.01, markov=0.05),
            'The ensemble beat all baselines in NDCG@10: 0.0600 against 0.0500 of markov, the best '
            'baseline (+20%).',
        ),
        (
            results(0.03, popularity=0.01, markov=0.06),
            'The ensemble beat only popularity in NDCG@10: 0.0300 against 0.0600 of markov, the '
            'best baseline (-50%).',
        ),
        (
            results(0.01, counts=True, popularity=0.01, markov=0.05),
            'The ensemble and the counts beat none of the baselines in NDCG@10 (0.0100); the best '
            'one, markov, has 0.0500.',
        ),
    ],
)
def test_the_gain_is_said_in_words(found, words):
    assert gain_in_words(found) == words


def test_recommendations_and_the_next_commands_are_shown(tmp_path, capfd):
    run = train(small_config(train__num_epochs=1), workdir=str(tmp_path / 'run'))
    capfd.readouterr()
    show(run)
    shown = capfd.readouterr().out
    assert 'came last to:' in shown
    assert sum(line.strip()[:2].strip().isdigit() for line in shown.splitlines()) == 10
    assert f'emkd-jax recommend --workdir={tmp_path / "run"}' in shown
    assert max(map(len, shown.splitlines())) <= 80 + len(str(tmp_path))
