"""The model card, README.md: what a model is, how it is used, its data and its results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dir_jax.checkpoint import Checkpoint
from dir_jax.errors import UserError
from dir_jax.runtime.reading import read_json

_HEADER = {"library_name": "dir_jax", "pipeline_tag": "image-feature-extraction"}
_TAGS = ("image-retrieval", "global-descriptors", "jax", "flax")
_WHEN = {"before": "before training", "after": "after", "after_whitened": "after, whitened"}


def model_card(name: str, address: str, checkpoint: Checkpoint, run: Path, licence: str) -> str:
    """The text of a model's README.md, in Markdown, with the hub's header.

    Args:
      name: what the model is called.
      address: what `dir_jax.load` takes.
      checkpoint: the model.
      run: the directory it is of, whose config.json and summary.json are used if they are there.
      licence: the hub's name of a licence; '' leaves it out.

    Raises:
      UserError: one of these files is damaged.
    """
    config, summary = (_object(run / file) for file in ("config.json", "summary.json"))
    network, notes = checkpoint.model, checkpoint.description
    header = {**_HEADER, **({"license": licence} if licence else {})}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
             "tags:", *(f"- {tag}" for tag in _TAGS), "---", "", f"# {name}", ""]  # fmt: skip
    lines += [
        f"A {network.config.arch} that describes an image by {network.descriptor_size} numbers of "
        "unit norm; images are compared by the dot product of their descriptors. Written by "
        "[dir_jax](https://pypi.org/project/dir-jax/).",
        "", "```python", "import dir_jax", "", f"model = dir_jax.load({address!r})",
        'descriptors = model.extract(["photo.jpg"])', "```", "", "## Recipe", "",
        "How images are described unless something else is asked for:", "",
        f"- {checkpoint.recipe}",
        f"- input: mean {notes['preprocess']['mean']}, deviation {notes['preprocess']['std']}",
        f"- whitenings: {', '.join(checkpoint.whitenings) or 'none'}", "",
    ]  # fmt: skip
    lines += ["## Data and training", "", *_training(config, notes), ""]
    lines += ["## Results", "", *_results(summary, notes), ""]
    return "\n".join(lines)


def _object(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    if not isinstance(found := read_json(file), dict):
        raise UserError(f"{file} is not an object; restore it, or publish the run's model/ alone")
    return found


def _training(config: Mapping[str, Any], notes: Mapping[str, Any]) -> list[str]:
    if isinstance(converted := notes.get("converted"), dict):
        return [f"Converted from `{converted.get('file')}` ({converted.get('kind')})."]
    groups = (config.get(key) for key in ("data", "model", "loss", "optimizer"))
    data, model, loss, optimizer = (g if isinstance(g, dict) else {} for g in groups)
    rows = {
        "training data": _without_folders(data.get("train")),
        "held-out data": _without_folders(data.get("eval")),
        "held-out data, Oxford-style": _without_folders(data.get("eval_oxford")),
        "transform": data.get("transform"),
        "loss": loss.get("name"),
        "start": _without_folders(model.get("init")),
        "steps": config.get("num_steps") or notes.get("step"),
        "batch": config.get("batch_size"),
        "learning rate": optimizer.get("learning_rate"),
        "seed": config.get("seed"),
    }
    said = [f"- {key}: `{value}`" for key, value in rows.items() if value not in (None, "")]
    return said or ["Not recorded."]


def _without_folders(text: Any) -> str:
    """A data set's text, or a file's name, without the folders, which are the user's own."""
    return re.sub(r"[^\"']*/([^\"'/]+)", r"\1", str(text or ""))


def _results(summary: Mapping[str, Any], notes: Mapping[str, Any]) -> list[str]:
    columns = {words: summary[key] for key, words in _WHEN.items() if summary.get(key)}
    if not columns and notes.get("metrics"):
        columns = {"measured": notes["metrics"]}
    columns = {words: found for words, found in columns.items() if isinstance(found, dict)}
    if not columns:
        return ["Not recorded."]
    measures = list(dict.fromkeys(measure for found in columns.values() for measure in found))
    rows = [f"| on held-out data | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for measure in measures:
        values = (found.get(measure) for found in columns.values())
        cells = (f"{value:.4f}" if isinstance(value, float) else "" for value in values)
        rows.append(f"| {measure} | {' | '.join(cells)} |")
    return rows
