"""From JPEG files of many sizes to descriptors on disk: ours, and PyTorch as the original runs it.

    python -m benchmarks.extraction --json extraction.json

ResNet-50 at native resolution: the longer side 1024, every aspect ratio, as Oxford5k's. PyTorch
takes one image at a time, decoded ahead by a DataLoader's two workers. Ours uses the padded shapes
chosen for 1,000 such images; a tenth of what their compilation takes counts to the 100 images.
(`benchmarks.gpu` measures the same with other networks, number formats and cores.)
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.side_by_side import Case, largest_difference, main
from dir_jax.runtime.platforms import count_cores

_BOUND = 2e-5
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Work:
    """What is described: how many images, their longer side in pixels, and the network.

    `cores` decode: a DataLoader's workers and ours, or threads of ours where `threads` is set. They
    start at once, where workers take seconds, which count in a list of thousands of images only.
    """

    arch: str = "resnet50_rmac"
    images: int = 100
    longer: int = 1024
    for_shapes: int = 1000  # the images of the list that padded shapes are chosen for
    cores: int = 2
    threads: bool = False
    folder: str = ""  # where the pictures are already

    def sizes(self, count: int) -> np.ndarray:
        """(count, 2) int, widths and heights of so many such images."""
        return np.maximum(oxford_sizes(count) * self.longer // 1024, 1)

    def names(self) -> list[str]:
        """Of the files."""
        return [f"{number:04}.jpg" for number in range(self.images)]

    def pictures(self) -> Path:
        """The folder of the pictures, which are written if need be, and then last as long as this
        process."""
        if self.folder:
            return Path(self.folder)
        folder = Path(tempfile.mkdtemp(prefix="dir_jax_extraction_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        write_images(folder, self)
        return folder


def oxford_sizes(count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) int, widths and heights of a mixture like Oxford5k's."""
    rng = np.random.default_rng(seed)
    usual = rng.choice([768, 683, 680, 685, 576, 819], count)
    shorter = np.where(rng.random(count) < 0.7, usual, rng.integers(300, 1025, count))
    sizes = np.stack([np.full(count, 1024), shorter], axis=1)
    return np.where((rng.random(count) < 0.7)[:, None], sizes, sizes[:, ::-1])


def write_images(folder: Path, work: Work) -> None:
    """Writes the pictures: clouds of colour under grain."""

    def write(number: int) -> None:
        rng = np.random.default_rng([1, number])
        clouds = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        size = tuple(sizes[number])
        pixels = np.asarray(clouds.resize(size, Image.Resampling.BICUBIC), np.int16)
        pixels = pixels + rng.integers(-24, 25, pixels.shape, np.int16)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / names[number], quality=90)

    sizes, names = work.sizes(work.images).tolist(), work.names()
    with ThreadPoolExecutor(count_cores()) as pool:
        list(pool.map(write, range(work.images)))


def torch_side(work: Work, variant: str = "eager") -> Callable[[], Any]:
    """PyTorch's side, one image at a time, in a variant of `network.torch_network`."""
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.network import torch_device, torch_network

    # JAX warns of the loader's forks, as it is imported; but it has started no threads.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    folder = work.pictures()
    describe = torch_network(work.arch, variant, dynamic=True)
    files: Any = _Files(folder, work.names())
    pinned = torch_device().type == "cuda"

    def call() -> Any:
        loader = DataLoader(files, batch_size=1, num_workers=work.cores, pin_memory=pinned)
        descriptors = torch.cat([describe(image) for image in loader]).cpu().numpy()
        np.save(folder / "descriptors.npy", descriptors)
        return descriptors

    return call


class _Files:
    """What the original's loader gives: normalised images, channels first."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Any:
        import torch

        pixels = np.array(Image.open(self.folder / self.names[i]).convert("RGB"))
        x = torch.from_numpy(pixels).permute(2, 0, 1).float().div(255)
        return (x - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


def our_side(work: Work, dtype: str = "float32", precision: str = "highest") -> Callable[[], Any]:
    """Our side, in batches of padded shapes."""
    from benchmarks.network import create_model
    from dir_jax.data.headers import check_dataset
    from dir_jax.data.images import ImageDataset
    from dir_jax.data.transforms import Identity
    from dir_jax.describe.extractor import Extractor
    from dir_jax.describe.padded_shapes import choose_shapes
    from dir_jax.models.variables import split_variables

    folder = work.pictures()
    dataset = ImageDataset(work.names(), str(folder))
    model = create_model(work.arch, dtype, precision)
    graphdef, params, stats = split_variables(model)
    extractor = Extractor(
        graphdef,
        width=model.descriptor_size,
        mean=_MEAN,
        std=_STD,
        num_workers=0 if work.threads else work.cores,
        prefetch=work.cores if work.threads else 4,
    )
    variables = extractor.replicate(params, stats)
    shapes = choose_shapes([work.sizes(work.for_shapes)], extractor.room)

    def call() -> Any:
        batches = extractor.plan(check_dataset(dataset), shapes)
        found = np.zeros((len(dataset), model.descriptor_size), np.float32)
        described = extractor.run(variables, dataset, np.arange(len(dataset)), Identity(), batches)
        for batch, (rows, _) in zip(batches, described, strict=True):
            found[batch.places] = rows
        np.save(folder / "descriptors.npy", found)
        return found

    return call


_WORK = Work()
CASES = [
    Case(
        f"{_WORK.arch}, {_WORK.images} JPEG files",
        {
            "PyTorch eager": functools.partial(torch_side, _WORK),
            "dir_jax": functools.partial(our_side, _WORK),
        },
        largest_difference,
        _BOUND,
        turns=1,
        work=("images", _WORK.images),
        first_call_share=_WORK.images / _WORK.for_shapes,
    )
]

main(__name__, __doc__, CASES)
