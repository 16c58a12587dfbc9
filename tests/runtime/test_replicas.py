"""What the replicas put on their devices."""

import jax
import numpy as np
import pytest

from dir_jax.runtime.replicas import create_replicas


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_rows_have_arrived_on_a_cpu_when_they_are_put(parallel):
    """Else programs are sent ahead of them, and the temporaries of all are in memory at once."""
    replicas = create_replicas(parallel, jax.devices("cpu")[:1])
    for _ in range(3):
        assert replicas.put_rows(np.zeros((4, 8 << 18), np.uint8)).is_ready()
