"""Published models on a server of this machine, and an empty cache."""

import dataclasses
import hashlib

import pytest

from dir_jax.published import PUBLISHED
from tests.data.download.conftest import server as server_of_the_data_sets


class World:
    """The server, and the folders in which models are looked for."""

    def __init__(self, server, monkeypatch, tmp_path):
        self.server, self.monkeypatch = server, monkeypatch
        self.cache, self.own = tmp_path / "cache/dir_jax/models", tmp_path / "own"
        self.own.mkdir()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for name in ("DIR_MODELS", "DIR_MODELS_URL"):
            monkeypatch.delenv(name, raising=False)

    def publish(self, name, content=b"\x80 weights", *, right=True, path=None):
        """Serves a model at the path of its address, with the hash that is published or not."""
        model = PUBLISHED[name]
        path = path or f"/{model.file}"
        digest = hashlib.sha256(content if right else content + b"!").hexdigest()
        row = dataclasses.replace(
            model, address=self.server.address + path, digits=digest[: len(model.digits)]
        )
        self.monkeypatch.setitem(PUBLISHED, name, row)
        self.server.files[path] = content
        return row

    def use_own(self):
        self.monkeypatch.setenv("DIR_MODELS", str(self.own))

    def use_mirror(self):
        self.monkeypatch.setenv("DIR_MODELS_URL", f"{self.server.address}/mirror/")

    @property
    def kept(self):
        """The files of the cache folder that are seen; others are hidden in folders."""
        return sorted(file.name for file in self.cache.iterdir() if file.is_file())


server = server_of_the_data_sets  # a fixture


@pytest.fixture
def world(server, monkeypatch, tmp_path):
    return World(server, monkeypatch, tmp_path)
