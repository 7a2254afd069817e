"""util.data.compact: images, index and samples on disk, and what damages them."""

import os

import numpy as np
import pytest
from on_disk import IDS, IMAGE, MASK

from util.core import npz
from util.core.errors import UserError
from util.data import compact
from util.data.samples import open_samples, write_sample

OTHER = IMAGE[:, ::-1, :][:3]
MASKS = [MASK, ~MASK]
ODD = ["caf\u00e9", 'a "b"\n', "\U0001f431 \udc80", ""]


def fill(folder):
    """Write two images, the first with two masks, and four samples."""
    folder = str(folder)
    compact.write_image(image_file(folder, 0), IMAGE, MASKS)
    compact.write_image(image_file(folder, 1), OTHER, [MASK[:3]])
    entries = {
        0: (IDS, ODD[0], 0, 1),
        2: (IDS[::-1], ODD[2], 1, 0),
        1: ([7] * 20, ODD[1], 0, 0),
        3: (IDS, ODD[3], 0, 1),
    }
    index = compact.make_index(entries, ["COCO_7", "caf\u00e9"])
    compact.write_index(folder, "unc_val", index)
    return folder


def image_file(folder, number):
    return compact.image_file(str(folder), "unc_val", number)


def opened(folder):
    return open_samples(str(folder), "unc_val")


def test_samples_are_put_together_again(tmp_path):
    samples = opened(fill(tmp_path))
    assert samples.layout == "compact" and len(samples) == 4
    assert samples.images() == [0, 0, 1, 0]
    expected = [
        (IDS, IMAGE, ~MASK, "COCO_7"),
        ([7] * 20, IMAGE, MASK, "COCO_7"),
        (IDS[::-1], OTHER, MASK[:3], "caf\u00e9"),
        (IDS, IMAGE, ~MASK, "COCO_7"),
    ]
    for number, (words, image, mask, name) in enumerate(expected):
        sample = samples.read(number)
        assert sample["text_batch"].dtype == np.int32
        assert sample["text_batch"].tolist() == words
        assert sample["im_batch"].dtype == np.uint8
        np.testing.assert_array_equal(sample["im_batch"], image)
        assert sample["mask_batch"].dtype == bool
        np.testing.assert_array_equal(sample["mask_batch"], mask)
        assert sample["sent_batch"] == [ODD[number]]
        assert sample["im_name_batch"] == [name]
    assert samples.path(2) == image_file(tmp_path, 1)


def test_samples_may_be_changed_by_whoever_reads_them(tmp_path):
    samples = opened(fill(tmp_path))
    sample = samples.read(0)
    for key in ("text_batch", "im_batch", "mask_batch"):
        sample[key][:] = 1
    assert samples.read(0)["text_batch"].tolist() == IDS


def test_noise_takes_a_sixth_of_the_space(tmp_path):
    """The worst case: nothing to pack. 7 sentences an image and 3 a referent."""
    random = np.random.RandomState(0)
    image = random.randint(0, 256, (320, 320, 3)).astype(np.uint8)
    masks = [random.uniform(size=(320, 320)) > 0.5 for _ in range(3)]
    compact.write_image(image_file(tmp_path, 0), image, masks)
    entries = {n: (IDS, "the man on the left", 0, n // 3) for n in range(7)}
    index = compact.make_index(entries, ["COCO_train2014_000000000009"])
    compact.write_index(str(tmp_path), "unc_val", index)
    sample = opened(tmp_path).read(5)
    np.testing.assert_array_equal(sample["mask_batch"], masks[1])
    path = str(tmp_path / "sample.npz")
    write_sample(path, IDS, image, masks[1], "the man on the left", "COCO")
    size = os.path.getsize(path)
    os.remove(path)
    compact_size = sum(path.stat().st_size for path in tmp_path.iterdir()) / 7
    assert compact_size < size / 6


def test_smooth_images_are_packed(tmp_path):
    compact.write_image(
        image_file(tmp_path, 0),
        np.zeros((320, 320, 3), np.uint8),
        [np.ones((320, 320), bool)],
    )
    assert os.path.getsize(image_file(tmp_path, 0)) < 3000


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["unc_val_picture_0.npz", "unc_val_index.npz"])
def test_half_a_file_is_refused_by_name(tmp_path, name, share):
    fill(tmp_path)
    path = str(tmp_path / name)
    os.truncate(path, int(share * os.path.getsize(path)))
    with pytest.raises(UserError, match="cannot read the (image|index) .*" + name):
        opened(tmp_path).read(0)


@pytest.mark.parametrize("name", ["unc_val_picture_0.npz", "unc_val_index.npz"])
def test_changed_bytes_are_refused_by_name(tmp_path, name):
    fill(tmp_path)
    with open(str(tmp_path / name), "r+b") as file:
        file.seek(90)
        file.write(b"\xff" * 9)
    with pytest.raises(UserError, match=name):
        opened(tmp_path).read(0)


def test_a_damaged_image_leaves_the_others_readable(tmp_path):
    fill(tmp_path)
    os.truncate(image_file(tmp_path, 0), 100)
    samples = opened(tmp_path)
    with pytest.raises(UserError, match="unc_val_picture_0.npz"):
        samples.read(1)
    assert samples.read(2)["sent_batch"] == [ODD[2]]


def test_missing_images_are_refused_by_name(tmp_path):
    os.remove(image_file(fill(tmp_path), 0))
    with pytest.raises(UserError, match="image .*unc_val_picture_0.npz is missing"):
        opened(tmp_path)
    assert compact.Samples(str(tmp_path), "unc_val").num_there == 1


BITS = np.packbits(np.stack(MASKS), axis=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"picture": IMAGE.astype(np.float32)},
        {"picture": IMAGE[..., 0]},
        {"picture": IMAGE[..., :2]},
        {"picture": IMAGE[:3]},
        {"masks": BITS[:1]},
        {"masks": BITS.astype(np.int64)},
        {"masks": np.stack(MASKS)},
        {"masks": np.stack(MASKS).astype(np.uint8)},
        {"masks": BITS[0]},
        {"masks": None},
    ],
)
def test_image_of_another_form_is_refused_by_name(tmp_path, changes):
    path = image_file(fill(tmp_path), 0)
    arrays = dict({"picture": IMAGE, "masks": BITS}, **changes)
    if arrays["masks"] is None:
        del arrays["masks"]
    npz.write(path, arrays)
    with pytest.raises(UserError, match="unc_val_picture_0.npz"):
        opened(tmp_path).read(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_batch": np.zeros((4, 19), np.int32)},
        {"text_batch": np.zeros((3, 20), np.int32)},
        {"picture": [0, 0, 1]},
        {"picture": [0, 0, 2, 0]},
        {"picture": [0, 0, -1, 0]},
        {"mask": [0, 0, 0]},
        {"texts": np.frombuffer(b"{}", np.uint8)},
        {"texts": np.frombuffer(b"{", np.uint8)},
    ],
)
def test_index_of_another_form_is_refused_by_name(tmp_path, changes):
    path = compact.index_file(fill(tmp_path), "unc_val")
    with np.load(path) as arrays:
        npz.write(path, dict(dict(arrays), **changes))
    with pytest.raises(UserError, match="cannot read the index .*unc_val_index.npz"):
        opened(tmp_path)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["unc_val_picture_0.npz", "unc_val_index.npz"])
def test_no_file_can_run_code(tmp_path, name):
    fill(tmp_path)
    made = tmp_path / "made"
    evil = np.array([Evil(str(made))], object)
    keys = ("picture", "masks", "mask", "texts", "text_batch")
    np.savez(str(tmp_path / name), **{key: evil for key in keys})
    with pytest.raises(UserError, match=name):
        opened(tmp_path).read(0)
    assert not made.exists()


def test_remove_leaves_what_is_not_of_the_layout(tmp_path):
    folder = fill(tmp_path)
    others = ["unc_val_0.npz", "unc_valid_picture_0.npz", "build.json"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    compact.remove(folder, "unc_val")
    compact.remove(folder, "unc_val")
    assert sorted(os.listdir(folder)) == sorted(others)


def test_one_index_is_not_another(tmp_path):
    folder = fill(tmp_path)
    index, again = (compact.read_index(folder, "unc_val") for _ in range(2))
    assert compact.same(index, again)
    for change in (
        {"words": index.words + 1},
        {"sentences": ODD[::-1]},
        {"images": [0, 1, 0, 0]},
        {"masks": [0, 0, 0, 0]},
        {"names": ["a", "b"]},
    ):
        assert not compact.same(index, again._replace(**change))
