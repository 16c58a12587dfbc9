"""The examples in the docstrings of the losses, computed by hand, are what they say."""

import doctest
import importlib
import pkgutil

import pytest

from dir_jax import losses

MODULES = ["dir_jax.losses"] + [
    f"dir_jax.losses.{module.name}" for module in pkgutil.iter_modules(losses.__path__)
]
WITHOUT_EXAMPLES = {"dir_jax.losses.ratio", "dir_jax.losses.shapes"}  # replicas, errors


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    assert (results.attempted > 0) == (name not in WITHOUT_EXAMPLES)
