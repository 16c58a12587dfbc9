"""The server of the tests here, with all data sets on it."""

import tarfile

import pytest

from dir_jax.data.download import fetch
from tests.data.download import serving


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DB_ROOT", raising=False)
    server = serving.Server()
    names = [name.removesuffix(".jpg") for name in serving.OXFORD_IMAGES]
    paris = [name.removesuffix(".jpg") for name in serving.PARIS_IMAGES]
    halves = [serving.member(f"paris/louvre/{n}", c) for n, c in serving.PARIS_IMAGES.items()]
    server.files = {
        serving.OXFORD: serving.tgz(*serving.OXFORD_MEMBERS),
        serving.PARIS[0]: serving.tgz(serving.member("paris/", kind=tarfile.DIRTYPE), *halves[::2]),
        serving.PARIS[1]: serving.tgz(*halves[1::2]),
        serving.TRUTHS["Oxford5K"]: serving.truth(names, names[:3]),
        serving.TRUTHS["ROxford5K"]: serving.truth(names[:4], names[4:]),
        serving.TRUTHS["Paris6K"]: serving.truth(paris, paris[:1]),
        serving.TRUTHS["RParis6K"]: serving.truth(paris[1:], paris[:1]),
    }
    yield server
    server.close()
