"""The Oxford-style ground truth: which pictures of a landmark a query should find, and how hard.

It follows the revisited protocol ("Revisiting Oxford and Paris", Radenović et al., CVPR 2018). The
judgement of people is replaced by what the renderer knows: how much of the landmark is visible, and
how far apart the two cameras are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .photograph import View

JUNK_VISIBILITY = 0.3  # below this, too little of the landmark shows for it to be found
HARD_VISIBILITY = 0.6
HARD_ANGLE = 40.0  # degrees between the optical axes
HARD_SCALE = 2.0  # ratio of the apparent sizes

GroundTruth = dict[str, list[str] | list[dict[str, list[int]]]]


def angle_between(query: View, other: View) -> float:
    """Degrees between the optical axes of two views of one landmark."""
    cosine = np.clip(np.dot(query.axis, other.axis), -1, 1)
    return float(np.degrees(np.arccos(cosine)))


def scale_ratio(query: View, other: View) -> float:
    """How many times larger the landmark is in one view than in the other, ≥ 1."""
    return max(query.scale / other.scale, other.scale / query.scale)


def grade(query: View, other: View) -> str:
    """How well `other` can be found by `query`, of the same landmark: 'easy', 'hard' or 'junk'."""
    if other.visibility < JUNK_VISIBILITY:
        return "junk"
    strong = angle_between(query, other) > HARD_ANGLE or scale_ratio(query, other) > HARD_SCALE
    return "hard" if strong or other.visibility < HARD_VISIBILITY else "easy"


def choose_queries(views: Mapping[str, View], count: int) -> list[str]:
    """The names of the first `count` views that show at least HARD_VISIBILITY of the landmark.

    If there are too few of them, the best of the others follow.
    """
    clear = [name for name, view in views.items() if view.visibility >= HARD_VISIBILITY]
    others = sorted(set(views) - set(clear), key=lambda name: (-views[name].visibility, name))
    return (clear + others)[:count]


def ground_truth(landmarks: list[dict[str, View]]) -> GroundTruth:
    """The ground truth over pictures of several landmarks.

    One picture in five of a landmark, at least one, is a query. As in the revisited sets, queries
    are not in the database.

    Args:
      landmarks: The views of each landmark by picture name.

    Returns:
      A dict of 'imlist' and 'qimlist', the names of the pictures, and of 'gnd', for each query a
      dict of 'bbx', [x1, y1, x2, y2] in pixels, and of 'easy', 'hard' and 'junk', ascending indices
      into imlist.
    """
    queries = [choose_queries(views, max(1, len(views) // 5)) for views in landmarks]
    imlist = [
        name
        for views, own in zip(landmarks, queries, strict=True)
        for name in views
        if name not in own
    ]
    index = {name: i for i, name in enumerate(imlist)}
    gnd = []
    for views, own in zip(landmarks, queries, strict=True):
        for query in own:
            lists: dict[str, list[int]] = {"easy": [], "hard": [], "junk": []}
            for name, view in views.items():
                if name in index:
                    lists[grade(views[query], view)].append(index[name])
            gnd.append({"bbx": list(views[query].box), **lists})
    return {"imlist": imlist, "qimlist": [name for own in queries for name in own], "gnd": gnd}
