"""From a checkpoint file to our network."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from converters.file_errors import CheckpointFileError, some
from converters.naming import from_torch_layout, torch_name, torch_shape
from converters.reader import read_file
from converters.sources import Source, drop_projection, recognise
from converters.whitenings import numbers
from dir_jax.checkpoint import save_model
from dir_jax.errors import UserError, shown
from dir_jax.model_recipe import Recipe, cirtorch_recipe, published_recipe
from dir_jax.models import RetrievalNetwork, create_model
from dir_jax.models.variables import count_parameters, merge_variables, split_variables
from dir_jax.retrieval.whitening import Whitening

_POWERS = ("adpool.p", "adpoolx5.p", "adpoolc4.p")  # of GeM: torch's names, and ours
_HEADLESS = ("torchvision", "cirtorch features")  # kinds that are a backbone alone
_USUAL = ("conv1.weight", "layer1.0.conv1.weight", "fc.weight")  # names in every network of ours
_MOST_COMPARED, _LONGEST_COMPARED = 500, 200  # names that are looked through for a near one


@dataclasses.dataclass(kw_only=True)
class Conversion(Source):
    """A file's content as a model of ours, and what there is to tell about it.

    Attributes:
      path: the file.
      model: the network.
      warnings: what is odd about the file.
      state_dict: torch's name -> float32 array as read, to compare with.
    """

    path: Path
    model: RetrievalNetwork
    warnings: list[str]
    state_dict: dict[str, np.ndarray]

    @property
    def recipe(self) -> Recipe:
        """How its authors evaluate it."""
        if self.kind != "cirtorch":
            return published_recipe(self.whitenings)
        power = self.state_dict.get("adpool.p") if self.model.config.without_fc else None
        return cirtorch_recipe(self.whitenings, None if power is None else float(power[0]))

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes it as a checkpoint directory; see `dir_jax.checkpoint.save_model`."""
        save_model(
            directory,
            self.model,
            preprocessing=self.preprocessing,
            whitenings=self.whitenings,
            recipe=self.recipe,
            notes={"converted": {"file": self.path.name, "kind": self.kind, **self.counters}},
            overwrite=overwrite,
        )

    def table(self) -> str:
        """A table of what was found, for people to read."""
        config, params = self.model.config, split_variables(self.model)[1]
        rows = [
            ("file", f"{self.path} ({self.kind})"),
            *dataclasses.asdict(config).items(),
            *((name, f"{float(params[name][0]):.4f}") for name in _POWERS if name in params),
            ("parameters", f"{count_parameters(params):,}"),
            ("preprocessing", f"mean {self.preprocessing.mean}, std {self.preprocessing.std}"),
            *((f"whitening {name}", _describe(w)) for name, w in self.whitenings.items()),
            ("recipe", str(self.recipe)),
            *self.counters.items(),
            *((f"skipped: {what}", why) for what, why in self.skipped),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _describe(whitening: Whitening) -> str:
    components, dims = whitening.components_.shape
    how = "divides by the variance" if whitening.whiten else "projects only"
    return f"{dims} -> {components} dimensions, {how}"


def convert(path: str | os.PathLike[str], **options: Any) -> Conversion:
    """Reads a PyTorch checkpoint: DIR's, torchvision's ImageNet weights, or cirtorch's.

    Args:
      path: a file of torch.save in either layout, a safetensors file, or a zip that holds one.
      **options: the options of `create_model` (arch, out_dim, pooling, gemp, …) that the file does
        not state. None is the same as leaving an option out.

    Raises:
      CheckpointFileError: the file is not a checkpoint, is damaged, or does not fit its network;
        there is no such architecture or option; an option contradicts the file; PyTorch is needed
        to read it, and not installed.
    """
    tree = read_file(path)
    try:
        return _convert(Path(path), recognise(tree), options)
    except UserError as e:
        raise CheckpointFileError(f"{path} cannot be used: {e}") from e


def _convert(path: Path, source: Source, given: dict[str, Any]) -> Conversion:
    given = {name: value for name, value in given.items() if value is not None}
    options = _merge_options(source, given)
    if options.get("without_fc"):
        drop_projection(source, "the network is without projection (without_fc)")
    model = create_model(**options, seed=None)
    graphdef, params, stats = split_variables(model)
    expected = {name: np.shape(array) for name, array in (params | stats).items()}
    named_by = {torch_name(name): name for name in expected}
    warnings: list[str] = []
    state = {
        name: np.full(1, model.config.gemp, np.float32)
        for name in _POWERS
        if name in expected
        and name not in source.tensors
        and ("gemp" in given or source.kind in _HEADLESS)
    }
    _check(source.tensors, state, named_by, expected, model.config.arch)
    state |= {name: _read(name, tensor, warnings) for name, tensor in source.tensors.items()}
    variables = {
        ours: jnp.asarray(from_torch_layout(ours, state[name])) for name, ours in named_by.items()
    }
    for name, whitening in source.whitenings.items():
        for field, array in whitening.to_arrays().items():
            if not np.isfinite(array).all():
                warnings.append(f"{field} of the whitening {name} has values that are not finite")
    params, stats = ({name: variables[name] for name in part} for part in (params, stats))
    model = merge_variables(graphdef, params, stats)
    return Conversion(**vars(source), path=path, model=model, warnings=warnings, state_dict=state)


def _merge_options(source: Source, given: dict[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name in source.stated and source.stated[name] != value:
            raise CheckpointFileError(
                f"the file says {name}={source.stated[name]!r}, but you said {value!r}; leave that "
                "option out"
            )
    if _USUAL[0] not in source.tensors:
        raise CheckpointFileError(
            f"its tensors are not named as a ResNet's: {some(list(source.tensors))}"
            f"{_nearest(_USUAL, list(source.tensors))}"
        )
    options = source.inferred | given | source.stated
    if source.kind in _HEADLESS and ("out_dim" in given or not options["without_fc"]):
        raise CheckpointFileError(
            "it is a classifier of ImageNet and has no projection; leave --out-dim out"
        )
    if "arch" not in options:
        raise CheckpointFileError("it does not state its architecture; say which with --arch")
    if "pooling" not in options:
        raise CheckpointFileError("it does not state its pooling; say which with --pooling")
    if not options.get("without_fc"):
        # Before a network of that size is made.
        if "fc.weight" not in source.tensors:
            raise CheckpointFileError(
                "it lacks fc.weight, the projection; if its network has none, add --without-fc"
            )
        rows = source.inferred["out_dim"]
        if options.setdefault("out_dim", rows) != rows:
            raise CheckpointFileError(
                f"fc.weight has shape {source.tensors['fc.weight'].shape}, expected "
                f"({options['out_dim']}, …) for out_dim={options['out_dim']}"
            )
    return options | source.extra


def _check(
    tensors: dict[str, np.ndarray],
    filled: dict[str, np.ndarray],
    named_by: dict[str, str],
    expected: dict[str, tuple[int, ...]],
    arch: str,
) -> None:
    """Raises CheckpointFileError where the tensors are not those of the network."""
    missing = [name for name in named_by if name not in tensors and name not in filled]
    surplus = [name for name in tensors if name not in named_by]
    if missing or surplus:
        parts = [
            f"{verb} {len(names)} tensors ({some(names)})"
            for verb, names in (("lacks", missing), ("has surplus", surplus))
            if names
        ]
        only_powers = not surplus and set(missing) <= set(_POWERS)
        hint = "; give --gemp" if only_powers else _nearest(missing, surplus)
        raise CheckpointFileError(f"for a {arch} it {' and '.join(parts)}{hint}")
    shapes = {name: torch_shape(ours, expected[ours]) for name, ours in named_by.items()}
    if wrong := [name for name, tensor in tensors.items() if tensor.shape != shapes[name]]:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointFileError(
            f"for a {arch}: {wrong[0]} has shape {tensors[wrong[0]].shape}, expected "
            f"{shapes[wrong[0]]}{more}"
        )


def _nearest(missing: Sequence[str], found: list[str]) -> str:
    """What the names that were found have in common, and which is nearest to a missing one."""
    parts = [name.split(".") for name in found]
    pairs = zip(min(parts), max(parts), strict=False) if len(parts) > 1 else ()
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    prefix = "".join(f"{part}." for part, _ in shared)
    hint = f"; all begin with {shown(prefix)}" if prefix else ""
    compared = [name for name in found[:_MOST_COMPARED] if len(name) <= _LONGEST_COMPARED]
    for name in missing[:1]:
        if near := difflib.get_close_matches(name, compared, n=1, cutoff=0.5):
            hint += f"; nearest to {name} is {shown(near[0])}"
    return hint


def _read(name: str, tensor: np.ndarray, warnings: list[str]) -> np.ndarray:
    array = numbers(tensor, name)
    if array.dtype != np.float32 or tensor.dtype == ml_dtypes.bfloat16:
        if not any("float32" in warning for warning in warnings):
            warnings.append(f"{name} is of type {tensor.dtype}; such weights are kept as float32")
        with np.errstate(over="ignore"):  # what overflows is named next
            array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise CheckpointFileError(f"{name} has values that are not finite (NaN or infinite)")
    return array
