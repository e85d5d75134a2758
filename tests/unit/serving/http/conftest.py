"""A server without a network: the tiny model, untrained, with titles."""

import pytest
from starlette.testclient import TestClient

from emkd_jax.serving.http.app import make_app
from emkd_jax.serving.http.served import Served
from tests.support.tiny import NUM_ITEMS

TITLES = [f'Title of {item}' for item in range(1, NUM_ITEMS + 1)]


@pytest.fixture
def served(make_run):
    return Served(make_run(TITLES))


@pytest.fixture
def client(served):
    with TestClient(make_app(served), raise_server_exceptions=False) as client:
        yield client
