"""Shapes that once crashed, hung, ran or slipped through, made by code.

Hostile pickles and zips for PyTorch's files are in `tests/converters`, archives in
`tests/data/download`.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.fuzz.mutators import DEEP, Content, Files, Special

_NESTED = b"[" * 3000 + b"]" * 3000
_LONG = b"9" * 5000  # more digits than Python reads
_FEATURES = "reconstruction/global_features/gem/global_features"


def shapes(reader: str, sound: Files, names: list[str]) -> list[Files]:
    """The inputs of a reader besides damage: its own shapes, and other things in each file's place.

    `sound` are files that are read, of which `names` may be damaged.
    """
    specials: list[Content] = list(Special)
    if "list" in reader or reader == "clusters":
        # A list may come through a pipe, as <(find …) in a shell: it is waited for.
        specials = [Special.MISSING, Special.FOLDER, Special.SPARSE]
    if names == ["text.txt"]:  # not a file for its reader
        specials = []
    others = [*specials, b"", b"\0", b"null", b"[]", b"5", b"{}", b"\xff\xfe", DEEP, _NESTED]
    found = [sound | {name: other} for name in names[:5] for other in others]
    found += [sound | files for files in _FOLDERS.get(reader, [])]
    for name, contents in _FILES.get(reader, {}).items():
        for content in contents:
            if isinstance(content, str):
                content = content.encode(errors="surrogatepass")
            elif isinstance(content, dict):
                content = _changed(sound[name], content)
            found.append(sound | {name: content})
    return found


# fmt: off
def _png(width: int, height: int) -> bytes:
    """A picture whose header promises more than it holds."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        data = kind + data
        return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def _npy(shape: bytes, data: bytes = b"", kind: bytes = b"'<f4'", header: bytes = b"") -> bytes:
    header = header or b"{'descr': %s, 'fortran_order': False, 'shape': %s}\n" % (kind, shape)
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones((5, 4)))
    return stream.getvalue()


def _truths() -> Iterator[bytes]:
    query = {"bbx": [0, 0, 1, 1], "ok": [0], "junk": []}
    good = {"imlist": ["a"], "qimlist": ["q"], "gnd": [query]}
    for changed in (
        {"gnd": np.array(5)}, {"gnd": np.zeros((1, 2))}, {"imlist": np.array("a")}, {"imlist": []},
        {"imlist": ["\ud800"]}, {"imlist": ["../../etc/passwd", "a\0b"]},
        {"qimlist": ["x" * 10**5]},
        {"gnd": {}}, {"gnd": "a"}, {"qimlist": {"a"}},
    ):
        yield pickle.dumps(good | changed, 4)
    for entry in (
        {"bbx": [0, 0, 10**400, 1]}, {"bbx": [0, 0, float("nan"), 1]}, {"bbx": np.zeros((4, 2))},
        {"ok": [10**400]}, {"ok": [-1]}, {"ok": [0.5]}, {"ok": np.array(0)}, {"junk": {0}},
        {"ok": np.array([0], "m8[s]")}, {"bbx": [True, {}, None, "a"]}, {"ok": [True]}, {"ok": "0"},
    ):
        yield pickle.dumps(good | {"gnd": [query | entry]}, 4)
    yield from map(pickle.dumps, (np.array(5), np.float64(5), [], {}, "imlist"))
    pointers = b"cnumpy\ndtype\n(X\x02\0\0\0O8\x89\x88tR"
    for program in (
        b"cos\nsystem\n(X\4\0\0\0truetR", b"cbuiltins\neval\n(X\x14\0\0\0__import__('canary')tR",
        b"ccanary\nCanary\n)R",
        b"cnumpy\nndarray\n(K\2\x85" + pointers + b"U\x10" + b"A" * 16 + b"tR",
        b"cnumpy.core.numeric\n_frombuffer\n(U\x10" + b"A" * 16 + pointers + b"K\2\x85X\1\0\0\0CtR",
        b"cnumpy\nndarray\n(J\xff\xff\xff\x3f\x85tR", b"Nr\xff\xff\xff\x7f",
        b"](" + b"2" * 3000 + b"e",
        b")" + b"2\x86" * 200, b"](q\0" + b"h\0h\0h\0tq\0(" * 60, b"(" * 10**5, b"]" * 50_000,
        b"]" * 50_000 + b"a" * 49_999, b"I" + b"9" * 10**5 + b"\n", b"F1e999\n",
        b"B\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x8b\xff\xff\xff\x7f", b"}(K\1K\2K\3u", b"]q\0h\0a",
    ):
        yield b"\x80\4" + program + b"."


def _models() -> list[Any]:
    """Changes to model.json."""
    model = [
        {"out_dim": 10**12}, {"out_dim": 65_536}, {"out_dim": True}, {"out_dim": -1}, {"x": 1},
        {"arch": "resnet152_fpn_rmac", "out_dim": 65_536}, {"arch": None},
        {"arch": "canary.Canary"},
        {"gemp": float("nan")}, {"gemp": float("inf")}, {"gemp": 10**400}, {"pooling": 5},
        {"pooling": "gem" * 999}, {"dropout_p": 5}, {"precision": "x"}, {"dtype": "object"},
        {"seed": -1}, {"without_fc": 1}, {"center_bias": 1e308}, {"out_dim": "6"}, {}, [],
    ]
    preprocess = [
        {"mean": [1, 2]}, {"mean": "abc"}, {"mean": [float("nan")] * 3}, {"mean": 5},
        {"x": [1] * 3},
        {"std": [0] * 3}, {"std": [float("inf")] * 3}, {"mean": [10**400] * 3}, [], 5,
        {"std": [-1, 1, 1]}, {"mean": [True] * 3},
    ]
    recipe = [
        {"trfs": []}, {"trfs": "Pad(5)"}, {"trfs": ["Scale(1e400)"]}, {"trfs": ["\ud800"]}, [], 5,
        {"x": 1},
        {"trfs": ["x" * 10**5]}, {"trfs": ["canary.Canary()"]}, {"trfs": [5]}, {"pooling": "x"}, {},
        {"gemp": float("nan")}, {"gemp": 10**400}, {"whiten": "x"}, {"whiten": 5}, {"whitenv": -1},
        {"whitenv": 10**30}, {"whitenp": float("inf")}, {"whitenm": 0}, {"whitenm": True},
    ]
    return [
        *({"model": change} for change in model),
        *({"preprocess": change} for change in preprocess),
        *({"recipe": change} for change in recipe),
        *({"format_version": version} for version in (2, "1", None, True, [], float("inf"), -1)),
        *({"digests": digests} for digests in (5, [], {}, {"a": 5}, "x")),
        *({"whitening": names} for names in (5, ["x"], [5], None)),
        b'{"format_version": ' + _LONG + b"}",
    ]


def _changed(content: bytes, change: dict[str, Any]) -> bytes:
    """A JSON object with other values, one level deep, and without digests to notice it."""
    tree = json.loads(content)
    tree.pop("digests", None)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(tree.get(key), dict)
        tree[key] = tree[key] | value if both else value
    return json.dumps(tree).encode()


def _safetensors() -> Iterator[bytes]:
    tensor = b'{"a": {"dtype": "%s", "shape": %s, "data_offsets": %s}}'
    for header in (
        b"[]", b"{}", b'{"a": 5}', DEEP, b'{"__metadata__": 5}', tensor % (b"F32", b"[]",
        b"[4, 0]"),
        b'{"__metadata__": {"model_options": "[["}}', tensor % (b"F8", b"[0]", b"[0, 0]"),
        tensor % (b"F32", b"[4294967296, 4294967296]", b"[0, 0]"), tensor % (b"F32", b"[1e9]",
        b"[0, 4]"),
    ):
        yield struct.pack("<Q", len(header)) + header
    yield struct.pack("<Q", 1 << 62) + b"{}"


# Reader -> files in place of sound ones.
_FOLDERS: dict[str, list[Files]] = {
    "labelled-list": [
        {"l.txt": Special.MISSING, "l.json": content} for content in (
            b"[]", b'{"a": [1]}', b'{"a": true}', DEEP, b'{"\\ud800": "a", "b": "a"}', b'{"": 5}',
            b"{}",
            b'{"a": "\\ud800", "b": "\\ud800"}', b'{"a": 1e400}', b'{"a": ' + _LONG + b"}", b"\xff",
            b'{"a\\u0000b": 1, "b": 1}',
        )
    ],
}
# Reader -> file -> contents in place of a sound one, or changes to it.
_FILES: dict[str, dict[str, list[Any]]] = {
    "image": {"a.jpg": [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        _png(60_000, 60_000), _png(2**31 - 1, 1), _png(0, 5), _png(2**31, 2**31),
    ]},
    "image-list": {"l.txt": [b"\0", b"x" * 10**6, b"/etc/passwd\n/dev/zero", b"..\n\xe2\x80\xae"]},
    "labelled-list": {"l.txt": [b"a", b"a b.jpg", b"\0 1\n\0 1", b"a \xe2\x80\xa8 b",
    b"x" * 10**6]},
    "clusters": {"l.json": [b'{"a": null}', b'{"a": {}}', b'{"\\ud800": 1, "b": 1}', _LONG]},
    "ground-truth": {"gnd.pkl": list(_truths())},
    "transforms": {"text.txt": [
        "Scale(1e400)", "Scale(nan)", "Scale(1e308), Scale(4.0)", "Pad(" + "9" * 400 + ")",
        "\ud83d",
        "Scale(" + "9" * 5000 + ")", "Scale((1, 1e400))", "RandomCrop(0)", "CenterCrop(-5)",
        "é" * 200,
        "RandomRotation(1e400)", "ColorJitter(1e400)", "RandomErasing(nan)", "Pad(5, color=5)",
        "Scale(" + "(" * 300 + ")" * 300 + ")", "Scale(" + "-" * 5000 + "1)", "Scale(800" * 999,
        "Pad(10, color=(1e400, 2, 3))", "RandomScale(nan, 2)", "RandomScale(1, 1e308)", "Scale(1j)",
        "RandomBorder(0, 1e9)", "RandomTilting(1e308)", "Pad(10, color='\ud83d')", "Scale(*[1])",
        "__import__('canary')", "Scale(__import__('canary'))", "Scale(f'{1}')",
        "Scale(size=1, size=2)",
        "Scale(...)", "Scale(b'1')", "Scale(True)", "Scale('1050')", "Scale([])", "Scale(None)",
        "Scale(1)\0", "Scale(1)\\", "Scale(1);x", "Scale(1_0)", "Scale(5, interpolation=99)",
        "Pad(10, color=(300, -1, 2))", "Pad(10, color=(1, 2))", "RandomCrop(9, padding=-3)",
        "Scale(" + "1," * 20_000 + ")", "a." * 50_000, "Scale(10**10)", "Pad(99999999999)",
    ]},
    "dataset-text": {"text.txt": [
        "", "()", "ImageList", "ImageList(5)", "ImageList('')", "ImageList('a\0b')",
        "ImageList('\ud800')",
        "ImageList('\\ud800')", "ImageList('l.txt')" * 9, "ImageList(None)", "ImageList('.')",
        "roxford5k",
        "ImageList('l.txt'), ImageList('l.txt')", "ImageList(file='l.txt', x=1)", "ROxford5K(1)",
        "ImageList('" + "a" * 5000 + "')", "tfds:", "tfds:canary", "tfds:../tiny",
        "tfds:tiny:9.9.9",
        "tfds:tiny:train[:1e9%]", "tfds:tiny:train[0:9" + "9" * 400 + "]", "tfds:tiny:\0",
        "eval('1')",
        "tfds:tiny:__import__('canary')", "tfds:" + "a" * 5000, "tfds:tiny:train[-50%:]",
        "lambda: 0",
        "tfds:tiny:train[:0]", "tfds:tiny:\ud800", "__import__('canary').Canary()", "x" * 100_000,
        "ImageListRelevants('gnd.pkl', img_dir='\0')", "ImageClusters('l.txt')",
        "tfds:tiny:train+x",
    ]},
    "overrides": {"text.txt": [
        f"--config.{text}" for text in (
            "batch_size=1e9", "batch_size=nan", "batch_size=" + "9" * 5000, "data.mean=(0.1,0.2)",
            "",
            "data.mean=1", "data.std=(0,0,0)", "data.mean=(1e400,nan,'a')", "data.mean=[",
            "model=5",
            "data.mean=__import__('canary')", "data.mean=" + "(" * 300, "whitening.power=nan",
            "x=1",
            "optimizer.learning_rate=inf", "model.gemp=-1e308", "num_steps=" + "9" * 30, "seed=-1",
            "=",
            "batch_size", ".=1", "model.out_dim=1000000000000", "data.train=" + "x" * 100_000,
            "data.train=\ud800", "data.train=a\0b", "model.norm_features=maybe", "__class__=1",
            "data.mean=()", "data.num_workers=100000", "log_every=0", "model.arch=canary.Canary",
            "loss.num_bins=10000000000", "checkpoint.keep=-1", "to_dict=5",
        )
    ] + ["--noconfig.seed", "--config=5", "--config", "--", "a" * 100_000, "-x"]},
    "model.json": {"model/model.json": _models()},
    "metrics.jsonl": {"metrics.jsonl": [
        b"[]\n", b"null\n{}\n", b'{"step": "a"}', b'{"step": null}\n', b'{"step": 1e400}',
        b"\0" * 100,
        b'{"step": NaN}', b'{"step": 0, "eval": 5}', b'{"step": 2, "eval": []}\n',
        b'{"step": true}\n',
        b'{"step": 1}\n\n{"step": 2}\n', b'{"step": 2}\n{"step": 1}\n', b'{"step": [1]}\n',
        b"5\n{}\n",
        b'{"step": ' + _LONG + b"}", b'{"step": 0, "\\ud800": 1}\n', b'{"step": -5}\n',
        b'{"step": 0, "eval": {"mAP": "x"}}\n',
    ]},
    "run-config": {"config.json": [
        b'{"model": 5}', b'{"model": []}', b'{"\\ud800": "\\ud800"}', b'{"seed": 1e400}',
        b'{"a.b": 1}',
        b'{"' + b"a" * 100_000 + b'": 1}', b'{"seed": ' + _LONG + b"}", b'{"\\u001b[31m\\n": 1}',
    ]},
    "results-json": {"r.json": [
        b'{"a": ' * 2000 + b"1" + b"}" * 2000, b'{"a": ' + _LONG + b"}", b'{"\\ud800": 1e400}',
    ]},
    "download-records": {"downloads.json": [
        b'{"a": 5}', b'{"a": {"url": 5}}', b'{"a": null}', b'{"a": {"url": "\\ud800"}}',
        b'{"": {}}',
        b'{"gnd.pkl.partial": {"url": "x", "size": 1e400}}', b'{"a": {"url": "u", "size": true}}',
        b'{"a": {"url": "u", "size": ' + _LONG + b"}}",
    ]},
    "descriptors": {"f.npy": [
        b"PK\3\4", _npz(), b"\x93NUMPY", b"\x93NUMPY\t\0", _npy(b"(5, 4)"),
        _npy(b"(1000000000000, 4)"),
        _npy(b"(-5, -4)"), _npy(b"(True, 4)"), _npy(b"5"), _npy(b"__import__('canary')"),
        b"\x80\4N.",
        _npy(b"(5, 4)", bytes(160), b"'|O'"), _npy(b"(5, 4)", bytes(80), b"[('a', '<f4')]"),
        _npy(b"(5, 4)", b"\0\0\xc0\x7f" * 20), _npy(b"(5, 4)", b"\0\0\x80\x7f" * 20), _npy(b"None",
        b"", b"5"),
        _npy(b"", header=b"{" * 60_000), _npy(b"", header=b"(" * 9000), _npy(b"",
        header=b"-" * 9000 + b"1"),
        _npy(b"(5, 4)" + b" " * 10**6, bytes(80)), _npy(b"(5, 4, 99999999999999999999)"),
    ]},
    "partial": {
        "out.partial/identity.json": [b"[" * 99, b'{"trfs": 5}', b'{"images": [', b'"a"'],
        "out.partial/describe.failures": [x + b"\n" for x in (
            b"5", b"{}", b"[]", b"[1]", b'[99, "x"]', b'[-1, "x"]', b"\xff", DEEP, b"[1e400, 1]",
            b"[NaN, 1]",
            b'["1", {}]', b'[1, "\\ud800"]', b"[null, 1]", b"[1, 2, 3]", b'[1.5, "x"]',
            b'[true, "x"]',
        )],
        "out.partial/describe.batches": [b"\xff" * 8, b"\0" * 7, b"\1\0\0\0" * 10**5],
    },
    "kapture": {
        "sensors/records_camera.txt": [b"0, cam0, " + name + b"\n" for name in (
            b"../x.jpg", b"/etc/passwd", b"a\0b", b"\xff", b"", b"..", b"C:\\x", b"a" * 9000,
            b"a, b",
            b"sub/../../x", b"\\..\\x", b"'; import canary", b"__import__('canary')", b".", b"a/",
            b"\r",
        )],
        "sensors/sensors.txt": [b"# kapture format: 1.1\n" + row for row in (
            b"cam0, , camera, PINHOLE, 1e400, nan, 1, 1, 1, 1", b"cam0", b",,,", b"cam0, , camera",
        )],
        f"{_FEATURES}.txt": [b"# kapture format: 1.1\ndir_jax, %s, 4, L2\n" % kind for kind in (
            b"__import__('canary')", b"float16", b"np.float32", b"", b"float32, 4", b"O",
        )],
        f"{_FEATURES}.tar": [b"\0" * 512, b"x" * 512, bytes(1024), b"\xff" * 2048],
    },
    "tfds": {"tiny/1.2.0/features.json": [json.dumps(x).encode() for x in (
        {"pythonClassName": "canary.Canary"}, {"type": "canary.Canary", "content": "{}"}, {}, [], 5,
        {"python_class_name": "os.system"}, {"pythonClassName": 5},
        {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
         "featuresDict": {"features": {"image": {"pythonClassName": "canary.Canary"}}}},
    )]},
    "safetensors": {"a.safetensors": list(_safetensors())},
}
