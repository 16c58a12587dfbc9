"""The published data sets at small size: their folders, lists and annotations, without pictures."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import scipy.io  # of jax's own requirements


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def sfm_id(i: int) -> str:
    return f"{i:026x}abcdef"


def write_sfm(root: Path, *, arrays: bool = False) -> None:
    """Eight training images of three clusters with five pairs, four of two for validation."""

    def split(clusters: list[int], pairs: list[tuple[int, int]], first: int) -> dict:
        numbers = {
            "cluster": clusters,
            "qidxs": [q for q, _ in pairs],
            "pidxs": [p for _, p in pairs],
        }
        cast = np.array if arrays else list
        cids = [sfm_id(first + i) for i in range(len(clusters))]
        return {"cids": cids} | {key: cast(values) for key, values in numbers.items()}

    train = split([4, 4, 4, 9, 9, 9, 2, 2], [(0, 1), (2, 1), (3, 5), (4, 3), (7, 6)], 0)
    val = split([11, 11, 12, 12], [(0, 1), (3, 2)], 100)
    folder = root / "train"
    db = {"train": train, "val": val}
    write(folder / "retrieval-SfM-120k/retrieval-SfM-120k.pkl", pickle.dumps(db))
    flat = {key: value for key, value in train.items() if key != "cluster"}
    for name in ("120k", "30k"):
        file = folder / f"retrieval-SfM-{name}/retrieval-SfM-{name}-whiten.pkl"
        write(file, pickle.dumps(flat, protocol=2))


def landmark_ids(first: int, count: int) -> list[str]:
    return [f"{0xABC0000000000000 + 0x1234567 * i:016x}" for i in range(first, first + count)]


def write_landmarks(root: Path) -> None:
    """GLDv2's metadata: six images for training, of which five are clean; three and two others."""
    folder, train = root / "gldv2/metadata", landmark_ids(0, 6)
    urls = ["http://x/a.jpg", '"http://x/b,c.jpg"'] * 3
    rows = [f"{i},{url},{k}" for i, url, k in zip(train, urls, (7, 7, 31, 31, 31, 5), strict=True)]
    write(folder / "train.csv", "\n".join(["id,url,landmark_id", *rows]) + "\n")
    write(folder / "train_clean.csv",
          f"landmark_id,images\n7,{' '.join(train[:2])}\n31,{' '.join(train[2:5])}\n")  # fmt: skip
    write(folder / "index.csv", "\n".join(["id", *landmark_ids(50, 3)]))
    write(folder / "test.csv", "\n".join(["id", *landmark_ids(80, 2)]))


def write_metric_learning(root: Path) -> None:
    cub = root / "CUB_200_2011"
    names = {1: "001.Albatross/a b.jpg", 2: "100.Pelican/b.jpg", 3: "101.Pelican/c.jpg",
             4: "200.Yellowthroat/d.jpg", 5: "101.Pelican/e.jpg"}  # fmt: skip
    write(cub / "images.txt", "".join(f"{i} {name}\n" for i, name in names.items()))
    write(cub / "image_class_labels.txt", "".join(f"{i} {int(n[:3])}\n" for i, n in names.items()))
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    cars = np.empty((1, 5), [(name, object) for name in fields])
    for i, label in enumerate((1, 98, 99, 196, 99)):
        box = map(np.uint16, (30, 52, 600, 300))
        cars[0, i] = (f"car_ims/{i + 1:06}.jpg", *box, np.uint8(label), np.uint8(i % 2))
    (root / "cars196").mkdir()
    content = {"annotations": cars, "class_names": np.array([["AM", "Acura"]], object)}
    scipy.io.savemat(root / "cars196/cars_annos.mat", content, do_compression=True)
    sop = root / "Stanford_Online_Products"
    header = "image_id class_id super_class_id path\n"
    write(
        sop / "Ebay_train.txt",
        f"{header}1 1 1 bicycle_final/1_0.JPG\n2 1 1 bicycle_final/1_1.JPG\n",
    )
    write(sop / "Ebay_test.txt", f"{header}3 11319 1 chair_final/2_0.JPG\n")
    rows = ["img/WOMEN/Dresses/id_1/02_1_front.jpg    id_1   train",
            "img/MEN/Tees/id_2/01_1_front.jpg         id_2   query",
            "img/MEN/Tees/id_2/01_2_side.jpg          id_2   gallery",
            "img/MEN/Tees/id_3/01_2_side.jpg          id_3   gallery"]  # fmt: skip
    text = "\n".join(["4", "image_name item_id evaluation_status", *rows]) + "\n"
    write(root / "inshop/list_eval_partition.txt", text)


def write_distractors(root: Path) -> None:
    write(root / "revisitop1m/revisitop1m.txt", "0/a.jpg\n0/b.jpg\n1/c.png\n")
