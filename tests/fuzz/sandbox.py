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
SECONDS = 60  # in which it must end
_IDLE_SECONDS = 5  # without any work, after which it waits for something that never comes
_LONGEST_MESSAGE = 600
_ROOT = Path(__file__).resolve().parents[2]

# What no reader has a reason to do, as Python's audit events.
_NEVER = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill",
    "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.bind",
    "webbrowser.open", "urllib.Request", "ctypes.dlopen",
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
    """Notes what a process does while it reads that no reader may do."""

    def __init__(self, folder: Path):
        self.on, self.seen, self._folder = False, [], os.path.realpath(folder)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _NEVER:
            self.seen.append(f"{event} {str(args[:2])[:200]}")
        elif event == "pickle.find_class" and (
            args[0] in ("os", "posix", "subprocess", "canary") or args[1] in ("eval", "exec")
        ):
            self.seen.append(f"a pickle's {args[0]}.{args[1]}")
        elif event == "import" and str(args[0]).split(".")[0] == "canary":
            self.seen.append(f"import of {args[0]}")
        elif event == "exec" and self._is_inside(getattr(args[0], "co_filename", "/")):
            self.seen.append(f"ran {args[0].co_filename}")
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_RDWR | os.O_WRONLY):
            self._check_write(event, args[0], -1)
        elif event in _CHANGES:
            self._check_write(event, args[0], args[-1])

    def _check_write(self, event: str, path: Any, folder: Any) -> None:
        if isinstance(path, int):
            return
        path = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        if path != os.devnull and not self._is_inside(path):
            self.seen.append(f"{event} {path[:200]}")

    def _is_inside(self, path: str) -> bool:
        # Code that Python itself makes has names such as <string>.
        return path[:1] != "<" and os.path.realpath(path).startswith(self._folder + os.sep)


def lay_out(folder: Path, files: Files) -> None:
    """Makes the files of an input."""
    folder.mkdir(parents=True)
    (folder / "canary.py").write_text("class Canary:\n    pass\n")
    for name, content in files.items():
        path = folder / name
        if content is not Special.MISSING:
            path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is Special.FOLDER:
            path.mkdir()
        elif content is Special.FIFO:
            os.mkfifo(path)
        elif content is Special.ZEROS:
            path.symlink_to("/dev/zero")
        elif content is Special.SPARSE:
            with path.open("wb") as file:
                file.truncate(1 << 40)


def in_process(function: Callable[[Any], Any], items: Iterable[Any], folder: Path) -> Iterator[Any]:
    """Yields what a function gives for each item, or the Outcome of a process that died of it.

    The process is forked, so that what is imported is imported; it is replaced when it dies.
    """
    context = multiprocessing.get_context("fork")
    process = None
    for item in items:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(ours, theirs, function, folder), daemon=True)
            process.start()
            theirs.close()
        ours.send(item)
        try:
            if _has_answer(ours, process.pid):
                yield ours.recv()
                continue
            result = Outcome("failed", "it waits, or runs, without an end")
            process.kill()
            process.join()
        except EOFError:
            process.join()
            code = -(process.exitcode or 0)
            name = signal.Signals(code).name if code > 0 else ""
            name = f"more than {CPU_SECONDS} s of CPU time" if name == "SIGXCPU" else name
            if code <= 0:
                raise SystemExit(f"{folder}: {(folder / 'stderr').read_text()[-2000:]}")
            last = (folder / "stderr").read_text(errors="replace").strip().rpartition("\n")[2]
            result = Outcome("failed", f"the process died: {name}; {last[:300]}")
        process = None
        yield result
    if process is not None:
        ours.close()
        process.join()


def _has_answer(pipe: Any, pid: int) -> bool:
    def work() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]

    for _ in range(SECONDS // _IDLE_SECONDS):
        before = work()
        if pipe.poll(_IDLE_SECONDS):
            return True
        if work() == before:
            break
    return False


def _serve(other: Any, pipe: Any, function: Callable[[Any], Any], folder: Path) -> None:
    other.close()  # this process would never see that it is closed
    os.environ["XDG_CACHE_HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
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
    """Reads inputs in this process, which must be one of `in_process`."""

    def __init__(self, read: Callable[[Path], Any], warm_up: list[Files], folder: Path, lines: int):
        self.read, self.folder, self.lines = read, folder, lines
        self.watch = Watch(folder)
        self.values = []
        for files in warm_up:
            self.outcome(files)  # what is imported late may do much
        for files in warm_up:
            outcome = self.outcome(files)
            if outcome.kind != "read":
                raise SystemExit(f"the input without damage was not read: {outcome.detail}")
            self.values.append(outcome.value)
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
        if self.watch.seen:
            return Outcome("failed", f"it did what no reader may do: {self.watch.seen[0]}")
        if outcome.kind != "failed" and "Traceback (most" in printed:
            return Outcome("failed", f"a traceback on stderr: {printed.strip()[-600:]}")
        if outcome.kind != "failed" and (taken := _status("VmHWM") - before) > MEMORY:
            return Outcome("failed", f"it took {taken >> 20} MB; then it was {outcome.kind}")
        return outcome

    def _refused(self, message: str) -> Outcome:
        problem = ""
        if len(message.splitlines()) > self.lines:
            problem = f"a message of {len(message.splitlines())} lines"
        elif len(message) > _LONGEST_MESSAGE:
            problem = f"a message of {len(message)} characters"
        elif not message.replace("\n", "").isprintable():
            problem = "a message with characters that do not print"
        elif re.search("MemoryError|[Uu]nable to allocate|RESOURCE_EXHAUSTED|bad_alloc", message):
            problem = "refused only for lack of memory"
        if not problem:
            return Outcome("refused", message)
        return Outcome("failed", f"{problem}: {message[:200]!a}")


def describe(error: BaseException) -> str:
    """The kind and message of an exception, and the place of ours that it came through last."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(_ROOT) in f.filename]
    ours = [
        f for f in frames if "/tests/" not in f.filename and ".venv" not in f.filename
    ] or frames
    place = f" at {Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}" if ours else ""
    what = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
    return f"{ascii(what[:300])[1:-1]}{place}"


def _status(key: str) -> int:
    """Bytes of a row of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) << 10
