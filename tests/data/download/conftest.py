"""The server of the tests here, with all data sets on it."""

import pytest

from dir_jax.data.download import fetch
from tests.data.download.serving import Server


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DB_ROOT", raising=False)
    server = Server(tmp_path)
    yield server
    server.close()
