"""The networks: `create_model(arch, **options)`.

`network` is the paper's network, around the backbone in `resnet`; `pyramid` is its variant on two
feature maps. Where to add something: a ResNet is a row of `resnet.RESNETS`, a pooling a row of
`pooling.POOLINGS`, another kind of network a class and a row of `architectures.ARCHITECTURES`.
"""

from dir_jax.models.architectures import ARCHITECTURES, create_model
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.options import ModelConfig

__all__ = ["ARCHITECTURES", "ModelConfig", "RetrievalNetwork", "create_model"]
