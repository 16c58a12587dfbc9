"""Checkpoint files for the tests of the converters, and a watch on what reading them does."""

import sys
import time
import tracemalloc

import pytest
import torch

from converters.conversion import convert
from converters.file_errors import CheckpointFileError
from converters.reader import read_file
from torch_reference.checkpoint_files import small_tree

# What a process asks of the system when it runs, loads or fetches something.
WATCHED = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.mkdir", "os.remove",
    "subprocess.Popen", "exec", "compile", "marshal.loads", "pickle.find_class", "ctypes.dlopen",
    "socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open", "shutil.rmtree",
    "shutil.move", "import",
)  # fmt: skip


class Watch:
    """Python's audit events while it is on; a hook cannot be taken back once it is there."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        if self.on and event in WATCHED:
            self.seen.append(f"{event} {args[0]!r:.80}")

    def refused(self, path, *, memory=200 << 20, seconds=60):
        """The error that reading `path` ends in, having run nothing and taken little.

        Memory is in bytes. Tracing it makes reading several times slower, hence the time.
        """
        self.seen.clear()
        tracemalloc.start()
        started, self.on = time.perf_counter(), True
        try:
            with pytest.raises(CheckpointFileError) as error:
                convert(path)
        finally:
            self.on = False
            took, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert self.seen == []
        assert peak < memory
        assert took < seconds
        message = str(error.value)
        assert str(path) in message
        assert len(message.splitlines()) == 1
        assert len(message) < 500
        return message


@pytest.fixture(scope="session")
def refused(small_files):
    """See `Watch.refused`."""
    "".encode("cp437")  # so that whatever is imported late, is by now
    for file in small_files.values():
        read_file(file)
    return Watch().refused


@pytest.fixture(scope="session")
def small_files(tmp_path_factory):
    """`small_tree` as torch saves it: 'legacy' or 'zip' -> path."""
    folder, tree = tmp_path_factory.mktemp("small"), small_tree()
    files = {}
    for legacy in (True, False):
        path = folder / f"{'legacy' if legacy else 'zip'}.pt"
        torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
        files[path.stem] = path
    return files
