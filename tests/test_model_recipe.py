"""A model's recipe: how it is changed, read and shown."""

import dataclasses

import pytest

from dir_jax.checkpoint import read_model, save_model
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe, published_recipe, recipe_from_json
from dir_jax.models import create_model

TWO_SCALES = Recipe(("", "Scale(0.7)"), gemp=2, whiten="a", whitenp=0.5, whitenv=8)


def test_what_is_not_given_stays():
    assert TWO_SCALES.changed(trfs=None, whiten=None, whitenp=None, whitenv=None) == TWO_SCALES
    changed = TWO_SCALES.changed(whitenp=0.1, trfs=("Scale(9)",))
    assert changed == dataclasses.replace(TWO_SCALES, whitenp=0.1, trfs=("Scale(9)",))


def test_another_whitening_has_all_its_dimensions():
    assert TWO_SCALES.changed(whiten="a").whitenv == 8
    assert TWO_SCALES.changed(whiten="b").whitenv is None
    assert TWO_SCALES.changed(whiten="b", whitenv=4).whitenv == 4
    one_scale = dataclasses.replace(TWO_SCALES, trfs=("",), whiten="a-ss")
    for whiten, found in ((None, "a-ms"), ("a-ss", "a-ss"), ("b", "b"), ("", None)):
        changed = one_scale.changed(whiten=whiten, scales=(1, 0.5))
        assert changed.whiten == found
        assert changed.whitenv == (8 if found in ("a-ms", "a-ss") else None)


def test_empty_is_no_whitening():
    assert TWO_SCALES.changed(whiten="").whiten is None


def test_in_a_line():
    assert str(Recipe()) == "images as they are; no whitening"
    assert str(TWO_SCALES) == (
        "2 scales (images as they are | Scale(0.7)) pooled by gem 2; whitening 'a', power 0.5, "
        "8 dimensions"
    )


def test_a_recipe_of_an_earlier_version_turns_nothing():
    fields = Recipe().to_json()
    assert fields.pop("exif") is False
    assert recipe_from_json("it", fields) == Recipe()
    assert str(Recipe(exif=True)) == "images as they are; turned by EXIF; no whitening"


def test_is_kept_with_the_model(tmp_path):
    recipe = dataclasses.replace(TWO_SCALES, whiten=None, whitenv=None, exif=True)
    save_model(tmp_path / "net", create_model("resnet18_rmac", out_dim=4), recipe=recipe)
    assert read_model(tmp_path / "net").recipe == recipe


@pytest.mark.parametrize(
    ("names", "whiten"), [(["Landmarks_clean", "b"], "Landmarks_clean"), (["b"], None)]
)
def test_a_model_without_one_is_used_as_the_published_models(names, whiten):
    assert published_recipe(names) == Recipe(("",), whiten=whiten, whitenp=0.25)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "expected fields with names"),
        ({"trfs": "Scale(3)"}, "expected a list of one chain"),
        ({"trfs": []}, "expected a list of one chain"),
        ({"trfs": [3]}, "expected a list of one chain"),
        ({"trfs": ["Scale("]}, "syntax error"),
        ({"whitenp": "high"}, "whitenp"),
        ({"whitenp": float("nan")}, "whitenp"),
        ({"whitenv": 2.5}, "whitenv"),
        ({"whitenv": 0}, "whitenv"),
        ({"gemp": True}, "gemp"),
        ({"pooling": "median"}, "pooling"),
        ({"scales": [1]}, "scales"),
    ],
)
def test_damaged_ones_are_refused(value, words):
    with pytest.raises(UserError, match=words) as error:
        recipe_from_json("it", value if isinstance(value, list) else Recipe().to_json() | value)
    assert "\n" not in str(error.value)
