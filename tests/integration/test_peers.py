"""The benchmark beside other libraries, with programs in their place that know the answers."""

import json
import sys

import pytest

from benchmarks import peers
from tests.support.tiny import NUM_ITEMS, tiny_experiment

# Its first epoch has no idea, and its second one knows the item that comes next.
PEER = """
import json, pathlib, sys
import numpy as np

data, work = np.load(sys.argv[1]), pathlib.Path(sys.argv[2])
last = data['all_values'][data['all_offsets'][1:] - 1]
before = data['all_values'][data['all_offsets'][1:] - 2]
items = np.eye(V + 1, dtype=np.float32)
for epoch in (1, 2):
    found = {'validation': (epoch - 1) * items[before], 'test': (epoch - 1) * items[last]}
    np.savez(work / f'epoch_{epoch}.npz', items=items, **found)
(work / 'curve.json').write_text(json.dumps({'seconds': [2.0, 4.5], 'asked': sys.argv[3:]}))
"""

# In place of launch.py: a recipe of this project, or the benchmark of the authors' code.
LAUNCH = """
import json, pathlib, sys

given = dict(a.lstrip('-').partition('=')[::2] for a in sys.argv[1:])
work = pathlib.Path(given['workdir'])
work.mkdir()
if 'benchmark' in given:
    assert given['config.train.batch_size'] == '32' and given['pytorch_repo'].endswith('clone')
    found = {'original': 5.0}
    more = {'sizes': {'windows': 300}, 'peak_host_bytes': {'original': 2**31}}
    (work / 'benchmark.json').write_text(json.dumps({'sequences_per_second': found} | more))
else:
    values = {'history': {'HR@10': 0.5, 'NDCG@10': 0.25}}
    log = {'kind': 'validation', 'epoch': 4, 'seconds': 20.0, 'ensemble': values, 'step': 1}
    (work / 'metrics.jsonl').write_text(json.dumps(log) + '\\n')
    (work / 'results.json').write_text(json.dumps({'test': values}))
"""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The record of all systems."""
    (tmp_path / 'launch.py').write_text(LAUNCH)
    here = tmp_path / 'benchmarks'
    here.mkdir()
    (here / 'peer_other.py').write_text(PEER.replace('V + 1', str(NUM_ITEMS + 1)))
    (here / 'peer_broken.py').write_text('raise SystemExit(1)')
    monkeypatch.setattr(peers, 'HERE', here)
    monkeypatch.setattr(peers, 'OURS', {'ours': ('--config.seed=1',)})
    others = {'other': ('other', (), ('--loss=x',)), 'broken': ('broken', (), ())}
    monkeypatch.setattr(peers, 'PEERS', others)
    monkeypatch.setattr(peers, 'environment', lambda *names: sys.executable)
    monkeypatch.setattr(peers, 'make_experiment', lambda config: tiny_experiment())
    folder = tmp_path / 'found'
    arguments = [str(folder), f'--source={tmp_path}', f'--clone={tmp_path}/clone', '--minutes=2']
    monkeypatch.setattr(sys, 'argv', ['peers.py', *arguments])
    peers.main()
    return json.loads((folder / 'peers.json').read_text())['systems'], folder


def test_every_system_is_measured_in_the_same_way(measured, capsys):
    systems, folder = measured
    other = systems['other']
    assert [point['seconds'] for point in other['curve']] == [2.0, 4.5]
    assert other['curve'][0]['NDCG@10'] < other['curve'][1]['NDCG@10'] == 1.0
    assert other['best epoch'] == 2 and other['test'] == {'HR@10': 1.0, 'NDCG@10': 1.0}
    asked = json.loads((folder / 'other' / 'curve.json').read_text())['asked']
    assert asked == ['--seconds=120.0', '--loss=x']
    assert systems['ours']['seconds an epoch'] == 5.0
    assert systems['ours']['test'] == {'HR@10': 0.5, 'NDCG@10': 0.25}
    assert systems[peers.ORIGINAL]['seconds an epoch'] == 60.0
    assert 0 < systems[peers.COUNTS]['test']['NDCG@10'] < 1
    assert 'broken' not in systems
    assert (folder / 'peers.png').read_bytes().startswith(b'\x89PNG')


def test_the_table_has_a_row_for_each_system(measured):
    rows = {row[0]: row[1:] for row in peers.summary({'systems': measured[0]})}
    assert rows['other'][:5] == ['2.2', '4', '1.0000', '1.0000', '1.0000']
    assert rows[peers.ORIGINAL] == ['60.0', '', '', '', '', '2.0']
    assert len(rows) == 4
