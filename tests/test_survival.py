"""A run that is killed, damaged or starved ends as one that was not, or says why it cannot."""

import random
import shutil
import signal
import time

import pytest
import soak
from launches import Launch, assert_same_run, run, said

pytestmark = pytest.mark.soak

EPOCHS = soak.short_or_long({}, {'train__num_epochs': 120})  # the more kills, the more steps


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """Environment in which a restart need not compile again."""
    return {
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('cache')),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }


@pytest.fixture(scope='module')
def whole(cache, tmp_path_factory):
    """The workdir of a run that was let alone."""
    folder = tmp_path_factory.mktemp('runs') / 'whole'
    code, _, err = run(folder, EPOCHS, environment=cache)
    assert code == 0, err
    return folder


def stop_at_random(folder, cache, number, chance):
    """Starts the run and sends a signal; returns its exit code and how long it took to obey."""
    launch = Launch(folder, EPOCHS, environment=cache)
    if soak.FILE and chance.random() < 0.2:
        time.sleep(8 * chance.random())  # while it loads, compiles, or restores
    else:
        launch.wait_for_save()
        time.sleep(0.8 * chance.random() ** 2)  # often while it writes
    launch.kill(number)
    sent = time.monotonic()
    code, _, err = launch.end()
    assert 'Traceback' not in err, err
    return code, time.monotonic() - sent


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_stopped_at_random_moments(whole, cache, tmp_path, number):
    chance = random.Random(number)
    folder = tmp_path / 'run'
    stops = soak.short_or_long(2 if number == signal.SIGKILL else 1, 50)
    codes, seconds = zip(
        *(stop_at_random(folder, cache, number, chance) for _ in range(stops)), strict=True
    )
    # Before Python is up to it, SIGTERM ends a process as it always does.
    assert set(codes) <= ({143, -number} if number == signal.SIGTERM else {-number})
    code, _, err = run(folder, EPOCHS, environment=cache)
    assert code == 0, err
    assert_same_run(folder, whole, **EPOCHS)
    soak.record(
        number.name, stops=stops, state_log_and_results='bit-identical',
        slowest_exit_seconds=round(max(seconds), 1),
    )


@pytest.mark.skipif(not soak.FILE, reason='other tests see a full disk without a launch')
def test_a_full_disk_is_said_and_the_last_good_checkpoint_stays(whole, cache, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(whole, folder)
    (folder / 'results.json').unlink()
    steps = sorted((folder / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    before, newest = steps[-2:]
    shutil.rmtree(newest)
    full = 'import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (20_000, 20_000))'
    code, _, err = run(folder, EPOCHS, environment=cache, before=full)
    assert code == 1
    assert f'{newest.parent} cannot be written (' in said(err)
    assert before.exists()
    code, _, err = run(folder, EPOCHS, environment=cache)
    assert code == 0, err
    assert_same_run(folder, whole, **EPOCHS)
    soak.record('full disk', state_log_and_results_after_room_was_made='bit-identical')
