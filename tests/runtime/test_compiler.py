"""Options for XLA's compiler, given where they are known and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dir_jax.runtime import compiler
from dir_jax.runtime.compiler import compiler_options


@pytest.fixture(autouse=True)
def fresh():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_accelerators_get_none():
    assert compiler_options("gpu") is None
    assert compiler_options("tpu") is None


def test_programs_compile_with_them():
    options = compiler_options("cpu")
    assert options == compiler._CPU  # known to the jax that CI installs
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    run = jax.jit(lambda x: jnp.dot(x, x.T), compiler_options=options)
    np.testing.assert_array_equal(run(x), x @ x.T)


def test_an_option_that_is_not_known_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU", {"xla_cpu_there_is_no_such_option": "1"})
    assert compiler_options("cpu") is None
