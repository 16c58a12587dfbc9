"""Whether a run has ended, which is answered without JAX and so at once."""

from __future__ import annotations

import os
from pathlib import Path

import ml_collections

from dir_jax.errors import UserError
from dir_jax.runtime.reading import read_json
from dir_jax.training.config import config_differences, config_to_json

SUMMARY = "summary.json"  # in a run's directory, written last


def is_finished(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> bool:
    """Whether `workdir` holds the results of a run with exactly this config.

    False also where its files cannot be read, which the run itself will say.
    """
    try:
        found = [read_json(Path(workdir) / name) for name in ("config.json", SUMMARY)]
    except UserError:
        return False
    old, summary = (each if isinstance(each, dict) else {} for each in found)
    differs = config_differences(old, config_to_json(config))
    return summary.get("steps") == config.num_steps and not differs
