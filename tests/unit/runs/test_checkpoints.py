"""Checkpoints: what is trusted, what is set aside, what is kept, and how a write may fail."""

import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emkd_jax.errors import RunError, UserError
from emkd_jax.runs.checkpoints import Checkpoints, _digest, read_best
from emkd_jax.training.state import TrainState

DIGEST = _digest


def state(step, size=1000):
    """A state whose every number tells its step."""
    return TrainState(
        step=np.int32(step),
        params={'a': np.full((2, size), step, np.float32), 'b': np.full(3, step, np.float32)},
        opt_state=(np.full((2, 3), step, np.float32),),
        seed=np.uint32(7),
        sums={'total': np.float32(step)},
    )


def record(best):
    return {'data': 'f' * 64, 'best': best and {'step': best, 'epoch': 1, 'value': 0.1}}


def save(workdir, steps):
    """Saves `{step: best step}` in order, as a run would, and ends it."""
    checkpoints = Checkpoints(workdir)
    for step, best in steps.items():
        checkpoints.save(state(step), record(best))
    checkpoints.close()
    return pathlib.Path(workdir, 'checkpoints')


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_restores(checkpoints, step):
    restored, _ = checkpoints.restore(step, state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))


def test_state_and_record_come_back(tmp_path):
    save(tmp_path, {3: None, 5: 5})
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps[-1:] == [5]
    assert_restores(checkpoints, 5)
    assert checkpoints.restore(5, state(0))[1] == record(5)
    assert Checkpoints(tmp_path / 'other').steps == []


def test_the_last_two_are_kept_and_the_best_of_each(tmp_path):
    root = save(tmp_path, {1: 1, 2: 1, 3: 3, 4: 3, 5: 3})
    assert names(root) == ['3', '4', '5']
    # While 6, a new best, is not sealed yet, the run may have to go on from 5, whose best is 3.
    root = save(tmp_path, {6: 6})
    assert names(root) == ['3', '5', '6']
    root = save(tmp_path, {7: 6})
    assert names(root) == ['6', '7']


def test_what_is_written_is_the_state_of_the_call(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    now = jax.device_put(state(1, size=1_000_000))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(now, record(None))
    for _ in range(20):
        now = advance(now)
    jax.block_until_ready(now)
    checkpoints.close()
    restored, _ = checkpoints.restore(1, state(0, size=1_000_000))
    np.testing.assert_array_equal(restored.params['a'], jnp.float32(1))


def test_damage_to_any_file_of_the_newest_is_noticed_and_the_one_before_is_used(tmp_path, capsys):
    root = save(tmp_path / 'whole', {1: None, 2: None})
    files = sorted(p.relative_to(root / '2') for p in (root / '2').rglob('*') if p.is_file())
    assert len(files) >= 6
    for file in files:
        for damage in ('truncate', 'flip', 'delete', 'append'):
            shutil.rmtree(tmp_path / 'run', ignore_errors=True)
            shutil.copytree(tmp_path / 'whole', tmp_path / 'run')
            path = tmp_path / 'run' / 'checkpoints' / '2' / file
            content = bytearray(path.read_bytes())
            match damage:
                case 'truncate':
                    path.write_bytes(content[: len(content) // 2])
                case 'flip':
                    content[len(content) // 2] ^= 1
                    path.write_bytes(content)
                case 'delete':
                    path.unlink()
                case 'append':
                    path.write_bytes(content + b' ')
            if path.exists() and path.read_bytes() == (root / '2' / file).read_bytes():
                continue  # it was empty
            if damage == 'append' and file.name == 'seal.json':
                continue  # says the same
            checkpoints = Checkpoints(tmp_path / 'run')
            assert checkpoints.steps[-1:] == [1], (file, damage)
            assert_restores(checkpoints, 1)
            assert names(tmp_path / 'run' / 'set_aside') == ['2']
            said = capsys.readouterr().err
            assert 'Checkpoint 2 was moved to' in said
            assert file.name == 'seal.json' or file.name in said
            save(tmp_path / 'run', {2: None})  # the run comes there again
            assert_restores(Checkpoints(tmp_path / 'run'), 2)


def test_one_that_was_not_sealed_is_not_used(tmp_path):
    root = save(tmp_path, {1: None, 2: None})
    (root / '2' / 'seal.json').unlink()
    (root / '3.orbax-checkpoint-tmp').mkdir()
    assert Checkpoints(tmp_path).steps[-1:] == [1]
    assert names(root) == ['1']
    (root / '1' / 'seal.json').unlink()
    assert Checkpoints(tmp_path).steps == []  # killed during the very first save: start anew
    assert names(tmp_path / 'set_aside') == ['1']


def test_where_none_is_left_an_error_says_what_happened(tmp_path):
    root = save(tmp_path, {1: None, 2: None})
    for step in ('1', '2'):
        (root / step / 'record.json').unlink()
    with pytest.raises(RunError, match=r'1: record.json is missing; 2: record.json is missing\)'):
        Checkpoints(tmp_path)
    assert Checkpoints(tmp_path).steps == []  # as the message says


def test_without_its_best_a_checkpoint_is_of_no_use(tmp_path):
    root = save(tmp_path, {1: 1, 2: 2, 3: 2, 4: 2})
    assert names(root) == ['2', '3', '4']
    (root / '2' / 'record.json').write_text('{}')
    with pytest.raises(RunError, match='2: record.json is damaged; 3: its best checkpoint, 2, is'):
        Checkpoints(tmp_path)


def test_damage_after_the_start_is_noticed_too(tmp_path):
    root = save(tmp_path, {1: 1})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(1, state(0))
    (root / '1' / 'state' / 'manifest.ocdbt').write_bytes(b'')
    with pytest.raises(RunError, match='manifest.ocdbt is damaged.*start the same command again'):
        checkpoints.restore(1, state(0))


def test_another_process_takes_the_word_of_process_0_for_a_seal(tmp_path, monkeypatch):
    """It may come to a checkpoint that process 0 has not sealed yet."""
    root = save(tmp_path, {1: 1})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore(1, state(0))
    (root / '1' / 'seal.json').unlink()
    with pytest.raises(RunError, match='it was not completed'):
        checkpoints.restore(1, state(0))
    monkeypatch.setattr('emkd_jax.runs.checkpoints.jax.process_index', lambda: 1)
    monkeypatch.setattr('emkd_jax.runs.checkpoints.of_process_0', lambda value: None)
    assert_restores(checkpoints, 1)


def test_a_step_that_was_verified_at_the_start_is_not_read_again(tmp_path, monkeypatch):
    save(tmp_path, {1: 1, 2: 2})
    checkpoints = Checkpoints(tmp_path)
    read = []
    monkeypatch.setattr('emkd_jax.runs.checkpoints._fault', read.append)
    checkpoints.restore(2, state(0))
    assert not read
    checkpoints.restore(2, state(0))  # much later it is
    assert len(read) == 1


def test_the_best_parameters_are_read_alone_and_nothing_changes(tmp_path, monkeypatch):
    root = save(tmp_path, {1: 1, 2: 1, 3: 3})
    (root / '3' / 'seal.json').unlink()  # as another process may be writing it just now
    (root / '3' / 'record.json').unlink()
    (root / '4.orbax-checkpoint-tmp').mkdir()
    before = sorted(tmp_path.rglob('*'))
    hashed = []
    monkeypatch.setattr(
        'emkd_jax.runs.checkpoints._digest', lambda path: hashed.append(path) or DIGEST(path)
    )
    params, found = read_best(tmp_path, state(0))
    jax.tree.map(np.testing.assert_array_equal, params, state(1).params)
    assert found == record(1)
    assert {path.relative_to(root).parts[0] for path in hashed} == {'1'}
    assert len(hashed) == len(set(hashed))
    assert sorted(tmp_path.rglob('*')) == before
    assert read_best(tmp_path / 'nothing', state(0)) is None
    assert not (tmp_path / 'nothing').exists()


def test_without_a_validation_there_is_no_best(tmp_path):
    save(tmp_path, {1: None})
    assert read_best(tmp_path, state(0)) is None


def test_a_damaged_best_is_not_served(tmp_path):
    root = save(tmp_path, {1: 1})
    (root / '1' / 'state' / 'manifest.ocdbt').write_bytes(b'')
    with pytest.raises(RunError, match='1: .*manifest.ocdbt is damaged'):
        read_best(tmp_path, state(0))


def test_another_model_is_refused(tmp_path):
    save(tmp_path, {1: 1})
    with pytest.raises(RunError, match='does not hold the state of this model'):
        Checkpoints(tmp_path).restore(1, state(0, size=999))


def test_a_full_disk_is_said_and_the_last_good_one_stays(tmp_path):
    save(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match='cannot be written .*make room'):
            checkpoints.save(state(2), record(None))
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps[-1:] == [1]
    assert_restores(checkpoints, 1)
    assert names(tmp_path / 'checkpoints') == ['1']


def test_a_folder_that_vanished_is_said(tmp_path):
    root = save(tmp_path, {1: None})
    checkpoints = Checkpoints(tmp_path)
    shutil.rmtree(root)
    with pytest.raises(RunError, match='cannot be written'):
        checkpoints.save(state(2), record(None))
        checkpoints.close()


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(UserError, match=r'checkpoints cannot be used .*--workdir'):
        Checkpoints(tmp_path)
