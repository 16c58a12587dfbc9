"""A recipe of a network that is built in milliseconds, for tests of several processes.

As a program, `python tiny_recipe.py PROCESS ADDRESS 'WORKDIR;KEY=VALUE;KEY=VALUE…' …` trains one
run after the other in one process: number PROCESS of two, or the only one where ADDRESS is ''.
"""

import os
import sys
from pathlib import Path

from flax import nnx

from dir_jax.models import architectures
from dir_jax.models.layers import BatchNorm, Conv, Linear
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.pooling import create_pooling
from dir_jax.training.config import default_config


class Backbone(nnx.Module):
    """One convolution and its BatchNorm."""

    def __init__(self, config, rng):
        self.conv1 = Conv(3, 8, 3, 2, dtype="float32", precision="highest", rng=rng)
        self.bn1 = BatchNorm(8)

    def __call__(self, images, sizes=None, *, use_running_average=True):
        x = self.bn1(self.conv1(images), use_running_average=use_running_average)
        return {"layer4": nnx.relu(x)}


class Tiny(RetrievalNetwork):
    """A network around it, for images of one size."""

    def __init__(self, config, backbone, *, rng):
        self.config, self.features = config, 8
        self.backbone = Backbone(config, rng)
        self.adpool = create_pooling(config.pooling, config.gemp)
        self.fc = Linear(8, config.out_dim, precision="highest", rng=rng)


architectures.ARCHITECTURES["tiny_rmac"] = architectures.Architecture("resnet18", Tiny)


def get_config():
    data = os.environ["TINY_DATA"]
    config = default_config()
    config.num_steps = 3
    config.batch_size = 12
    config.chunk_size = 2
    config.batch_norm = "trained"
    config.model.arch = "tiny_rmac"
    config.model.out_dim = 6
    config.data.train = f'ImageListLabels("train.txt", "{data}")'
    config.data.eval = f'ImageListLabels("eval.txt", "{data}")'
    config.data.transform = "RandomCrop(32), RandomFlip()"
    config.data.num_workers = 0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.eval.transform = "CenterCrop(32)"
    config.eval.batch_size = 4
    config.checkpoint.every = 1
    return config


def main(process, address, *runs):
    from dir_jax.commands.recipes import load_config
    from dir_jax.runtime.compiler import set_up_jax
    from dir_jax.runtime.processes import start_processes
    from dir_jax.runtime.together import Together
    from dir_jax.training.recipe import train

    if address:
        start_processes("on", address, 2, int(process))
    with Together() as together:
        set_up_jax(None, asynchronous=False)
        for run in runs:
            workdir, *keys = run.split(";")
            config = load_config(__file__, [f"--config.{key}" for key in keys])
            train(config, Path(workdir), together=together)


if __name__ == "__main__":
    main(*sys.argv[1:])
