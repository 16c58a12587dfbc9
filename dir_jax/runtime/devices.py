"""Which devices a program runs on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax

from dir_jax.errors import UserError

log = logging.getLogger(__name__)


def select_devices(gpu: Sequence[int] | None) -> list[jax.Device]:
    """The devices that --gpu names; without it, all of this process, or the CPU for -1.

    Raises:
      UserError: there is no such device, or one is named twice.
    """
    if gpu is None:
        return jax.local_devices()
    if list(gpu) == [-1]:
        return jax.devices("cpu")[:1]
    devices = jax.local_devices()
    if devices[0].platform == "cpu" and list(gpu) == [0]:
        log.warning("this machine has no accelerator, so --gpu 0 runs on the CPU")
    missing = [n for n in gpu if not 0 <= n < len(devices)]
    if missing:
        there = ", ".join(f"{n} ({d.device_kind})" for n, d in enumerate(devices))
        raise UserError(f"--gpu {missing[0]}: there is no such device; this machine has {there}")
    if len(set(gpu)) < len(gpu):
        raise UserError(f"--gpu names a device twice: {' '.join(map(str, gpu))}")
    return [devices[n] for n in gpu]
