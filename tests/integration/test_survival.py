"""A run that is killed, damaged or starved ends as one that was not, or says why it cannot."""

import random
import re
import shutil
import signal
import time

import pytest

from tests.support import soak
from tests.support.launches import Launch, assert_same_run, run, said

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


@pytest.fixture(scope='module')
def brief(request, cache, tmp_path_factory):
    """The same of a run of a few epochs."""
    if not EPOCHS:
        return request.getfixturevalue('whole')
    folder = tmp_path_factory.mktemp('runs') / 'brief'
    code, _, err = run(folder, environment=cache)
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
    # Before Python is up to it, SIGTERM ends a process as it always does; a run may be faster (0).
    assert set(codes) <= ({0, 143, -number} if number == signal.SIGTERM else {0, -number})
    code, _, err = run(folder, EPOCHS, environment=cache)
    assert code == 0, err
    assert_same_run(folder, whole, **EPOCHS)
    soak.record(
        number.name,
        stops=stops,
        state_log_and_results='bit-identical',
        slowest_exit_seconds=round(max(seconds), 1),
    )


def damaged(content):
    """What may become of a file; None: it is gone."""
    middle = len(content) // 2
    yield 'truncated', content[:middle]
    yield 'flipped', content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    yield 'deleted', None


def begin_again(whole, folder):
    """A copy of the finished run that has to test once more; returns its newest checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / 'results.json').unlink()
    return max((folder / 'checkpoints').iterdir(), key=lambda path: int(path.name))


def test_any_damage_to_the_newest_checkpoint_is_noticed_and_made_good(brief, cache, tmp_path):
    newest = begin_again(brief, tmp_path / 'run')
    every = [
        (path.relative_to(newest), *damage)
        for path in sorted(newest.rglob('*'))
        if path.is_file() and path.stat().st_size
        for damage in damaged(path.read_bytes())
    ]
    tried = soak.short_or_long(random.Random(0).sample(every, 1), every)
    for name, damage, content in tried:
        path = begin_again(brief, tmp_path / 'run') / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        code, _, err = run(tmp_path / 'run', environment=cache)
        assert code == 0, (name, damage, err)
        assert f'Checkpoint {newest.name} was moved to' in err, (name, damage)
        assert_same_run(tmp_path / 'run', brief)
    soak.record(
        'damage to the newest checkpoint',
        files=len({name for name, *_ in tried}),
        kinds='truncated, a bit flipped, deleted',
        tried=len(tried),
        noticed=len(tried),
        state_log_and_results='bit-identical',
    )


def test_a_vanished_workdir_is_said_and_where_it_comes_back_the_run_goes_on(brief, cache, tmp_path):
    folder = tmp_path / 'run'
    launch = Launch(folder, environment=cache)
    launch.wait_for_save()
    folder.rename(tmp_path / 'elsewhere')
    code, _, err = launch.end()
    assert code == 1
    assert re.search(f'{folder}.* cannot be written ', said(err))
    shutil.rmtree(folder, ignore_errors=True)  # a write that was under way may have made it anew
    (tmp_path / 'elsewhere').rename(folder)
    code, _, err = run(folder, environment=cache)
    assert code == 0, err
    assert_same_run(folder, brief)


NO_MOUNTS = 77
READ_ONLY = (
    'import ctypes; c = ctypes.CDLL(None); p = {!r}; '
    'c.unshare(0x20000) and c.unshare(0x10020000); '  # mounts of its own; as a user of its own
    'any([c.mount(b"none", b"/", None, 0x44000, None), c.mount(p, p, None, 0x1000, None), '
    f'c.mount(p, p, None, 0x1021, None)]) and sys.exit({NO_MOUNTS})'
)


def test_a_read_only_workdir_is_said_and_stays_as_it_is(brief, tmp_path):
    begin_again(brief, tmp_path / 'run')
    files = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob('*')}
    code, _, err = run(tmp_path / 'run', before=READ_ONLY.format(bytes(tmp_path)))
    if code == NO_MOUNTS:
        pytest.skip('this machine lets nobody mount')
    assert code == 2
    assert 'run cannot be used (Read-only file system)' in said(err)
    assert files == {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob('*')}


@pytest.mark.skipif(not soak.FILE, reason='other tests see a full disk without a launch')
def test_a_full_disk_is_said_and_the_last_good_checkpoint_stays(brief, cache, tmp_path):
    folder = tmp_path / 'run'
    newest = begin_again(brief, folder)
    before = {path for path in newest.parent.iterdir() if path != newest}
    shutil.rmtree(newest)
    full = 'import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (20_000, 20_000))'
    code, _, err = run(folder, environment=cache, before=full)
    assert code == 1
    assert f'{newest.parent} cannot be written (' in said(err)
    assert before <= set(newest.parent.iterdir())
    code, _, err = run(folder, environment=cache)
    assert code == 0, err
    assert_same_run(folder, brief)
    soak.record('full disk', state_log_and_results_after_room_was_made='bit-identical')
