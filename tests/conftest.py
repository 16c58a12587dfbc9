"""Set-up shared by all tests: eight virtual devices, the oracle's package, the real data."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Before jax is first imported: the tests of several devices need several devices, on any machine.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
for path in (ROOT, ROOT / "tests"):  # `experiments` and `benchmarks`; `torch_reference`
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and ground truth that lies beside the checkout."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real photographs (../shared/data beside the checkout) are not here")
    return path
