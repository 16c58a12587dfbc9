"""A process that reads inputs one after another, within limits and under watch."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dir_jax.errors import UserError
from tests.fuzz.mutators import Files, Special

MEMORY = 512 << 20  # bytes that reading one input may take
CPU_SECONDS = 10
_SECONDS, _IDLE_SECONDS = 90, 15  # for an input, and without any work on it: it waits for ever
_LONGEST_MESSAGE = 600
_ROOT = Path(__file__).resolve().parents[2]

# What no reader has a reason to do, and what it may only do in its folder: Python's audit events.
_NEVER = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill",
    "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.bind", "ctypes.dlopen",
)  # fmt: skip
_CHANGES = (
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate",
    "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile",
)  # fmt: skip


class Outcome(NamedTuple):
    """What became of an input: 'read', 'refused' with its message, or 'failed' and why."""

    kind: str
    detail: str = ""
    value: Any = None


class Watch:
    """Notes what a process does, while it reads, that no reader may do."""

    def __init__(self, folder: Path):
        self.on, self.seen = False, []
        self._folders = tuple(f"{os.path.realpath(folder / name)}/" for name in ("case", "cache"))
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        first = str(args[0]) if args else ""
        if (
            event in _NEVER
            or (event == "import" and first.split(".")[0] == "canary")
            or (event == "pickle.find_class" and first in ("os", "posix", "subprocess", "canary"))
            or (event == "exec" and self._is_inside(getattr(args[0], "co_filename", "<")))
            or (event == "open" and int(args[2]) & os.O_ACCMODE and not self._may_write(args[0]))
            or (event in _CHANGES and not self._may_write(args[0], args[-1]))
        ):
            self.seen.append(f"{event} {first[:200]}")

    def _may_write(self, path: Any, folder: Any = -1) -> bool:
        if isinstance(path, int):
            return True
        path = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        return path == os.devnull or self._is_inside(path)

    def _is_inside(self, path: str) -> bool:
        # Code that Python itself makes has names such as <string>.
        return path[:1] != "<" and f"{os.path.realpath(path)}/".startswith(self._folders)


def lay_out(folder: Path, files: Files) -> None:
    """Makes the files of an input, and a module that nothing may import."""
    folder.mkdir(parents=True)
    for name, content in {"canary.py": b"class Canary:\n    pass\n", **files}.items():
        path = folder / name
        if content is Special.MISSING:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is Special.FOLDER:
            path.mkdir()
        elif content is Special.FIFO:
            os.mkfifo(path)
        elif content is Special.ZEROS:
            path.symlink_to("/dev/zero")
        else:
            path.touch()
            os.truncate(path, 1 << 40)


def in_process(function: Callable[[Any], Any], items: Iterable[Any], folder: Path) -> Iterator[Any]:
    """Yields what a function gives for each item, or the Outcome of a process that died of it.

    The process is forked, so that what is imported is imported, and replaced when it has died.
    """
    context = multiprocessing.get_context("fork")
    process = None
    for item in items:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(ours, theirs, function, folder))
            process.daemon = True
            process.start()
            theirs.close()
        ours.send(item)
        try:
            if _has_answer(ours, process.pid):
                yield ours.recv()
                continue
            why = "it waits, or runs, without an end"
        except EOFError:
            why = "the process died"
        process.kill() if why.startswith("it") else None
        process.join()
        printed = (folder / "stderr").read_text(errors="replace").strip()
        if process.exitcode >= 0:  # by an error of this harness
            raise SystemExit(printed)
        name = signal.Signals(-process.exitcode).name
        why += {"SIGXCPU": f" after {CPU_SECONDS} s of work", "SIGKILL": ""}.get(name, f": {name}")
        process = None
        yield Outcome("failed", f"{why} {printed.rpartition(chr(10))[2][:200]}".strip())
    if process is not None:
        ours.close()
        process.join()


def _has_answer(pipe: Any, pid: int) -> bool:
    def work() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    for _ in range(_SECONDS // _IDLE_SECONDS):
        before = work()
        if pipe.poll(_IDLE_SECONDS):
            return True
        if work() == before:
            break
    return False


def _serve(other: Any, pipe: Any, function: Callable[[Any], Any], folder: Path) -> None:
    other.close()  # this process would never see that it is closed
    (folder / "cache").mkdir(exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "cache")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True
    os.dup2(os.open(folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 2)
    os.dup2(2, 1)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            os._exit(0)
        pipe.send(function(item))


class Reading:
    """Reads inputs in this process, which must be one of `in_process`.

    `values` are what the sound inputs gave.
    """

    def __init__(self, read: Callable[[Path], Any], sound: list[Files], folder: Path, lines: int):
        self.read, self.folder, self.lines = read, folder, lines
        self.watch, self.values = Watch(folder), []
        for files in [*sound, *sound]:  # twice, as what is imported late may do much
            outcome = self.outcome(files)
            self.values.append(outcome.value)
        if outcome.kind != "read":
            raise SystemExit(f"a sound input was not read: {outcome.detail}")
        limit = _status("VmData") + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def outcome(self, files: Files) -> Outcome:
        """What becomes of an input."""
        place = self.folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        lay_out(place, files)
        os.chdir(place)
        os.ftruncate(2, 0)
        cpu = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, resource.RLIM_INFINITY))
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts from what is in use
        before = _status("VmRSS")
        self.watch.seen, self.watch.on = [], True
        try:
            outcome = Outcome("read", value=self.read(place))
        except UserError as error:
            outcome = self._refused(str(error))
        except BaseException as error:
            outcome = Outcome("failed", describe(error))
        finally:
            self.watch.on = False
        sys.stdout.flush()
        printed = (self.folder / "stderr").read_text(errors="replace")
        taken = _status("VmHWM") - before
        if self.watch.seen:
            return Outcome("failed", f"it did what no reader may do: {self.watch.seen[0]}")
        if outcome.kind != "failed" and "Traceback (most" in printed:
            return Outcome("failed", f"a traceback on stderr: {printed.strip()[-600:]}")
        if outcome.kind != "failed" and taken > MEMORY:
            return Outcome("failed", f"it took {taken >> 20} MB; then it was {outcome.kind}")
        return outcome

    def _refused(self, message: str) -> Outcome:
        problem = ""
        if len(message.splitlines()) > self.lines:
            problem = f"a message of {len(message.splitlines())} lines"
        elif len(message) > _LONGEST_MESSAGE + 100 * (self.lines - 1):
            problem = f"a message of {len(message)} characters"
        elif not message.replace("\n", "").isprintable():
            problem = "a message with characters that do not print"
        elif re.search("MemoryError|[Uu]nable to allocate|RESOURCE_EXHAUSTED|bad_alloc", message):
            problem = "refused only for lack of memory"
        kind, detail = (
            ("failed", f"{problem}: {message[:300]!a}") if problem else ("refused", message)
        )
        return Outcome(kind, detail)


def describe(error: BaseException) -> str:
    """The kind and message of an exception, and the place of ours that it came through last."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(_ROOT) in f.filename]
    ours = [
        f for f in frames if "/tests/" not in f.filename and ".venv" not in f.filename
    ] or frames
    place = f" at {Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {str(error)[:300]!a}{place}"


def _status(key: str) -> int:
    """Bytes of a row of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) << 10
