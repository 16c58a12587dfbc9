"""Which devices a program runs on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax

from dir_jax.errors import UserError

log = logging.getLogger(__name__)


def select_devices(gpu: Sequence[int] | None) -> list[jax.Device]:
    """The devices that --gpu means; the first by default.

    Raises:
      UserError: there is no such device.
    """
    if gpu is None:
        return jax.devices()[:1]
    if list(gpu) == [-1]:
        return jax.devices("cpu")[:1]
    devices = jax.devices()
    if devices[0].platform == "cpu" and list(gpu) == [0]:
        log.warning("there is no accelerator: --gpu 0 is the CPU here")
    missing = [n for n in gpu if not 0 <= n < len(devices)]
    if missing:
        there = ", ".join(f"{n} ({d.device_kind})" for n, d in enumerate(devices))
        raise UserError(f"there is no device {missing[0]} (--gpu); there are {there}")
    if len(set(gpu)) < len(gpu):
        raise UserError(f"--gpu names a device twice: {' '.join(map(str, gpu))}")
    return [devices[n] for n in gpu]
