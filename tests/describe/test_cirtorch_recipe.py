"""cirtorch's networks, from a file and pictures to descriptors, as their authors evaluate them."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import dir_jax
from dir_jax.commands.flags import add_model_flags, recipe_changes
from dir_jax.commands.running import Parser
from dir_jax.data.transforms import Interpolate, Thumbnail, parse_transforms
from dir_jax.errors import UserError
from dir_jax.model_recipe import MULTISCALE, Recipe
from dir_jax.models.preprocess import interpolate
from torch_reference.cirtorch import ImageRetrievalNet, at_scales, read_image, whitened
from torch_reference.weights import randomize

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
WITH_FC, WITH_LW = "gl18-tl-resnet101-gem-w", "retrievalSfM120k-resnet101-gem"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Of sizes that share padded shapes, and one that has to be made smaller."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for i, (w, h) in enumerate([(97, 71), (80, 90), (90, 71), (1300, 67)]):
        coarse = rng.integers(0, 256, (h // 8 + 2, w // 8 + 2, 3), np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture(scope="module", params=[WITH_FC, WITH_LW])
def both(request, tmp_path_factory):
    """A network in torch, its learned whitenings, and ours, converted from its file."""
    folder = tmp_path_factory.mktemp("cirtorch")
    network = ImageRetrievalNet("resnet18", "gem", whiten=request.param == WITH_FC).eval()
    randomize(network)
    rng = np.random.default_rng(0)
    lw = {
        scale: {"m": rng.standard_normal((512, 1)) / 30, "P": rng.standard_normal((512, 512))}
        for scale in ("ss", "ms")
    }
    meta = {
        "architecture": "resnet18", "local_whitening": False, "pooling": "gem", "regional": False,
        "whitening": request.param == WITH_FC, "mean": MEAN, "std": STD, "outputdim": 512,
        "Lw": {"retrieval-SfM-120k": lw},
    }  # fmt: skip
    torch.save({"meta": meta, "state_dict": network.state_dict()}, folder / "x.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return network, lw, dir_jax.load(folder / "x.pth")


def described(network, pictures, factors, power, lw=None):
    with torch.no_grad():
        rows = [at_scales(network, read_image(p, MEAN, STD), factors, power) for p in pictures]
    found = torch.cat(rows)
    return found if lw is None else whitened(found.double(), *map(torch.from_numpy, lw.values()))


@pytest.mark.parametrize("factors", [(1.0,), MULTISCALE, (1.0, 2**0.5, 1 / 2**0.5)])
def test_equals_their_formulas(both, pictures, factors):
    network, lw, model = both
    power, whitening, options = 1, None, {}
    if network.whiten is None:
        power = network.pool.p.item()
        whitening = lw["ss" if len(factors) == 1 else "ms"]
        assert (model.recipe.gemp, model.recipe.whiten) == (power, "retrieval-SfM-120k-ss")
    if len(factors) > 1:
        options = {"scales": factors}
    found = model.extract(pictures, **options)
    expected = described(network, pictures, factors, power, whitening)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    apart = np.abs(found[0] - found[1]).max()
    assert apart > 1e-2


def test_whitenings_by_name(both, pictures):
    network, lw, model = both
    power = 1 if network.whiten is not None else network.pool.p.item()
    found = model.extract(pictures[:1], scales=(1, 0.5), whiten="retrieval-SfM-120k-ss")
    expected = described(network, pictures[:1], (1, 0.5), power, lw["ss"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    found = model.extract(pictures[:1], scales=(1, 0.5), whiten="")
    expected = described(network, pictures[:1], (1, 0.5), power)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 1 / 2**0.5, 0.3, 1.3, 2**0.5])
def test_interpolation_is_that_of_torch(factor):
    x = np.random.default_rng(0).standard_normal((3, 23, 31, 3), np.float32)
    sizes = np.array([[23, 31], [10, 31], [17, 9]], np.int32)
    for given in (None, sizes):
        found, after = interpolate(
            jnp.asarray(x), None if given is None else jnp.asarray(given), factor
        )
        for i, (h, w) in enumerate(sizes if given is not None else sizes[[0, 0, 0]]):
            image = torch.from_numpy(x[i, :h, :w]).permute(2, 0, 1)[None]
            expected = F.interpolate(image, scale_factor=factor, mode="bilinear")[0]
            height, width = expected.shape[1:]
            if given is not None:
                assert after[i].tolist() == [height, width]
            np.testing.assert_allclose(
                found[i, :height, :width], expected.permute(1, 2, 0), rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("size", [(1300, 67), (67, 1300), (1024, 1024), (3, 2000), (1999, 1499)])
def test_thumbnail_knows_its_size(size):
    image = Image.new("RGB", size)
    found = Thumbnail(1024)(image, np.random.default_rng(0))
    assert Thumbnail(1024).output_size(size, size) == (found.size, found.size)
    image.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    assert found.size == image.size
    low, high = Thumbnail(1024).output_size((3, 67), (1999, 2000))
    assert all(a <= b <= c for a, b, c in zip(low, found.size, high, strict=True))


def test_scales_of_a_recipe():
    recipe = Recipe(("Thumbnail(1024)", ""), whiten="x-ss", whitenv=7)
    several = recipe.changed(scales=(1.0, 0.5))
    assert several.trfs == (
        "Thumbnail(1024)", "Thumbnail(1024), Interpolate(0.5)", "", "Interpolate(0.5)"
    )  # fmt: skip
    assert (several.whiten, several.whitenv) == ("x-ms", 7)
    assert several.changed(scales=(1,)).whiten == "x-ms"  # there are still several chains
    assert recipe.changed(scales=(1.0, 0.5), whiten="y").whiten == "y"
    assert Recipe(whiten="x-ms").changed(scales=(0.5,)).whiten == "x-ss"
    assert recipe.changed().whiten == "x-ss"


def changes(*flags):
    parser = Parser("x", None)
    add_model_flags(parser, optional=True)
    return recipe_changes(parser.parse(flags))


def test_multiscale_flag():
    assert "scales" not in changes()
    assert changes("--multiscale")["scales"] == MULTISCALE
    found = changes("--multiscale", "1", "sqrt(2)", "1/sqrt(2)", ".5", "1/2")["scales"]
    assert found == (1, 2**0.5, 1 / 2**0.5, 0.5, 0.5)
    for wrong in ("0", "1/0", "sqrt(2", "2**3", "nan", "", "1/2/3", "5"):
        with pytest.raises(UserError, match=r"^--multiscale"):
            changes("--multiscale", wrong)
    with pytest.raises(UserError, match=r"^--trfs"):
        changes("--multiscale", "--trfs", "Scale(")


def test_interpolation_elsewhere_is_refused():
    image, rng = Image.new("RGB", (8, 8)), np.random.default_rng(0)
    with pytest.raises(UserError, match=r"Interpolate\(0\.5\) comes last in a chain"):
        parse_transforms("Interpolate(0.5), Pad(9)")(image, rng)
    with pytest.raises(ValueError, match=r"factor=5"):
        Interpolate(5)
