"""Deep Image Retrieval (AP-GeM, TL-GeM) in JAX: one descriptor an image, compared by dot product.

model = dir_jax.load("models/ap_gem")                     # or a .pt file
descriptors = model.extract(["a.jpg", "b.jpg"])            # as the model's own recipe says
results = dir_jax.evaluate("ROxford5K", model)
found = dir_jax.open_index("my.index").search("a.jpg", k=20)   # after `dir-jax index`
million = dir_jax.open_descriptors("out/")                 # of extract_features --shards
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dir_jax.api import Index, Model, evaluate, load, open_descriptors, open_index

__all__ = ["Index", "Model", "__version__", "evaluate", "load", "open_descriptors", "open_index"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On first use, because importing jax takes longer than a command's --help may.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dir_jax import api

    return getattr(api, name)
