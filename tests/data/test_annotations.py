"""util.data.refcoco: the annotation formats, and every way in which they can be bad."""

import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import tiny_sets
from PIL import Image

from util.core.errors import UserError
from util.data import annotations, datasets, refcoco
from util.data.referent import check_files, decode_segmentation, load

REFS = "refer/refcoco/refs(unc).p"
INSTANCES = "refer/refcoco/instances.json"


@pytest.fixture
def unc(tmp_path):
    tiny_sets.write_unc(tmp_path)
    return tmp_path


@pytest.fixture
def referit(tmp_path):
    tiny_sets.write_referit(tmp_path)
    return tmp_path


def read(root, name, split):
    return annotations.referents(datasets.get(name, str(root)), split)


def test_referents_of_a_split_in_file_order(unc):
    got = read(unc, "unc", "train")
    assert [r.image_name for r in got] == [
        "COCO_train2014_00000000000" + n for n in "113"
    ]
    assert [r.sentences for r in got] == [
        ["Left box.", "the two boxes"],
        ["box on the right"],
        ["the thin line"],
    ]
    assert [r.size for r in got] == [(40, 60), (40, 60), (48, 48)]
    assert "101" in got[0].name and REFS in got[0].name
    assert len(read(unc, "unc", "val")) == 1
    assert read(unc, "unc", "testA") == []


def test_polygons_and_both_kinds_of_run_lengths_give_the_mask(unc):
    for split in ("train", "val"):
        for referent in read(unc, "unc", split):
            image, (mask,), _ = load([referent])
            expected = tiny_sets.MASKS[int(referent.name.split()[-1])]
            assert image.dtype == np.uint8 and image.shape == mask.shape + (3,)
            assert mask.dtype == bool
            np.testing.assert_array_equal(mask, expected)


def test_overlapping_polygons_are_united():
    boxes = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]]
    mask = decode_segmentation(boxes, 8, 8)
    np.testing.assert_array_equal(mask, tiny_sets.box(8, 8, (0, 4, 0, 4), (2, 6, 2, 6)))


@pytest.mark.parametrize(
    "content",
    [
        tiny_sets.python2_pickle(tiny_sets.refs(), 0),
        tiny_sets.python2_pickle(tiny_sets.refs(), 2),
        pickle.dumps(tiny_sets.refs(), protocol=0),
        pickle.dumps(tiny_sets.refs(), protocol=2),
        pickle.dumps(tiny_sets.refs(), protocol=4),
    ],
    ids=["python2-0", "python2-2", "0", "2", "4"],
)
def test_every_pickle_protocol_gives_the_same_refs(tmp_path, content):
    path = tmp_path / "refs(x).p"
    path.write_bytes(content)
    assert refcoco.load_refs(str(path)) == tiny_sets.refs()


@pytest.mark.parametrize("protocol", [0, 2])
def test_byte_strings_are_utf8_or_else_latin1(tmp_path, protocol):
    refs = tiny_sets.refs()[2:3]
    refs[0]["sentences"][0]["sent"] = "caf\u00e9 \u2603".encode("utf-8")
    refs[0]["sentences"][1]["sent"] = "caf\u00e9".encode("latin-1")
    path = tmp_path / "refs(x).p"
    path.write_bytes(tiny_sets.python2_pickle(refs, protocol))
    sentences = refcoco.load_refs(str(path))[0]["sentences"]
    assert [s["sent"] for s in sentences] == ["caf\u00e9 \u2603", "caf\u00e9"]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    path, made = tmp_path / "refs(x).p", tmp_path / "made"
    path.write_bytes(pickle.dumps([Evil(str(made))], protocol=protocol))
    with pytest.raises(UserError, match="refs\\(x\\).p .* code .*mkdir"):
        refcoco.load_refs(str(path))
    assert not made.exists()
    pickle.loads(path.read_bytes())
    assert made.exists()


@pytest.mark.parametrize(
    "content, reason",
    [
        (pickle.dumps([np.float32(1)]), "asks for the code"),
        (b"Pobject 7\n.", "outside the file"),
        (b"", "not a pickle"),
        (b"<html>404</html>", "not a pickle"),
        (pickle.dumps(tiny_sets.refs())[:-60], "not a pickle"),
        (b"]" * 2000 + b"a" * 1999 + b".", "not a pickle"),
        (pickle.dumps({"a": 1}), "not hold a list"),
        (pickle.dumps([7]), "entry 0"),
        (pickle.dumps(tiny_sets.refs() + [{"ann_id": 1}]), "entry 4"),
        (pickle.dumps([dict(tiny_sets.refs()[0], sentences=[{}])]), "entry 0"),
        (pickle.dumps([dict(tiny_sets.refs()[0], image_id="../x")]), "entry 0"),
    ],
)
def test_damaged_pickle_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "refs(x).p"
    path.write_bytes(content)
    with pytest.raises(UserError, match="refs\\(x\\).p.*" + reason):
        refcoco.load_refs(str(path))


@pytest.mark.parametrize("missing", [REFS, INSTANCES])
def test_missing_annotations_say_where_they_come_from(unc, missing):
    (unc / missing).unlink()
    with pytest.raises(UserError, match="data/README.md") as caught:
        read(unc, "unc", "train")
    assert str(unc / missing) in str(caught.value)


def change_instances(root, change):
    path = root / INSTANCES
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", '{"images": []}', '{"images": [{}]}', "[" * 100000]
)
def test_damaged_instances_are_refused_by_name(unc, content):
    (unc / INSTANCES).write_text(content)
    with pytest.raises(UserError, match="instances.json"):
        read(unc, "unc", "train")


def test_binary_instances_are_refused_by_name(unc):
    (unc / INSTANCES).write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(UserError, match="instances.json is damaged"):
        read(unc, "unc", "train")


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_id_twice_is_refused_unless_it_says_the_same(unc, key):
    expected = read(unc, "unc", "train")
    change_instances(unc, lambda content: content[key].append(content[key][0]))
    assert read(unc, "unc", "train") == expected
    other = {"images": {"height": 7}, "annotations": {"image_id": 3}}[key]
    number = {"images": 4, "annotations": 5}[key]
    change_instances(
        unc, lambda content: content[key].append({**content[key][0], **other})
    )
    with pytest.raises(
        UserError, match=f"json: the id .* twice in {key}, in entries 0 and {number}"
    ):
        read(unc, "unc", "train")


def test_referent_and_annotation_in_two_images_are_refused(unc):
    change_instances(unc, lambda content: content["annotations"][0].update(image_id=3))
    with pytest.raises(UserError, match="101: its image is 1, but 3 in .*instances"):
        read(unc, "unc", "train")


def test_referent_without_annotation_or_image_is_named(unc):
    change_instances(unc, lambda content: content["annotations"].pop(3))
    with pytest.raises(UserError, match="referent 104 has no annotation"):
        read(unc, "unc", "train")
    change_instances(unc, lambda content: content["images"].pop(1))
    with pytest.raises(UserError, match="referent 103: its image 2"):
        read(unc, "unc", "val")


FULL = tiny_sets.run_lengths(np.ones((40, 60), bool))


@pytest.mark.parametrize(
    "segmentation, reason",
    [
        (None, "missing"),
        ([], "missing"),
        ([[]], "3 or more points"),
        ([[1, 2, 3, 4]], "3 or more points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "3 or more points"),
        ([[0, 0, 9, 0, 9, 9], "x"], "damaged"),
        ([0, 0, 9, 0, 9, 9], "damaged"),
        ([7, [0, 0, 9, 0, 9, 9]], "damaged"),
        ([[[[0]]]], "damaged"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
        ([[0, 0, float("nan"), 0, 9, 9]], "far outside"),
        ("polygon", "damaged"),
        ({"size": [40, 60]}, "damaged"),
        ({"counts": FULL["counts"]}, "damaged"),
        ({"size": [60, 40], "counts": FULL["counts"]}, "size"),
        ({"size": [40, 60], "counts": [5, 5]}, "do not fill"),
        ({"size": [40, 60], "counts": [0, 10**9]}, "do not fill"),
        ({"size": [40, 60], "counts": [-100, 2500]}, "damaged"),
        ({"size": [40, 60], "counts": ["a"]}, "damaged"),
        ({"size": [40, 60], "counts": 7}, "damaged"),
        ({"size": [40, 60], "counts": "\u2603"}, "damaged"),
        ({"size": [40, 60], "counts": "o" * 10**6}, "no text of COCO's"),
        ({"size": [40, 60], "counts": "0~"}, "no text of COCO's"),
        ({"size": [40, 60], "counts": [2399.5, 0.5]}, "no whole numbers"),
        (tiny_sets.compressed(np.ones((80, 60), bool)), "size"),
        (dict(tiny_sets.compressed(np.ones((80, 60), bool)), size=[40, 60]), "damaged"),
    ],
)
def test_bad_mask_names_its_referent(unc, segmentation, reason):
    change_instances(
        unc, lambda content: content["annotations"][0].update(segmentation=segmentation)
    )
    with pytest.raises(UserError, match="referent 101: the mask.*" + reason):
        load(read(unc, "unc", "train")[:1])


@pytest.mark.parametrize("counts", ["12", "d0d0", "PT"])
def test_runs_that_end_early_are_noticed(counts):
    """What pycocotools makes of them crashes it later, or is what was in memory."""
    runs = tiny_sets.compressed(tiny_sets.box(4, 5, (0, 2, 0, 2)))
    assert decode_segmentation(runs, 4, 5).sum() == 4
    with pytest.raises(UserError, match="do not fill|ends within a number"):
        decode_segmentation(dict(runs, counts=counts), 4, 5)


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_unpacked_as_they_were_packed(seed):
    noise = np.random.RandomState(seed).uniform(size=(70, 90)) > (0.1, 0.9)[seed % 2]
    for mask in (noise, np.repeat(np.repeat(noise, 9, 0), 9, 1), noise & False):
        found = decode_segmentation(tiny_sets.compressed(mask), *mask.shape)
        np.testing.assert_array_equal(found, mask)


def test_parts_of_every_kind_are_united():
    one, other = tiny_sets.box(8, 9, (1, 4, 0, 4)), tiny_sets.box(8, 9, (2, 6, 2, 6))
    polygon = [2, 2, 6, 2, 6, 6, 2, 6]
    for parts in (
        [tiny_sets.compressed(one), tiny_sets.run_lengths(other)],
        [tiny_sets.run_lengths(one), polygon],
        [polygon, tiny_sets.compressed(one), polygon],
    ):
        mask = decode_segmentation(parts, 8, 9)
        np.testing.assert_array_equal(mask, one | other)


@pytest.mark.parametrize("part", [[], [3, 3], [3, 3, 4, 4]])
def test_part_without_an_area_is_left_out_beside_another(part):
    box = tiny_sets.POLYGONS[101]
    found = decode_segmentation([part, *box, part], 40, 60)
    np.testing.assert_array_equal(found, tiny_sets.MASKS[101])
    with pytest.raises(UserError, match="3 or more points"):
        decode_segmentation([part, part], 40, 60)


def test_parts_of_the_size_are_no_pixels():
    relative = [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5], [0, 0, 1, 0, 1, 1]]
    with pytest.raises(UserError, match="between 0 and 1, .* multiply x by"):
        decode_segmentation(relative, 40, 60)
    assert decode_segmentation([*relative, [1, 1, 9, 1, 9, 9]], 40, 60).any()


def test_memory_does_not_grow_with_the_parts():
    parts = [[1, 1, 9, 1, 9, 9]] * 2000
    tracemalloc.start()
    assert decode_segmentation(parts, 1000, 1000).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25  # 2000 masks are 2 GB


def test_bad_image_is_named(unc):
    referent = read(unc, "unc", "train")[0]
    with open(referent.image, "rb") as file:
        content = file.read()
    with open(referent.image, "wb") as file:
        file.write(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot read the image .*000001.jpg"):
        load([referent])
    Image.new("RGB", (40, 40)).save(referent.image)
    with pytest.raises(UserError, match="101.*40x60.*000001.jpg has 40x40"):
        load([referent])
    os.remove(referent.image)
    with pytest.raises(UserError, match="no image .*000001.jpg"):
        load([referent])
    with pytest.raises(UserError, match="no file .*000001.jpg"):
        check_files([referent])


def test_upright_size_counts_for_a_turned_image(unc):
    referent = read(unc, "unc", "train")[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60)).save(referent.image, exif=exif.tobytes())
    image, (mask,), _ = load([referent])
    assert image.shape == (40, 60, 3)
    np.testing.assert_array_equal(mask, tiny_sets.MASKS[101])


def test_referit(referit):
    got = read(referit, "referit", "test")
    assert [r.image_name for r in got] == ["21", "22", "21"]
    assert [r.sentences for r in got] == list(tiny_sets.QUERIES.values())
    check_files(got)
    for referent, annotation in zip(got, (101, 103, 102)):
        image, (mask,), _ = load([referent])
        assert mask.dtype == bool and image.shape == mask.shape + (3,)
        np.testing.assert_array_equal(mask, tiny_sets.MASKS[annotation])


def test_outline_of_great_length_is_refused():
    """Of few bytes, it would take gigabytes."""
    far = [[0, 0, 6000, 6000] * 1000 + [5, 9]]
    with pytest.raises(UserError, match="outline has more than 1000000 pixels"):
        decode_segmentation(far, 640, 480)
    star = [[0, 0, 639, 1, 0, 2, 639, 3, 0, 479]]
    assert decode_segmentation(star, 480, 640).any()


def test_missing_referit_files_are_named(referit):
    with pytest.raises(UserError, match="referit_query_trainval.json.*README"):
        read(referit, "referit", "trainval")
    (referit / "referit" / "mask" / "22_1.mat").unlink()
    got = read(referit, "referit", "test")
    for check in (lambda: check_files(got), lambda: load([got[1]])):
        with pytest.raises(UserError, match="no file .*22_1.mat"):
            check()


def test_bad_referit_masks_are_named(referit):
    referent = read(referit, "referit", "test")[0]
    path = referit / "referit" / "mask" / "21_1.mat"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="21_1.mat is damaged"):
        load([referent])
    tiny_sets.write_mat(path, np.ones((40, 60)), key="other")
    with pytest.raises(UserError, match="21_1.mat is damaged.*segimg_t"):
        load([referent])
    tiny_sets.write_mat(path, np.ones((40, 60, 3)))
    with pytest.raises(UserError, match="21_1.mat has 3 axes"):
        load([referent])
    tiny_sets.write_mat(path, np.ones((60, 40)))
    with pytest.raises(UserError, match="referent 21_1.*60x40.*21.jpg has 40x60"):
        load([referent])


@pytest.mark.parametrize(
    "content, reason",
    [
        ("{", "damaged"),
        ('{"21_1": ["The box"], "21_1": ["sky"]}', "the key '21_1' stands twice"),
        ("[]", "not hold queries"),
        ('{"../../etc/passwd_1": ["a"]}', "passwd_1"),
        ('{"21": ["a"]}', "'21'"),
        ('{"21_1": "a"}', "'21_1'"),
        ('{"21_1": [3]}', "'21_1'"),
    ],
)
def test_bad_queries_are_refused_by_name(referit, content, reason):
    (referit / "referit_query_test.json").write_text(content)
    with pytest.raises(UserError, match="referit_query_test.json.*" + reason):
        read(referit, "referit", "test")


@pytest.mark.parametrize("number", [99, 100, 101, 250])
def test_masks_of_many_parts(number):
    """Box n covers cell n of rows of 20, twice as wide and high as it."""
    cells = [divmod(n, 20) for n in range(number)]
    boxes = [
        [2 * x, 2 * y, 2 * x + 2, 2 * y, 2 * x + 2, 2 * y + 2, 2 * x, 2 * y + 2]
        for y, x in cells
    ]
    wanted = np.zeros((30, 40), bool)
    for y, x in cells:
        wanted[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = True
    np.testing.assert_array_equal(decode_segmentation(boxes, 30, 40), wanted)
