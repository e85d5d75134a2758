"""The search of options, with a program in place of launch.py that knows the best ones."""

import json
import sys

import optuna
import pytest

from benchmarks import search

# NDCG@10 is best with a dropout of 0.6 and 96 dimensions. The first call is killed.
LAUNCH = """
import json, pathlib, sys
from emkd_jax.config import get_config
from emkd_jax.config.stored import to_json

given = dict(a.lstrip('-').partition('=')[::2] for a in sys.argv[1:])
assert given['config'] == 'beauty:best' and given['config.train.num_epochs'] == '3'
assert given['config.ensemble.num_networks'] == '1'
here = pathlib.Path(__file__).parent
with (here / 'calls').open('a') as calls:
    print(pathlib.Path(given['workdir']).name, file=calls)
if not (here / 'killed').exists():
    (here / 'killed').touch()
    sys.exit(143)
value = 0.1 - abs(float(given['config.model.dropout']) - 0.6) / 10
value -= 0.01 * (int(given['config.model.hidden_dim']) != 96)
work = pathlib.Path(given['workdir'])
work.mkdir(exist_ok=True)  # where the same options are proposed again
config = get_config(given['config'], **{'eval.rule': given['config.eval.rule']})
(work / 'config.json').write_text(json.dumps(to_json(config)))
with (work / 'metrics.jsonl').open('w') as log:
    for epoch, share in ((1, 0.5), (2, 1), (3, 0.9)):
        values = {'none': {'HR@10': 0.5, 'NDCG@10': value * share}, 'history': {'NDCG@10': 1.0}}
        event = {'kind': 'validation', 'epoch': epoch, 'seconds': 2.0 * epoch, 'step': epoch}
        print(json.dumps(event | {'ensemble': values}), file=log)
"""


def run(tmp_path, monkeypatch, trials):
    """Runs the search, and returns its record."""
    (tmp_path / 'launch.py').write_text(LAUNCH)
    monkeypatch.setattr(search, 'LAUNCH', tmp_path / 'launch.py')
    command = ['search.py', str(tmp_path / 'found'), '--config=beauty:best', f'--trials={trials}']
    command += ['--search', 'model.dropout=0.4:0.7', 'model.hidden_dim=96,128']
    options = ['--config.train.num_epochs=3', '--config.eval.rule=none']
    monkeypatch.setattr(sys, 'argv', [*command, *options])
    search.main()
    return json.loads((tmp_path / 'found' / 'search.json').read_text())


def test_the_search_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    with pytest.raises(search.subprocess.CalledProcessError):
        run(tmp_path, monkeypatch, 8)
    assert len(run(tmp_path, monkeypatch, 8)['trials']) == 8
    record = run(tmp_path, monkeypatch, 12)
    assert record['other options'] == ['--config.train.num_epochs=3', '--config.eval.rule=none']
    trials = record['trials']
    assert len(trials) == 12
    calls = (tmp_path / 'calls').read_text().split()
    assert calls[0] == calls[1] == 'dropout=0.5,hidden_dim=128'  # that of the recipe, once more
    assert len(calls) == 13
    best = [trial['best'] for trial in trials]
    assert best == sorted(best, reverse=True)
    assert trials[0]['options']['model.hidden_dim'] == 96
    for trial in trials:
        assert trial['best'] == max(point['NDCG@10'] for point in trial['curve'])
        assert 0.4 <= trial['options']['model.dropout'] <= 0.7
        assert [point['epoch'] for point in trial['curve']] == [1, 2, 3]


def test_what_is_searched_is_read():
    space = search.parse_space(
        ['optimizer.learning_rate=1e-4:1e-2:log', 'model.dropout=0.1:0.5', 'model.tied=True,False']
    )
    assert list(space.values()) == [
        optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        optuna.distributions.FloatDistribution(0.1, 0.5),
        optuna.distributions.CategoricalDistribution([True, False]),
    ]
