"""The models that have a name: files, addresses, terms, and how their authors use them.

One row for each model in `PUBLISHED`; `dir_jax.published.lookup` finds the file of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dir_jax.model_recipe import CIRTORCH_RECIPE, Recipe, cirtorch_recipe, published_recipe
from dir_jax.models.preprocess import Preprocessing


@dataclasses.dataclass(frozen=True)
class Family:
    """What the models of one publisher share.

    Attributes:
      title: what they are.
      licence: of the authors' code and files, by its SPDX name.
      recipe: how images are described with them; where scales are pooled, the power is the
        network's own.
      reported: what the figures of `PublishedModel.reported` are.
      strict: a file of another hash is refused, instead of used with a warning.
      preprocessing: mean and deviation of the input, unless the file states others.
    """

    title: str
    licence: str
    recipe: Recipe
    reported: str
    strict: bool = False
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A model that can be loaded by name.

    Attributes:
      file: the file's name, by which folders and mirrors keep it.
      address: where its authors keep it.
      digits: the first digits of the file's SHA-256; '' where none are published.
      reported: what its authors report.
      other_files: other names that the same file has, such as that inside a .zip.
      recipe: how images are described with it, where that is not as in its family.
    """

    family: Family
    file: str
    address: str
    digits: str = ""
    reported: str = ""
    other_files: tuple[str, ...] = ()
    recipe: Recipe | None = None

    @property
    def used(self) -> Recipe:
        """How images are described with it."""
        return self.recipe or self.family.recipe

    @property
    def stems(self) -> tuple[str, ...]:
        """What the file can be called, without a suffix, apart from the model's name."""
        return tuple(file.rpartition(".")[0] for file in (self.file, *self.other_files))


_DIR = Family(
    "Deep Image Retrieval (Naver Labs Europe)",
    "BSD-3-Clause",
    published_recipe(["Landmarks_clean"]),
    "mAP, one scale, whitened: Oxford5K; Paris6K; ROxford medium/hard; RParis medium/hard",
)
_CIRTORCH = Family(
    "CNN Image Retrieval in PyTorch (Radenović et al.)",
    "MIT",
    CIRTORCH_RECIPE,
    "mAP, several scales: ROxford medium/hard; RParis medium/hard",
)
_CAFFE = Family(
    "ImageNet backbones of Caffe, as converted for CNN Image Retrieval in PyTorch",
    "MIT",
    Recipe(),
    "",
)
_TORCHVISION = Family(
    "torchvision, ImageNet", "BSD-3-Clause", Recipe(), "ImageNet top-1 accuracy", strict=True
)
_TIMM = Family(
    "torchvision's ImageNet weights as timm keeps them", "BSD-3-Clause", Recipe(),
    "ImageNet top-1 accuracy",
)  # fmt: skip

_SFM = "retrieval-SfM-120k"  # their folder, and their whitening
_CIRTORCH_BASE = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"


def _dir(name: str, drive: str, reported: str, inner: str = "") -> tuple[str, PublishedModel]:
    address = f"https://drive.google.com/uc?export=download&id={drive}"
    others = (inner,) if inner else ()
    return name, PublishedModel(_DIR, f"{name}.zip", address, "", reported, others)


def _cirtorch(
    folder: str, name: str, digits: str, reported: str = "", recipe: Recipe | None = None
) -> tuple[str, PublishedModel]:
    file = f"{name}-{digits}.pth"
    family = _CAFFE if folder == "imagenet" else _CIRTORCH
    address = f"{_CIRTORCH_BASE}/{folder}/{file}"
    return name, PublishedModel(family, file, address, digits, reported, recipe=recipe)


def _torchvision(backbone: str, digits: str, top1: str, v2: str = "") -> tuple[str, PublishedModel]:
    file = f"{backbone}-{digits}.pth"
    address = f"https://download.pytorch.org/models/{file}"
    return f"{backbone}-imagenet{v2}", PublishedModel(_TORCHVISION, file, address, digits, top1)


def _timm(name: str, top1: str) -> tuple[str, PublishedModel]:
    address = f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    return f"timm/{name}", PublishedModel(_TIMM, f"{name}.safetensors", address, "", top1)


# fmt: off
PUBLISHED: dict[str, PublishedModel] = dict((
    _dir("Resnet101-AP-GeM", "1UWJGDuHtzaQdFhSMojoYVQjmCXhIwVvy",
         "89.1; 93.0; 67.1/42.3; 80.3/60.9", "Resnet-101-AP-GeM.pt"),
    _dir("Resnet101-AP-GeM-LM18", "1r76NLHtJsH-Ybfda4aLkUIoW3EEsi25I",
         "88.1; 93.1; 66.3/42.5; 80.2/60.8", "Resnet101-AP-GeM-LM18.pt"),
    _dir("Resnet50-AP-GeM", "1oPtE_go9tnsiDLkWjN4NMpKjh-_md1G5",
         "87.7; 91.9; 65.5/41.0; 77.6/57.1"),
    _dir("Resnet101-TL-GeM", "1vhm1GYvn8T3-1C4SPjPNJOuTU9UxKAG6",
         "85.7; 93.4; 64.5/40.9; 78.8/59.2"),
    _dir("Resnet101-TL-MAC", "13MUGNwn_CYGZvqDBD8FGD8fVYxThsSDg",
         "85.6; 90.1; 63.3/35.7; 76.6/55.5"),
    _cirtorch("gl18", "gl18-tl-resnet50-gem-w", "83fdc30", "63.6/40.9; 78.0/57.5"),
    _cirtorch("gl18", "gl18-tl-resnet101-gem-w", "a4d43db", "67.3/44.3; 80.6/61.5"),
    _cirtorch("gl18", "gl18-tl-resnet152-gem-w", "21278d5", "68.7/44.2; 79.7/60.3"),
    _cirtorch(_SFM, "rSfM120k-tl-resnet50-gem-w", "97bf910", "64.7/39.0; 76.3/54.9"),
    _cirtorch(_SFM, "rSfM120k-tl-resnet101-gem-w", "a155e54", "67.8/41.7; 77.6/56.3"),
    _cirtorch(_SFM, "rSfM120k-tl-resnet152-gem-w", "f39cada", "68.8/41.3; 78.0/57.2"),
    _cirtorch(_SFM, "retrievalSfM120k-resnet101-gem", "b80fb85", "65.4/40.1; 76.7/55.2",
              cirtorch_recipe(["retrieval-SfM-120k-ss"], 3)),
    _cirtorch("imagenet", "imagenet-caffe-resnet50-features", "ac468af"),
    _cirtorch("imagenet", "imagenet-caffe-resnet101-features", "10a101d"),
    _cirtorch("imagenet", "imagenet-caffe-resnet152-features", "1011020"),
    _torchvision("resnet18", "f37072fd", "69.8"),
    _torchvision("resnet50", "0676ba61", "76.1"),
    _torchvision("resnet101", "63fe2227", "77.4"),
    _torchvision("resnet152", "394f9c45", "78.3"),
    _torchvision("resnet50", "11ad3fa6", "80.9", "-v2"),
    _torchvision("resnet101", "cd907fc2", "81.9", "-v2"),
    _torchvision("resnet152", "f82ba261", "82.3", "-v2"),
    _timm("resnet18.tv_in1k", "69.8"),
    _timm("resnet50.tv_in1k", "76.1"),
    _timm("resnet101.tv_in1k", "77.4"),
    _timm("resnet152.tv_in1k", "78.3"),
    _timm("resnet50.tv2_in1k", "80.9"),
    _timm("resnet101.tv2_in1k", "81.9"),
    _timm("resnet152.tv2_in1k", "82.3"),
))
# fmt: on
"""Name -> model, for every model that can be loaded by name."""


def known_names() -> Iterator[tuple[str, str]]:
    """Yields what a model may be called, and its name in `PUBLISHED`."""
    for name, model in PUBLISHED.items():
        yield name, name
        yield from ((stem, name) for stem in model.stems)


def published_name(text: str) -> str | None:
    """The name in `PUBLISHED` that a text means, which may have the file's digits; or None."""
    return dict(known_names()).get(text)
