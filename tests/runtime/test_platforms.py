"""What a system may lack is taken away here; everything still works."""

import errno
import logging
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Identity
from dir_jax.describe.image_lists import ImageList, Pass
from dir_jax.describe.padded_shapes import Batch
from dir_jax.describe.resume import PartialDescriptors
from dir_jax.errors import UserError
from dir_jax.runtime import allocator
from dir_jax.runtime.compiler import set_up_jax
from dir_jax.runtime.files import cache_folder, take_lock
from dir_jax.runtime.platforms import count_cores
from dir_jax.runtime.signals import hold_signals


def test_no_affinity(monkeypatch):
    assert 1 <= count_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert count_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1


@pytest.mark.parametrize("missing", [(), ("fdatasync",), ("fdatasync", "pwrite")])
def test_descriptors_are_kept_and_found_again(missing, monkeypatch, tmp_path):
    for name in (*missing, *(["posix_fallocate"] if missing else [])):
        monkeypatch.delattr(os, name, raising=False)
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    images = ImageList("list", ImageDataset(["a", "b", "c"], str(tmp_path)), np.zeros((3, 2)))
    batches = [Batch((8, 8), 2, np.array(places), True) for places in ([2, 0], [1])]
    described = Pass("list", images, Identity(), batches, {})
    for run in range(2):
        store = PartialDescriptors(tmp_path / "x.partial", {"weights": "w"}, [described])
        sink = store.sink(described, 4)
        assert [sink.is_done(0), sink.is_done(1)] == [run == 1] * 2
        if run == 0:
            sink.write(0, np.array([2, 0]), rows[[2, 0]], {})
            sink.write(1, np.array([1]), rows[[1]], {1: "why"})
            store.close()
    np.testing.assert_array_equal(sink.descriptors, rows)
    assert sink.failures == {1: "why"}
    store.delete()


@pytest.fixture
def executed(monkeypatch):
    """What this process would be replaced by."""
    found = []
    monkeypatch.setattr(os, "execve", lambda *arguments: found.append(arguments))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "confstr_names", {"CS_GNU_LIBC_VERSION": 2}, raising=False)
    yield found
    hold_signals(False)


def test_the_allocator_is_set_where_there_is_glibc(executed, monkeypatch):
    allocator.restart_with_allocator()
    [(program, arguments, environment)] = executed
    assert (program, arguments[0]) == (sys.executable, sys.executable)
    assert environment["GLIBC_TUNABLES"] == allocator.ALLOCATOR
    monkeypatch.setattr(os, "confstr_names", {})  # macOS
    allocator.restart_with_allocator()
    monkeypatch.delattr(os, "confstr_names")  # Windows
    allocator.restart_with_allocator()
    monkeypatch.setattr(os, "confstr_names", {"CS_GNU_LIBC_VERSION": 2}, raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    allocator.restart_with_allocator()
    assert len(executed) == 1


def test_a_restart_that_fails_goes_on(executed, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "execve", refuse)
    allocator.restart_with_allocator()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_no_signal_masks(monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask")
    hold_signals(True)
    hold_signals(False)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_no_locks(number, monkeypatch, tmp_path, caplog):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    lock = take_lock(tmp_path / "lock", "busy")
    assert "no locks" in caplog.text
    lock.release()


def test_only_a_held_lock_is_another_process(tmp_path, monkeypatch):
    held = take_lock(tmp_path / "lock", "busy")
    with pytest.raises(UserError, match=r"^busy$"):
        take_lock(tmp_path / "lock", "busy")
    held.release()

    def refuse(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"cannot write .*broken"):
        take_lock(tmp_path / "lock", "busy")


@pytest.fixture
def no_cache_set(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("place", ["no home", "a file", "read-only"])
def test_no_cache(place, monkeypatch, tmp_path, caplog, no_cache_set):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if place == "no home":

        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
    else:
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        (tmp_path / ".cache").write_text("")
    if place == "read-only":  # also for root, who may write anywhere

        def refuse(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "mkdir", refuse)
    assert cache_folder("xla") is None
    set_up_jax(None)
    set_up_jax(str(tmp_path / ".cache" / "given") if place != "no home" else "")
    assert "no cache folder can be used" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_cache(monkeypatch, tmp_path, no_cache_set):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    set_up_jax(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "dir_jax" / "xla")
    set_up_jax(str(tmp_path / "mine"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    set_up_jax(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jax")
    set_up_jax("")
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla")
    monkeypatch.chdir(tmp_path)
    set_up_jax(None)
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/xla"
    assert not (tmp_path / "gs:").exists()
