"""Mined triplets against a brute-force search."""

import numpy as np
import pytest

from dir_jax.errors import UserError
from dir_jax.training.mining import (
    MinedSampler,
    choose_pairs,
    choose_pool,
    mine_of_pairs,
    mine_triplets,
)


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), [5, 1, 4, 2, 6, 1, 3])
    descriptors = rng.standard_normal((len(labels), 12)).astype("f")
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return descriptors, labels, 100 + np.arange(len(labels)) * 2


@pytest.mark.parametrize("block_size", [4, 512])
def test_negatives_are_the_hardest_and_positives_the_chosen(pool, block_size):
    descriptors, labels, numbers = pool
    scores = descriptors @ descriptors.T
    for choice in ("random", "hardest", "easiest"):
        found = mine_triplets(
            descriptors, labels, numbers, negatives=3, positives=choice, block_size=block_size
        )
        counts = np.bincount(labels)
        expected_anchors = np.flatnonzero(counts[labels] > 1)
        np.testing.assert_array_equal(found.anchors, numbers[expected_anchors])
        for row, a in enumerate(expected_anchors):
            others = np.flatnonzero(labels != labels[a])
            hardest = others[np.argsort(-scores[a, others])][:3]
            np.testing.assert_array_equal(found.negatives[row], numbers[hardest])
            same = np.setdiff1d(np.flatnonzero(labels == labels[a]), [a])
            ranked = same[np.argsort(-scores[a, same])]
            wanted = {"random": ranked, "hardest": ranked[-1:], "easiest": ranked[:1]}[choice]
            assert set(found.positives[row]) == set(numbers[wanted])


def test_sampler_draws_valid_triplets_and_depends_on_the_step_alone(pool):
    descriptors, labels, numbers = pool
    triplets = mine_triplets(descriptors, labels, numbers, negatives=3, positives="random")
    sampler = MinedSampler(triplets, 12, seed=5)
    label_of = dict(zip(numbers.tolist(), labels.tolist(), strict=True))
    seen = set()
    for step in range(30):
        rows = sampler(step).reshape(-1, 3)
        assert len({a for a, _, _ in rows.tolist()}) == 4  # no anchor twice
        for a, p, n in rows.tolist():
            assert a != p
            assert label_of[a] == label_of[p] != label_of[n]
            seen.add(a)
    assert seen == set(triplets.anchors.tolist())
    np.testing.assert_array_equal(sampler(7), MinedSampler(triplets, 12, seed=5)(7))
    assert not np.array_equal(sampler(7), sampler(8))
    assert not np.array_equal(sampler(7), MinedSampler(triplets, 12, seed=6)(7))


def test_more_triplets_than_anchors(pool):
    descriptors, labels, numbers = pool
    triplets = mine_triplets(descriptors, labels, numbers, negatives=30, positives="random")
    assert triplets.negatives.shape[1] == len(labels) - 6  # every other image of the largest class
    assert len(MinedSampler(triplets, 3 * 50, seed=0)(0)) == 150


def test_pool_is_a_sorted_choice_that_changes_with_the_step():
    numbers = np.arange(100)
    pool = choose_pool(numbers, 10, seed=1, step=3)
    assert len(set(pool.tolist())) == 10
    assert (np.diff(pool) > 0).all()
    assert not np.array_equal(pool, choose_pool(numbers, 10, seed=1, step=4))
    np.testing.assert_array_equal(choose_pool(numbers, 0, seed=1, step=3), np.arange(100))


def test_pool_without_pairs_is_refused():
    descriptors = np.eye(4, dtype="f")
    for labels in (np.arange(4), np.zeros(4, int)):
        with pytest.raises(UserError, match="pool_size"):
            mine_triplets(descriptors, labels, np.arange(4), negatives=1, positives="random")


def test_where_no_image_can_be_read_nothing_is_mined():
    none, numbers = np.zeros((0, 4), "f"), np.arange(4)
    with pytest.raises(UserError, match="the 0 images to mine from have 0 classes"):
        mine_triplets(none, numbers[:0], numbers[:0], negatives=1, positives="random")
    pairs = np.zeros((0, 2), int)
    with pytest.raises(UserError, match="no matching pair is left to mine from"):
        mine_of_pairs(none, np.eye(4, dtype="f"), numbers, pairs, numbers, negatives=1)


def test_negatives_of_pairs_are_the_best_of_other_classes():
    """Against a search by hand; several blocks, a query whose class the pool lacks, few classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 60)
    labels[0] = 30  # of an image that is not in the pool
    x = rng.standard_normal((60, 5)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    pairs = np.stack([np.r_[0, rng.integers(0, 60, 29)], rng.integers(0, 60, 30)], axis=1)
    pool = np.sort(rng.choice(np.arange(1, 60), 40, replace=False))
    for count in (4, 50):
        found = mine_of_pairs(
            x[pairs[:, 0]], x[pool], labels, pairs, pool, negatives=count, block_size=8
        )
        np.testing.assert_array_equal(found.anchors, pairs[:, 0])
        np.testing.assert_array_equal(found.positives, pairs[:, 1:])
        for query, negatives in zip(pairs[:, 0], found.negatives, strict=True):
            best = {}
            for image in sorted(pool, key=lambda i: -float(x[i] @ x[query])):
                best.setdefault(labels[image], image)
            best.pop(labels[query], None)
            wanted = list(best.values())[: min(count, len(np.unique(labels[pool])) - 1)]
            np.testing.assert_array_equal(negatives, wanted)
    with pytest.raises(UserError, match="are of one class"):
        mine_of_pairs(x[:2], x[:2], np.zeros(60, int), pairs[:2], pool[:2], negatives=1)


def test_chosen_pairs():
    pairs = np.arange(40).reshape(20, 2)
    some = choose_pairs(pairs, 7, seed=3, step=64)
    assert some.shape == (7, 2)
    assert len(np.unique(some[:, 0])) == 7
    assert (some[:, 1] == some[:, 0] + 1).all()
    np.testing.assert_array_equal(some, choose_pairs(pairs, 7, seed=3, step=64))
    assert not np.array_equal(some, choose_pairs(pairs, 7, seed=3, step=128))
    for count in (0, 20, 99):
        np.testing.assert_array_equal(choose_pairs(pairs, count, 0, 0), pairs)
