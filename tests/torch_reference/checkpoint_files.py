"""Files of torch.save, well-made and otherwise, byte by byte."""

from __future__ import annotations

import collections
import struct
import zipfile

import numpy as np
import torch
from sklearn.decomposition import PCA

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
FLOATS = np.arange(4, dtype=np.float32).tobytes()
SYSTEM = b"\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u."


def legacy_file(pickled: bytes, keys: list[str] = (), storages: bytes = b"") -> bytes:
    """The 2019 layout around a pickle; `storages` are counts and contents."""
    names = b"".join(b"X" + struct.pack("<I", len(k)) + k.encode() for k in keys)
    return MAGIC + SYSTEM + pickled + b"\x80\x02](" + names + b"e." + storages


def zip_file(path, pickled: bytes, storages: dict[str, bytes] = {}):  # noqa: B006
    """The layout since torch 1.6 around a pickle."""
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", pickled)
        z.writestr("archive/version", "3\n")
        for key, content in storages.items():
            z.writestr(f"archive/data/{key}", content)
    return path


def tensor_pickle(
    *, kind="FloatStorage", key="0", numel=4, offset=0, shape=(2, 2), stride=(2, 1)
) -> bytes:
    """{'state_dict': {'w': tensor}} whose tensor is described as given, true or not."""

    def integer(i):
        raw = i.to_bytes((i.bit_length() + 8) // 8, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def sizes(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key)
    storage += text("cpu") + integer(numel) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset)
    tensor += sizes(shape) + sizes(stride) + b"\x89}tR"
    return b"\x80\x02}" + text("state_dict") + b"}" + text("w") + tensor + b"ss."


def small_tree():
    """All kinds of things that checkpoints hold, in a few kilobytes."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator)
    state = collections.OrderedDict(
        transposed=base.t(),
        view=base[2:5, 1::2],
        shared=base,
        parameter=torch.nn.Parameter(base[0].clone()),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(2.5),
        half=base.half(),
        bfloat16=base.bfloat16(),
        double=base.double(),
        **{
            str(kind).removeprefix("torch."): torch.tensor([0, 1, 100]).to(kind)
            for kind in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
        },
    )
    x = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    pca = PCA(n_components=3, whiten=True).fit(x)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "state_dict": state,
        "model_options": {"arch": "resnet18_rmac", "gemp": 3, "dropout_p": None, "x": (1, [2.5])},
        "pca": {"Landmarks_clean": pca},
        "meta": {"Lw": {"a": {"ss": {"m": x[:1].T, "P": np.asfortranarray(x[:4])}}}},
        "optimizer": optimizer.state_dict(),
        "best": np.float64(0.5),
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "big": np.arange(4, dtype=">i4"),
        "iter": 7,
    }
