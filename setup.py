"""What pyproject.toml cannot say: `experiments/` is installed as `dir_jax.experiments`.

A checkout has the recipes where one looks for them; an installed package may not put a folder of so
common a name beside all others, and `dir_jax` can find them within itself.
"""

from setuptools import find_packages, setup

recipes = [f"dir_jax.{name}" for name in find_packages(include=["experiments*"])]

setup(
    packages=find_packages(include=["dir_jax*", "converters*"]) + recipes,
    package_dir={"dir_jax.experiments": "experiments"},
)
