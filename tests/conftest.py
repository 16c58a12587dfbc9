"""Set-up shared by all tests: eight virtual devices, the oracle's package, the real data."""

import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Before jax is first imported: the tests of several devices need several devices, on any machine.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# What commands keep for the user, above all compiled programs, is kept for this run of the tests
# alone, and shared by all its processes. The first of them deletes the folder.
if "DIR_JAX_TESTS_CACHE" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="dir_jax-tests-", ignore_cleanup_errors=True)
    os.environ["DIR_JAX_TESTS_CACHE"] = os.environ["XDG_CACHE_HOME"] = _CACHE.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_CACHE.name}/dir_jax/xla"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Several workers have no core to spare: PyTorch's threads would wait for each other by spinning,
# which takes many times the processor time of one thread.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
for path in (ROOT, ROOT / "tests"):  # `experiments` and `benchmarks`; `torch_reference`
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))


@pytest.fixture(autouse=True, scope="module")
def compiled_programs():
    """Each file's compiled programs are dropped after it: of the whole suite they take 12 GB."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and ground truth that lies beside the checkout."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real photographs (../shared/data beside the checkout) are not here")
    return path


def pytest_collection_modifyitems(items):
    """Tests that take a minute come first, so that at the end no worker is left alone with one."""
    long = ("tests/training/", "tests/fuzz/", "tests/test_end_to_end.py", "tests/models/")
    items.sort(key=lambda item: not item.nodeid.startswith(long))


def pytest_terminal_summary(terminalreporter):
    """Lists what tests recorded as `difference`: architecture, pooling, the largest of an entry."""
    largest = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "difference":
                arch, pooling, difference = value
                largest[arch, pooling] = max(largest.get((arch, pooling), 0), difference)
    if largest:
        terminalreporter.section("largest differences to PyTorch")
    for (arch, pooling), difference in sorted(largest.items()):
        terminalreporter.write_line(f"{arch:20} {pooling:4} {difference:.1e}")
