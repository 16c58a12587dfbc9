"""αQE and ADBA against a loop in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from dir_jax.errors import UserError
from dir_jax.retrieval.expansion import augment_database, expand_queries
from torch_reference.evaluation import expand


def descriptors(count, width=16, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("alpha", [0, 1, 3, 0.5, 2.5])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_expansion(k, alpha):
    """With k = 40 all of the database takes part, negative similarities too."""
    queries, database = descriptors(9, seed=1), descriptors(40)
    found = expand_queries(queries, database, k=k, alpha=alpha)
    np.testing.assert_allclose(found, expand(queries, database, k, alpha), rtol=0, atol=5e-7)
    on_device = expand_queries(jnp.asarray(queries), jnp.asarray(database), k=k, alpha=alpha)
    np.testing.assert_allclose(on_device, found, rtol=0, atol=1e-7)


@pytest.mark.parametrize("alpha", [0, 2, 1.5])
@pytest.mark.parametrize("k", [1, 6, 39])
def test_augmentation_leaves_the_row_itself_out(k, alpha):
    database = descriptors(40)
    found = augment_database(database, k=k, alpha=alpha)
    expected = expand(database, database, k, alpha, exclude_self=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)


def test_augmentation_with_copies_and_longer_rows():
    """A row that is not even among its own nearest, as many others are equal or longer."""
    database = descriptors(12)
    database[3:9] = database[2]
    database[9] = 2 * database[2]
    found = augment_database(database, k=2, alpha=1)
    expected = expand(database, database, 2, 1, exclude_self=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)


def test_rows_without_a_descriptor_weigh_nothing():
    queries, database = descriptors(4, seed=1), descriptors(10)
    database[[2, 7]] = np.nan
    found = expand_queries(queries, database, k=9, alpha=1)
    good = np.delete(database, [2, 7], 0)
    np.testing.assert_allclose(found, expand(queries, good, 8, 1), rtol=0, atol=5e-7)
    augmented = augment_database(database, k=3, alpha=1)
    assert np.isnan(augmented[[2, 7]]).all()
    assert np.isfinite(np.delete(augmented, [2, 7], 0)).all()


def test_none_leaves_descriptors_as_they_are():
    x = descriptors(5)
    np.testing.assert_array_equal(expand_queries(x, x, k=0, alpha=3), x)
    np.testing.assert_array_equal(augment_database(x, k=0, alpha=3), x)


def test_many_rows_in_blocks():
    database = descriptors(9000, width=4)
    found = augment_database(database, k=3, alpha=2)
    some = [0, 4095, 4096, 8999]
    for i in some:
        order = [j for j in np.argsort(-(database @ database[i]), kind="stable") if j != i][:3]
        total = database[i] + sum((database[j] @ database[i]) ** 2 * database[j] for j in order)
        np.testing.assert_allclose(found[i], total / np.linalg.norm(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "alpha"), [(-1, 1), (6, 1), (2, -1), (2, float("nan")), (2, float("inf")), (2, 1e308)]
)
def test_refused(k, alpha):
    x = descriptors(5)
    with pytest.raises(UserError):
        expand_queries(x, x, k=k, alpha=alpha)
    with pytest.raises(UserError):
        augment_database(x, k=k, alpha=alpha)
    with pytest.raises(UserError):
        augment_database(x, k=5, alpha=1)
