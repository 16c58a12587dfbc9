"""Chunks of a run whose BatchNorm is trained stay as they are."""

import pytest

from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.saving import Resumed, check_chunk_size


def test_other_chunks_are_refused_where_they_are_normalised():
    config = default_config()
    config.batch_size, config.batch_norm = 32, "trained"
    check_chunk_size(config, 4, Resumed(3, None, chunk_size=4))
    check_chunk_size(config, 2, Resumed(3, None))  # a checkpoint of dir_jax 0.1.0
    with pytest.raises(UserError, match=r"on chunks of 4 images, .*of 2, .* on 8 devices or fewer"):
        check_chunk_size(config, 2, Resumed(3, None, chunk_size=4))
    config.batch_norm = "frozen"
    check_chunk_size(config, 2, Resumed(3, None, chunk_size=4))
