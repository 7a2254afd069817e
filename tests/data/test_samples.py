"""util.data.build: samples that are files of their own, and opening a folder."""

import os
import pickle

import numpy as np
import pytest
from on_disk import IDS, IMAGE, MASK, contents, write

from util.core import npz
from util.core.errors import UserError
from util.data.samples import group_by_image, read_sample, write_sample


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "unc_val_0.npz")


def test_sample_round_trip(path):
    write_sample(path, IDS, IMAGE, MASK, "caf\u00e9", "COCO_7")
    sample = read_sample(path)
    assert sorted(sample) == [
        "im_batch",
        "im_name_batch",
        "mask_batch",
        "sent_batch",
        "text_batch",
    ]
    for key, expected in (("im_batch", IMAGE), ("mask_batch", MASK)):
        assert sample[key].dtype == expected.dtype
        np.testing.assert_array_equal(sample[key], expected)
    assert sample["text_batch"].dtype == np.int32
    assert sample["text_batch"].tolist() == IDS
    assert sample["sent_batch"] == ["caf\u00e9"]
    assert sample["im_name_batch"] == ["COCO_7"]


def test_reference_can_read_a_sample(path):
    """Its reader takes all keys of np.load and uses these four."""
    write_sample(path, IDS, IMAGE, MASK, "left", "COCO_7")
    loaded = dict(np.load(path))
    assert loaded["text_batch"].shape == (20,)
    assert loaded["im_batch"].dtype == np.uint8
    assert loaded["mask_batch"].dtype == bool
    assert loaded["sent_batch"][0] == "left"


def test_sample_has_the_bytes_of_savez(path, tmp_path):
    for image, mask in ((IMAGE, MASK), (npz.as_npy(IMAGE), npz.as_npy(MASK))):
        write_sample(path, IDS, image, mask, "left", "COCO_7")
        other = str(tmp_path / "other.npz")
        ids = np.array(IDS, np.int32)
        write(other, text_batch=ids, sent_batch=["left"], im_name_batch=["COCO_7"])
        files = contents(str(tmp_path))
        assert files["unc_val_0.npz"] == files["other.npz"]


@pytest.mark.parametrize(
    "sentence, expected",
    [
        (["left one"], "left one"),
        ([b"left one"], "left one"),
        (["caf\u00e9".encode("utf-8")], "caf\u00e9"),
        (["caf\u00e9".encode("latin-1")], "caf\u00e9"),
    ],
)
def test_samples_of_the_reference_are_read(path, sentence, expected):
    write(path, sent_batch=sentence, text_batch=np.array(IDS, np.int64))
    sample = read_sample(path)
    assert sample["sent_batch"] == [expected]
    assert sample["im_name_batch"] == [""]
    assert sample["text_batch"].dtype == np.int32


@pytest.mark.parametrize(
    "changes",
    [
        {"text_batch": IDS[1:]},
        {"text_batch": np.array(IDS, float)},
        {"text_batch": [IDS]},
        {"im_batch": IMAGE.astype(np.float32)},
        {"im_batch": IMAGE.astype(np.uint16)},
        {"im_batch": IMAGE[..., 0]},
        {"im_batch": IMAGE[None]},
        {"im_batch": np.uint8(3)},
        {"mask_batch": MASK.T},
        {"mask_batch": MASK[..., None]},
        {"mask_batch": MASK.astype(float)},
        {"sent_batch": ["a", "b"]},
        {"sent_batch": [7]},
        {"im_name_batch": [7]},
        {"sent_batch": np.array([{"a": 1}], object)},
    ],
)
def test_sample_of_another_form_is_refused_by_name(path, changes):
    read_sample(write(path))
    with pytest.raises(UserError, match="unc_val_0.npz"):
        read_sample(write(path, **changes))


def test_sample_without_a_key_is_refused_by_name(path):
    np.savez(path, text_batch=IDS, im_batch=IMAGE, mask_batch=MASK)
    with pytest.raises(UserError, match="unc_val_0.npz.*sent_batch"):
        read_sample(path)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_half_a_sample_is_refused_by_name(path, share):
    write(path)
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: int(share * len(content))])
    with pytest.raises(UserError, match="unc_val_0.npz"):
        read_sample(path)


def test_changed_bytes_missing_and_pickled_samples_are_refused(path):
    with pytest.raises(UserError, match="unc_val_0.npz"):
        read_sample(path)
    write(path)
    with open(path, "r+b") as file:
        file.seek(500)
        file.write(b"\xff" * 40)
    with pytest.raises(UserError, match="unc_val_0.npz"):
        read_sample(path)
    with open(path, "wb") as file:
        pickle.dump({"text_batch": IDS}, file)
    with pytest.raises(UserError, match="unc_val_0.npz"):
        read_sample(path)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_sample_that_would_run_code_is_refused(path, tmp_path):
    made = tmp_path / "made"
    write(path, sent_batch=np.array([Evil(str(made))], object))
    with pytest.raises(UserError, match="unc_val_0.npz"):
        read_sample(path)
    assert not made.exists()


def test_order_brings_the_samples_of_an_image_together():
    assert group_by_image(["b", "a", "b", "c", "a"]) == [0, 2, 1, 4, 3]
