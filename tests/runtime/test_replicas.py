"""What the replicas put on their devices."""

import jax
import numpy as np

from dir_jax.runtime.replicas import create_replicas


def test_rows_have_arrived_on_a_cpu_when_they_are_put():
    """Else programs are sent ahead of them, and the temporaries of all are in memory at once."""
    replicas = create_replicas("shard_map", jax.devices("cpu")[:1])
    for _ in range(3):
        assert replicas.put_rows(np.zeros((4, 8 << 18), np.uint8)).is_ready()
