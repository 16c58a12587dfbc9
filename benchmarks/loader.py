"""Training batches from JPEG files: our loader, and a DataLoader of the same transforms.

    python -m benchmarks.loader --json loader.json

The transforms of experiments/ap_gem.py, down to uint8 batches of eight images of 800 × 800, by one
and two worker processes. The peer writes them as PyTorch users do, with Pillow's functions and
torchvision's way to turn hues, and draws the same random numbers: the pixels are compared. Images a
second are those of steady work, without what lies prepared when a turn begins. Below the table: how
many cores a GPU needs.
"""

from __future__ import annotations

import atexit
import functools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.network import forward_flops
from benchmarks.side_by_side import Case, main

_COUNT, _BATCH, _PREFETCH, _CALL = 48, 8, 2, 24
_TRANSFORMS = (
    "Scale(920, can_downscale=False), RandomScale(920, 1100), RandomRotation(10), "
    "RandomCrop(800), ColorJitter(0.2, 0.2, 0.2, 0.05)"
)
# Levels of 255, on average: ours resamples a part of the picture, whose bounds are in single
# precision, so that some pixels are one level off (and more where hues of a grey are turned).
_BOUND = 0.2
_GPU_ARCH, _GPU_SPEEDS = "resnet101_rmac", (25, 50, 100, 200, 400)


def _write_photographs() -> tuple[str, list[str]]:
    """Pictures of 1.5 to 4 megapixels, as landmark collections have them."""
    folder = tempfile.mkdtemp(prefix="dir_jax_loader_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    names = []
    for i in range(_COUNT):
        longer = int(rng.integers(1400, 2300))
        size = (longer, longer * 3 // 4) if i % 3 else (longer * 3 // 4, longer)
        clouds = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        pixels = np.asarray(clouds.resize(size, Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-12, 13, pixels.shape, np.int16)
        names.append(f"{i:03}.jpg")
        picture = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
        picture.save(Path(folder) / names[-1], quality=90)
    return folder, names


def _resize_to(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if width >= height:
        size = int(0.5 + side * width / height), side
    else:
        size = side, int(0.5 + side * height / width)
    return image.resize(size, Image.Resampling.BILINEAR)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _turn_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue, np.uint8)
    turned += np.array(int(shift * 255) % 256, np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def _augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The transforms, one Pillow call after the other."""
    if min(image.size) < 920:
        image = _resize_to(image, 920)
    side = min(max(int(0.5 + _log_uniform(rng, 920, 1100)), 920), 1100)
    _log_uniform(rng, 1, 1)  # the aspect ratio's
    if side < min(image.size):
        image = _resize_to(image, side)
    image = image.rotate(rng.uniform(-10, 10), resample=Image.Resampling.BILINEAR)
    x, y = rng.integers(0, (image.width - 800, image.height - 800), endpoint=True).tolist()
    image = image.crop((x, y, x + 800, y + 800))
    brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3).tolist()
    hue = rng.uniform(-0.05, 0.05)
    for step in rng.permutation(4):
        match step:
            case 0:
                image = ImageEnhance.Brightness(image).enhance(brightness)
            case 1:
                image = ImageEnhance.Contrast(image).enhance(contrast)
            case 2:
                image = ImageEnhance.Color(image).enhance(saturation)
            case _:
                image = _turn_hue(image, hue)
    return image


class _Photographs:
    """The peer's dataset, endless."""

    def __init__(self, folder: str, names: list[str]):
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, i: int) -> Any:
        import torch

        image = Image.open(f"{self.folder}/{self.names[i % _COUNT]}").convert("RGB")
        return torch.from_numpy(np.array(_augment(image, np.random.default_rng((0, i)))))


def _take(batches: Iterator[Any]) -> Any:
    """The first of as many batches as a call takes."""
    first = next(batches)
    for _ in range(_CALL - 1):
        next(batches)
    return first


def _torch(workers: int) -> Callable[[], Any]:
    from torch.utils.data import DataLoader, SequentialSampler

    dataset: Any = _Photographs(*_write_photographs())
    batches = iter(
        DataLoader(
            dataset,
            _BATCH,
            sampler=SequentialSampler(dataset),
            num_workers=workers,
            prefetch_factor=_PREFETCH,
        )
    )
    return lambda: _take(batches).numpy()


def _ours(workers: int) -> Callable[[], Any]:
    from dir_jax.data.images import ImageDataset
    from dir_jax.data.loader import BatchLoader
    from dir_jax.data.samplers import Listed
    from dir_jax.data.transforms import parse_transforms

    folder, names = _write_photographs()
    steps = 3000
    loader = BatchLoader(
        ImageDataset(names, folder),
        parse_transforms(_TRANSFORMS),
        Listed(np.arange(steps * _BATCH) % _COUNT, _BATCH),
        seed=0,
        rows=np.arange(_BATCH),
        unit=_BATCH,
        start_step=0,
        stop_step=steps,
        num_workers=workers,
        prefetch=_PREFETCH,
    )
    return lambda: _take(loader)


def _mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.subtract(a, b, dtype=np.float64)).mean())


def _case(workers: int) -> Case:
    name = f"{workers} worker" + "s" * (workers > 1)
    sides = {"torch DataLoader": _torch, "dir_jax": _ours}
    return Case(
        name,
        {side: functools.partial(make, workers) for side, make in sides.items()},
        _mean_difference,
        _BOUND,
        turns=3,
        work=("images", _BATCH * (_CALL - workers * _PREFETCH)),
    )


def _cores_for_a_gpu(results: Sequence[Mapping[str, Any]]) -> str:
    """How many cores keep a GPU busy that trains the recipe these transforms are from."""
    alone = [case for case in results if case["name"] == CASES[0].name]
    if not alone:
        return ""
    side = alone[0]["sides"]["dir_jax"]
    # Forward twice, and backward as much as two forwards.
    operations = 4 * forward_flops(_GPU_ARCH, 800, 800)
    rows = [
        f"Training {_GPU_ARCH} on these images in three stages takes {operations / 1e9:.0f} GFLOP "
        f"an image; one core prepares {side['rate']:.1f} images a second:",
        "",
        "| what a GPU sustains (TFLOP/s) | images/s | cores to feed it |",
        "|---|---|---|",
    ]
    for speed in _GPU_SPEEDS:
        images = speed * 1e12 / operations
        rows.append(f"| {speed} | {images:.0f} | {math.ceil(images / side['rate'])} |")
    return "\n".join(rows)


CASES = [_case(1), _case(2)]

main(__name__, __doc__, CASES, _cores_for_a_gpu)
