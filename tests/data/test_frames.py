"""util.data.frames: annotations of the stored and of the upright image."""

import json

import numpy as np
import pytest
import scipy.io
import tiny_sets
from on_disk import read_all
from PIL import Image, ImageOps

import build_batches
from util.data import build_info, datasets, frames, im_processing
from util.data.referent import Referent, load

BOX = [[10, 5, 30, 5, 30, 20, 10, 20]]
MASK = tiny_sets.box(40, 60, (5, 20, 10, 30))
TURNED = [2, 3, 4, 5, 6, 7, 8]
SWAPPED = [5, 6, 7, 8]  # rows and columns change places


def photograph(path, orientation, mask=MASK):
    """Write an image that is white on the mask, as stored; return its path."""
    pixels = np.repeat(mask[..., np.newaxis] * np.uint8(255), 3, axis=2)
    exif = Image.Exif()
    exif[im_processing.ORIENTATION] = orientation
    Image.fromarray(pixels).save(str(path), exif=exif, quality=95)
    return str(path)


def lies_on_the_object(loaded):
    (mask,) = loaded.masks
    inside, outside = loaded.image[mask].mean(), loaded.image[~mask].mean()
    return mask.shape == loaded.image.shape[:2] and inside > 240 and outside < 5


@pytest.mark.parametrize("orientation", [1, *TURNED])
def test_masks_are_turned_as_their_images(tmp_path, orientation):
    path = photograph(tmp_path / "a.png", orientation)
    with Image.open(path) as file:
        upright = np.asarray(ImageOps.exif_transpose(file))[..., 0] > 0
    mask = frames.turn(MASK, orientation)
    np.testing.assert_array_equal(mask, upright)
    assert frames.stored_size(mask.shape, orientation) == MASK.shape


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, *TURNED])
def test_orientation_of_a_file(tmp_path, ending, orientation):
    path = photograph(tmp_path / f"a.{ending}", orientation)
    image, found = im_processing.read_turned(path)
    assert found == orientation
    # TIFF is turned by Pillow itself while it is loaded: once is enough.
    np.testing.assert_array_equal(image[..., 0] > 127, frames.turn(MASK, orientation))
    np.testing.assert_array_equal(image, im_processing.read_image(path))
    with Image.open(path) as file:
        np.testing.assert_array_equal(image, im_processing.to_image(file))


@pytest.mark.parametrize("orientation", SWAPPED)
@pytest.mark.parametrize("annotated", [None, "stored", "upright"])
def test_the_size_tells_whatever_the_option(tmp_path, orientation, annotated):
    path = photograph(tmp_path / "a.jpg", orientation)
    stored = Referent("x: 1", path, ["box"], segmentations=[BOX], size=(40, 60))
    assert lies_on_the_object(load([stored], annotated))
    assert load([stored]).found == [("frame stored", "a")]
    runs = tiny_sets.run_lengths(frames.turn(MASK, orientation))
    upright = Referent("x: 2", path, ["box"], segmentations=[runs], size=(60, 40))
    assert lies_on_the_object(load([upright], annotated))
    assert load([upright]).found == [("frame upright", "a")]
    # Both in one image.
    assert np.equal(*load([stored, upright]).masks).all()


@pytest.mark.parametrize("orientation", SWAPPED)
def test_run_lengths_mask_images_and_mat_files_have_a_size_too(tmp_path, orientation):
    path = photograph(tmp_path / "a.jpg", orientation)
    turned = frames.turn(MASK, orientation)
    for n, mask in enumerate((MASK, turned)):
        runs = tiny_sets.run_lengths(mask)
        Image.fromarray(mask).save(str(tmp_path / f"{n}.png"))
        scipy.io.savemat(str(tmp_path / f"{n}.mat"), {"segimg_t": 1 - mask})
        for about in (
            {"segmentations": [runs]},
            {"segmentations": [[tiny_sets.compressed(mask)]]},
            {"mask_image": str(tmp_path / f"{n}.png")},
            {"mask_file": str(tmp_path / f"{n}.mat")},
        ):
            assert lies_on_the_object(load([Referent("x: 1", path, [], **about)]))


def test_a_mask_with_an_orientation_of_its_own_was_turned_by_it(tmp_path):
    for orientation in TURNED:
        path = photograph(tmp_path / "a.jpg", orientation)
        mask = photograph(tmp_path / "mask.png", orientation)
        loaded = load([Referent("x: 1", path, [], mask_image=mask)], "stored")
        assert lies_on_the_object(loaded)
        assert load([Referent("x: 1", path, [], mask_image=mask)]).found == [
            ("frame upright", "a")
        ]


@pytest.mark.parametrize(
    "orientation, size", [(2, MASK), (3, MASK), (4, MASK), (6, MASK[:40, :40])]
)
def test_where_no_size_tells_the_option_does(tmp_path, orientation, size):
    path = photograph(tmp_path / "a.jpg", orientation, size)
    one = Referent("x: 1", path, [], segmentations=[BOX], size=size.shape)
    assert lies_on_the_object(load([one], "stored")) and not load([one], "stored").found
    for annotated in (None, "upright"):
        assert not lies_on_the_object(load([one], annotated))
    assert load([one]).found == [("frame unsure", "a")]
    upright = tiny_sets.run_lengths(frames.turn(size, orientation))
    assert lies_on_the_object(load([one._replace(segmentations=[upright])]))


def test_polygons_of_a_list_have_no_size(tmp_path):
    path = photograph(tmp_path / "a.jpg", 6)
    one = Referent("x: 1", path, [], segmentations=[BOX])
    assert lies_on_the_object(load([one], "stored"))
    assert ("frame unsure", "a") in load([one]).found


# --- From the command line


def coco(folder, orientations, split="val"):
    images, annotations = [], []
    for number, orientation in enumerate(orientations):
        name = f"{number}.jpg"
        photograph(folder / "images" / name, orientation)
        size = {"height": 40, "width": 60, "split": split}
        images.append(dict(size, id=number, file_name=name))
        about = {"segmentation": BOX, "sentences": ["left box"]}
        annotations.append(dict(about, id=number, image_id=number))
    path = folder / "mine.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


@pytest.fixture
def mine(tmp_path):
    """Return a function that runs build_batches.py, and its folder."""
    (tmp_path / "images").mkdir()
    tiny_sets.write_vocabulary(tmp_path / "vocabulary_mine.txt")

    def run(*more, new=True, split="val"):
        command = ["-d", "mine", "-t", split, "--data", str(tmp_path), "-j", "1", *more]
        if new:
            command += ["--annotations", str(tmp_path / "mine.json")]
            command += ["--images", str(tmp_path / "images")]
        return build_batches.main(command)

    run.folder = tmp_path
    return run


def means(folder):
    return [s["im_batch"][s["mask_batch"]].mean() for s in read_all(folder, "mine_val")]


def test_a_mixed_data_set(mine, capsys):
    coco(mine.folder, [1, 6, 3, 8, 3])
    assert mine("--compact") == 0
    folder = str(mine.folder / "mine" / "val_batch")
    assert [mean > 240 for mean in means(folder)] == [True, True, False, True, False]
    told = capsys.readouterr().err
    assert "warning: mine_val: 2 of 5 images are stored turned (EXIF)" in told
    assert "sizes tell stored of 2 other images, upright of 0" in told
    assert told.rstrip().endswith("--annotated upright: 2.jpg, 4.jpg")
    # Nothing that was doubted is forgotten where all is there already.
    assert mine("--compact", new=False) == 0
    assert "2 of 5 images" in capsys.readouterr().err


def test_the_option_is_remembered_and_kept(mine, capsys):
    coco(mine.folder, [1, 6, 3])
    assert mine("--annotated", "stored") == 0
    folder = str(mine.folder / "mine" / "val_batch")
    assert min(means(folder)) > 240
    assert "stored turned" not in capsys.readouterr().err
    assert datasets.get("mine", str(mine.folder)).annotated == "stored"
    assert build_info.read(folder)["frame"] == "stored"
    assert mine(new=False) == 0
    capsys.readouterr()
    for more, new in (((), True), (("--annotated", "upright"), False)):
        assert mine(*more, new=new) == 2
        told = capsys.readouterr().err
        assert "was built with --annotated stored: say that again, or del" in told
    (mine.folder / "mine" / "dataset.json").write_text(
        '{"annotations": "a", "images": "b", "splits": ["val"], "annotated": "left"}'
    )
    assert mine(new=False) == 2
    assert "dataset.json is damaged" in capsys.readouterr().err


def test_saying_upright_ends_the_warning(mine, capsys):
    coco(mine.folder, [3])
    assert mine("--annotated", "upright") == 0
    assert "warning" not in capsys.readouterr().err


def test_refcoco_takes_the_option_too(tmp_path, capsys):
    tiny_sets.write_unc(tmp_path)
    image = (
        tmp_path / "coco" / "images" / "train2014" / "COCO_train2014_000000000001.jpg"
    )
    photograph(image, 3)
    command = ["-d", "unc", "-t", "train", "--size", "64", "--data", str(tmp_path)]
    assert build_batches.main([*command, "-j", "1", "--annotated", "stored"]) == 0
    sample = read_all(str(tmp_path / "unc" / "train_batch"))[2]
    stored = tiny_sets.MASKS[102][::-1, ::-1]
    expected = im_processing.fit_mask(np.ascontiguousarray(stored), 64, 64)
    np.testing.assert_array_equal(sample["mask_batch"], expected)
    assert build_batches.main([*command, "-j", "1"]) == 2
    assert "with --annotated stored" in capsys.readouterr().err


def test_builds_without_a_frame_in_their_record_go_on_working(mine, capsys):
    coco(mine.folder, [1])
    assert mine() == 0
    path = mine.folder / "mine" / "val_batch" / "build.json"
    record = json.loads(path.read_text())
    assert record.pop("frame") == "upright" and record.pop("doubts") == {}
    path.write_text(json.dumps(record))
    assert mine() == 0
    assert "already complete" in capsys.readouterr().out
    assert mine("--annotated", "stored") == 2
