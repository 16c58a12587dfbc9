"""The list of images of a kapture dataset, with files that mean no good."""

import os
import random

import kapture
import pytest
from kapture.core.Sensors import CAMERA_TYPE_PARAMS_COUNT
from kapture.io.csv import kapture_from_dir, kapture_to_dir

from dir_jax.data.kapture import read_images
from dir_jax.errors import UserError

HEADER = "# kapture format: 1.1\n"
SENSORS = (
    HEADER
    + "# sensor_id, name, sensor_type, [sensor_params]+\n"
    + "cam0, , camera, UNKNOWN_CAMERA, 640, 480\n"
    + "cam1, Hero7, camera, SIMPLE_RADIAL, 640, 480, 600.5, 320, 240, -0.035\n"
    + "lidar0, , lidar\n"
)


@pytest.fixture
def write(tmp_path):
    """Writes the two files; `write(records, sensors) -> root`. None leaves a file out."""

    def call(records="0, cam0, a.jpg\n", sensors=SENSORS):
        (tmp_path / "sensors").mkdir(exist_ok=True)
        for name, content in (("sensors", sensors), ("records_camera", records)):
            if content is not None:
                content = content.encode() if isinstance(content, str) else content
                (tmp_path / "sensors" / f"{name}.txt").write_bytes(content)
        return str(tmp_path)

    return call


def test_as_the_package_writes_and_reads_it(tmp_path):
    records, names = kapture.RecordsCamera(), ["b/0.jpg", "a b/ü.jpg", "c.jpg", "d/d/d.png"]
    sensors = kapture.Sensors()
    for model, count in CAMERA_TYPE_PARAMS_COUNT.items():
        sensors[model.name] = kapture.Camera(model, [1.5] * count)
    for i, name in enumerate(names):
        records[i, ["PINHOLE", "FOV"][i % 2]] = name
    kapture_to_dir(str(tmp_path), kapture.Kapture(sensors=sensors, records_camera=records))
    assert read_images(str(tmp_path)) == names
    read = kapture_from_dir(str(tmp_path))
    assert [name for _, _, name in kapture.flatten(read.records_camera)] == names


def test_comments_blank_lines_and_spaces(write):
    records = "\ufeff# a comment\r\n\r\n  -1 ,cam0,  a b.jpg  \r\n\n# , ,\n+2,cam1,./x//y.jpg"
    assert read_images(write(records)) == ["a b.jpg", "x/y.jpg"]


def test_each_image_once(write):
    records = "".join(f"{i}, cam0, {name}\n" for i, name in enumerate(("b", "a", "./b", "b", "a")))
    assert read_images(write(records)) == ["b", "a"]


def test_folders_of_windows(write):
    assert read_images(write("0, cam0, a\\b.jpg\n")) == ["a/b.jpg"]  # as kapture names features


def test_rows_of_other_sensors_are_left_out_with_a_warning(write, caplog):
    root = write("0, cam0, a.jpg\n0, lidar0, b.pcd\n1, lidar0, b.pcd\n2, cam9, c.jpg\n")
    assert read_images(root) == ["a.jpg"]
    assert "2 rows are left out: 'lidar0' is not a camera" in caplog.text
    assert "1 rows are left out: 'cam9' is not a camera" in caplog.text


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "..\\a.jpg", "C:\\a", ""]
)
@pytest.mark.parametrize("camera", ["cam0", "nothing"])
def test_names_that_lead_out(write, name, camera):
    with pytest.raises(UserError, match=r"records_camera\.txt, line 2: .* is not a name"):
        read_images(write(f"0, cam0, a.jpg\n1, {camera}, {name}\n"))


CAMERA = "records_camera.txt, line 1: "


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (None, "has no images: there is no"),
        ("", "has no row of a camera"),
        ("# kapture format: 1.1\n\n", "has no row of a camera"),
        ("0, lidar0, a.jpg", "has no row of a camera"),
        ("# kapture format: 1.0\n0, cam0, a.jpg", "is of kapture format 1.0; only 1.1 is read"),
        ("0, cam0", CAMERA + "2 fields"),
        ("0, cam0, a,b.jpg", CAMERA + "4 fields"),
        ("x, cam0, a.jpg", CAMERA + "the timestamp 'x' is not an integer"),
        ("1.5, cam0, a.jpg", CAMERA + "the timestamp '1.5'"),
        ("1_0, cam0, a.jpg", CAMERA + "the timestamp '1_0'"),
        ("٣, cam0, a.jpg", CAMERA + "the timestamp"),
        (f"{'9' * 5000}, cam0, a.jpg", CAMERA + "the timestamp '999"),
        (", cam0, a.jpg", CAMERA + "the timestamp ''"),
        ("0, cam0, a\0b.jpg", CAMERA + "it has a NUL byte"),
        (b"0, cam0, \xe9.jpg", CAMERA + "it is not UTF-8"),
        (b"0, cam0, a.jpg\n\xff\xfe\x00", "line 2: it is not UTF-8"),
        ("0, cam0, " + "a" * 20_000, CAMERA + "more than 10000 characters"),
        (b"0, c\xff" + os.urandom(20_000), CAMERA + "it is not UTF-8"),
    ],
)  # fmt: skip
def test_bad_records(write, records, message):
    with pytest.raises(UserError) as e:
        read_images(write(records))
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600


SENSOR = "sensors.txt, line 2: "


@pytest.mark.parametrize(
    ("sensors", "message"),
    [
        (None, "is not a kapture dataset: it has no sensors/sensors.txt"),
        ("", "does not say its format"),
        ("cam0, , camera, UNKNOWN_CAMERA, 640, 480\n", "does not say its format"),
        ("#kapture\ncam0, , camera, UNKNOWN_CAMERA, 640, 480\n", "the first line must be '# kapt"),
        ("\n" + SENSORS, "does not say its format"),
        (SENSORS.replace("1.1", "1.0"), "format 1.0; only 1.1 is read (kapture_upgrade"),
        (SENSORS.replace("1.1", "2.0"), "format 2.0; only 1.1 is read"),
        (SENSORS.replace("1.1", "1.10"), "format 1.10; only 1.1 is read"),
        (HEADER + "cam0, camera", SENSOR + "expected the id, name and type"),
        (HEADER + ", , camera, UNKNOWN_CAMERA, 1, 1", SENSOR + "expected the id"),
        (HEADER + "cam0, , camera", SENSOR + "the camera 'cam0' has no model; expected one of"),
        (HEADER + "cam0, , camera, GOPRO, 1, 2", SENSOR + "the camera 'cam0' has the unknown"),
        (HEADER + "d, , depth, GOPRO, 1, 2", SENSOR + "the depth 'd' has the unknown model"),
        (HEADER + "cam0, , camera, PINHOLE", "'cam0' has 0 parameters; PINHOLE has 6"),
        (HEADER + "cam0, , camera, UNKNOWN_CAMERA, 1", "has 1 parameters; UNKNOWN_CAMERA has 2"),
        (HEADER + "cam0, , camera, UNKNOWN_CAMERA, 1, x", "has the parameter 'x'; expected a num"),
        (HEADER + "cam0, , camera, UNKNOWN_CAMERA, 1, nan", "has the parameter 'nan'"),
        (HEADER + "cam0, , camera, UNKNOWN_CAMERA, 1, ", "has the parameter ''"),
        (HEADER + "\0" * 100, SENSOR + "it has a NUL byte"),
        ("# kapture format: 1.1" + "x" * 20_000, "line 1: more than 10000 characters"),
    ],
)  # fmt: skip
def test_bad_sensors(write, sensors, message):
    with pytest.raises(UserError) as e:
        read_images(write(sensors=sensors))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_no_dataset(tmp_path):
    with pytest.raises(UserError, match=r"is not a kapture dataset: it has no sensors/$"):
        read_images(str(tmp_path / "nothing"))


@pytest.mark.parametrize("file", ["sensors.txt", "records_camera.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(write, tmp_path, file, kind):
    root = write()
    path = tmp_path / "sensors" / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UserError, match=f"{file} cannot be read: it is a"):
        read_images(root)


def test_a_huge_file_without_a_line_break(write, tmp_path):
    root = write()
    with open(tmp_path / "sensors" / "records_camera.txt", "wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match=r"\.txt has 1048576 MiB; at most 512 are read"):
        read_images(root)


def test_many_rows(write):
    count = 200_000  # a second's work; a rule that were not linear would take minutes
    root = write("".join(f"{i}, cam{i % 2}, folder{i % 100}/{i:08d}.jpg\n" for i in range(count)))
    assert len(read_images(root)) == count


def test_mutated_files_give_images_or_one_line(write):
    rng = random.Random(0)
    contents = [SENSORS.encode(), (HEADER + "0, cam0, a.jpg\n1, cam1, b/c.jpg\n").encode()]
    outcomes = set()
    for _ in range(300):
        mutated = list(contents)
        which = rng.randrange(2)
        data = bytearray(mutated[which])
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 9)]
                case 2:
                    data[at:at] = rng.choice([b",", b"\n", b"../", b"\0", b"#", b"\xff", b"9" * 99])
                case 3:
                    del data[at:]
            data = data or bytearray(b"x")
        mutated[which] = bytes(data)
        try:
            outcome = read_images(write(mutated[1], mutated[0]))
        except UserError as e:
            outcome = str(e)
        outcomes.add(type(outcome))
        assert outcome
        if isinstance(outcome, str):
            assert "\n" not in outcome
        else:
            assert not any(name.startswith(("/", "..")) for name in outcome)
    assert outcomes == {list, str}
