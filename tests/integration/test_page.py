"""The page of the server in a real browser, and a server that is a process of its own."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
import uvicorn

from emkd_jax.runs.trained import load_run
from emkd_jax.serving.http import serve
from emkd_jax.serving.http.app import make_app
from emkd_jax.serving.http.served import Served
from tests.support import QUICK_TO_COMPILE, ROOT
from tests.support.launches import LONGEST

SECOND = 1000  # milliseconds
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


@contextlib.contextmanager
def running(served, port=0):
    """A server in a thread; gives its port."""
    listening = serve._listen('127.0.0.1', port)
    server = uvicorn.Server(uvicorn.Config(make_app(served), log_level='warning'))
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope='module')
def served(finished):
    return Served(load_run(finished[1]))


@pytest.fixture(scope='module')
def browser():
    api = pytest.importorskip('playwright.sync_api')
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip('no Chromium on this machine')
    with api.sync_playwright() as playwright:
        # Containers run as root and have little shared memory.
        options = ['--no-sandbox', '--disable-dev-shm-usage']
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """open_page(port, width) opens the page; at the end, it must have logged no error."""
    problems, contexts = [], []

    def open_page(port, width=1280, scheme='light'):
        contexts.append(
            browser.new_context(viewport={'width': width, 'height': 844}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(60 * SECOND)
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.on('console', lambda m: problems.append(m.text) if m.type == 'error' else None)
        page.goto(f'http://127.0.0.1:{port}/')
        page.wait_for_selector('#tests tbody tr')
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [p for p in problems if 'ERR_CONNECTION_REFUSED' not in p] == []


def choose(page, field, text):
    """Types a text into a search field, and takes the first that is found."""
    page.fill(f'#{field}', text)
    page.wait_for_selector(f'#{field}-found li[role=option]')
    page.wait_for_function(
        'text => document.querySelector(`#${text[0]}-found li`).textContent.includes(text[1])',
        arg=[field, text],
    )
    page.press(f'#{field}', 'Enter')


def answered(page):
    """Waits for the lists of the history that the page shows."""
    page.wait_for_selector('#answers[aria-busy=false]')


def first_list(page):
    return page.locator('.list').first.locator('li').evaluate_all('x => x.map(y => y.dataset.item)')


@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_history_by_title_gets_lists_and_reasons(served, open_page, width, scheme):
    model = served.now.model
    with running(served) as port:
        page = open_page(port, width, scheme)
        for item in (7, 12):
            choose(page, 'item', str(model.item_ids[item - 1]))
            page.wait_for_selector(f'#history li:nth-child({1 + (item == 12)})')
        answered(page)
        chips = page.locator('#history li').all_inner_texts()
        history = [int(re.search(r'\d+', chip)[0]) for chip in chips]
        expected = model.recommend([history], k=10)['item'].astype(str).tolist()
        assert len(history) == 2
        assert first_list(page) == expected
        names = page.locator('.list h3').all_inner_texts()
        assert names == ['ensemble', 'network 0', 'network 1', 'baseline: markov']
        assert page.locator('.list .because').first.inner_text().startswith('near ')
        # Nothing is wider than the window, and the curves of the run are drawn.
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        assert page.locator('#curves polyline').count() == 3
        assert page.locator('#tests tbody tr').count() == 6
        # The same item is marked in every list.
        page.locator('.list li').first.hover()
        marked = page.locator('.list li.same').evaluate_all('x => x.map(y => y.dataset.item)')
        assert set(marked) == {expected[0]}
        page.click('#clear')
        page.wait_for_selector('#answers', state='hidden')


def test_a_user_of_the_data(served, open_page):
    model = served.now.model
    user = str(model.user_ids[5])
    with running(served) as port:
        page = open_page(port)
        choose(page, 'user', user)
        answered(page)
        title = page.locator('#history-title').inner_text()
        chosen = re.search(r'user (\S+),', title)[1]
        expected = model.recommend(users=[chosen], k=10)['item'].astype(str).tolist()
        assert first_list(page) == expected


def test_the_page_comes_back_when_the_server_does(served, open_page):
    with running(served) as port:
        page = open_page(port)
    page.fill('#item', '7')
    page.wait_for_selector('#problem:not([hidden])')
    assert 'does not answer' in page.locator('#problem').inner_text()
    with running(served, port):
        page.wait_for_selector('#problem', state='hidden')
        choose(page, 'item', '7')
        page.wait_for_selector('.list li')


def test_a_server_of_its_own_answers_and_ends(finished):
    command = [sys.executable, 'launch.py', 'serve', f'--workdir={finished[1]}', '--port=0']
    environment = os.environ | {'XLA_FLAGS': QUICK_TO_COMPILE}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url, until = '', time.monotonic() + LONGEST
        for line in process.stdout:
            if found := re.search(r'at (http://127\.0\.0\.1:\d+)', line):
                url = found[1]
                break
        assert url and time.monotonic() < until
        body = json.dumps({'history': [], 'k': 3}).encode()
        with urllib.request.urlopen(f'{url}/recommend', body) as answer:
            assert len(json.load(answer)['items']) == 3
        process.send_signal(signal.SIGTERM)
        process.wait(LONGEST)
        assert 'Traceback' not in process.stderr.read()
