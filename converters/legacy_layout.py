"""torch's layout before zip files (torch < 1.6): five pickles, then the storages one by one."""

from __future__ import annotations

from typing import Any

from converters.constructors import CONSTRUCTORS, Storages
from converters.errors import CheckpointFileError
from converters.unpickler import Unpickler

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_COUNT_BYTES = 8  # of the number of elements before each storage


def load_legacy_layout(data: memoryview) -> Any:
    """Reads what torch.save wrote.

    Raises:
      CheckpointFileError: it is no such file, is truncated, or is damaged.
    """
    storages = Storages(len(data))
    unpickler = Unpickler(data, CONSTRUCTORS, storages.from_persistent_id)
    magic, position = unpickler.load()
    if magic != _MAGIC_NUMBER:
        raise CheckpointFileError(
            "it is a pickle, but not one of torch.save: the magic number is not there"
        )
    version, position = unpickler.load(position)
    if version != _PROTOCOL_VERSION:
        raise CheckpointFileError(f"it is not of torch's protocol {_PROTOCOL_VERSION}")
    system, position = unpickler.load(position)
    little = system.get("little_endian") if isinstance(system, dict) else None
    if not isinstance(little, bool):
        raise CheckpointFileError("it is damaged: its byte order is not there")
    tree, position = unpickler.load(position)
    keys, position = unpickler.load(position)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)) or sorted(
        keys
    ) != sorted(storages.found):
        raise CheckpointFileError("it is damaged: its list of storages is not that of its tensors")
    for i, key in enumerate(keys):
        storage = storages.found[key]
        start = position + _COUNT_BYTES
        end = start + storage.nbytes
        if end > len(data):
            raise CheckpointFileError(
                f"it is truncated: it ends in storage {i + 1} of {len(keys)}; download it again"
            )
        count = int.from_bytes(data[position:start], "little" if little else "big", signed=True)
        if count != storage.numel:
            raise CheckpointFileError(
                f"it is damaged: storage {i + 1} of {len(keys)} has {count} elements, not "
                f"{storage.numel}"
            )
        storage.buffer, storage.byteorder = data[start:end], "<" if little else ">"
        position = end
    return tree
