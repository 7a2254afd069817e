"""util.data.datasets: the table, and where files are looked for."""

import os

import pytest
from on_disk import IDS, IMAGE, MASK

from util.core import npz
from util.core.errors import UserError
from util.data import datasets
from util.data.samples import write_sample


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_numbers_of_sentences_are_the_published_ones():
    splits = {name: dataset.splits for name, dataset in datasets.DATASETS.items()}
    assert splits == {
        "unc": {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
        "unc+": {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
        "Gref": {"train": 85474, "val": 9536},
        "Gref-umd": {"train": 80512, "val": 4896, "test": 9602},
        "gref": {"train": None, "val": None, "testA": None, "testB": None},
        "referit": {"trainval": 59976, "test": 60105},
        "shapes": {"train": None, "val": None, "test": None},
    }


def test_files_are_where_the_reference_has_them():
    get = datasets.get
    assert get("unc+").vocabulary_file == "data/vocabulary_Gref.txt"
    assert get("shapes", "x").vocabulary_file == "x/vocabulary_shapes.txt"
    assert get("referit").embedding_file == "data/referit_emb.npy"
    assert datasets.backbone_file("x") == "x/weights/deeplab_resnet_init.ckpt"
    assert get("unc+", "x").annotation_file("val") == "x/refer/refcoco+/refs(unc).p"
    assert get("Gref").annotation_file("val") == "data/refer/refcocog/refs(google).p"
    assert get("Gref-umd").annotation_file("test") == (
        "data/refer/refcocog/refs(umd).p"
    )
    assert get("referit").annotation_file("test") == "data/referit_query_test.json"
    assert get("unc").image_file(7) == (
        "data/coco/images/train2014/COCO_train2014_000000000007.jpg"
    )
    assert get("shapes").image_file(7) == "data/shapes/images/000000000007.jpg"
    assert get("referit").image_file("38685") == "data/referit/images/38685.jpg"
    assert get("referit").mask_file("38685_1") == "data/referit/mask/38685_1.mat"
    assert get("unc").build_dir("train") == "data/unc/train_batch"
    assert get("unc", "x", "y").build_dir("val") == "y/unc/val_batch"


def test_data_set_is_bound_to_its_folders(cwd):
    unc = datasets.get("unc", "x", "y")
    assert (unc.name, unc.root, unc.batches) == ("unc", "x", "y")
    assert unc.vocabulary_file == "x/vocabulary_Gref.txt"
    assert unc.embedding_file == "x/Gref_emb.npy"
    assert unc.annotation_file("val") == "x/refer/refcoco/refs(unc).p"
    assert unc.image_file(7).startswith("x/coco/images")
    assert unc.prefix("val") == "unc_val"
    assert unc.build_dir("val") == "y/unc/val_batch"
    assert unc.build_command("val") == (
        "python build_batches.py -d unc -t val --data x --batches y"
    )
    with pytest.raises(UserError, match="no samples in y/unc/val_batch; build them"):
        unc.samples("val")
    with pytest.raises(UserError, match="unc has no split 'test'"):
        unc.samples("test")
    assert datasets.get("shapes").build_command("val") == (
        "python build_batches.py -d shapes -t val"
    )


def test_samples_of_a_data_set_are_opened(cwd):
    path = "data/unc/val_batch/unc_val_0.npz"
    write_sample(path, IDS, IMAGE, MASK, "left box", "1")
    samples = datasets.get("unc").samples("val")
    assert len(samples) == 1 and samples.path(0) == path
    assert samples.read(0)["sent_batch"] == ["left box"]


def test_unknown_split_and_data_set_list_the_choices():
    with pytest.raises(UserError, match="Gref has no split 'testA'.*train, val"):
        datasets.get("Gref").check_split("testA")
    with pytest.raises(UserError, match="no data set 'coco'.*unc, unc\\+, Gref"):
        datasets.get("coco")
    datasets.get("unc").check_split("testB")


def test_custom_data_set_is_remembered_wherever_a_command_runs(cwd, monkeypatch):
    mine = datasets.custom("mine", "a.json", "images", ["train", "dev"], "x")
    datasets.remember(mine)
    assert datasets.get("mine", "x") == mine and mine.is_custom
    monkeypatch.chdir(str(cwd / "x"))
    own = datasets.get("mine", ".")
    assert own.annotations == str(cwd / "a.json")
    assert own.images == str(cwd / "images")
    assert own.splits == {"train": None, "dev": None}
    assert datasets.names(".")[-2:] == ["shapes", "mine"]
    assert own.vocabulary_file == "./vocabulary_mine.txt"
    assert own.embedding_file == "./mine_emb.npy"
    assert own.vocabulary_command == (
        "python -m util.vocabulary -d mine --data . --output ./vocabulary_mine.txt"
    )
    own.check_split("dev")
    with pytest.raises(UserError, match="no data set './mine'.*shapes, mine, or make"):
        datasets.get("./mine", ".")


def test_older_data_set_of_a_name_that_is_built_in_now_is_kept(cwd):
    mine = datasets.custom("Gref-umd", "a.json", "images", ["train"], "x")
    datasets.remember(mine)
    datasets.check_custom_name("Gref-umd", "x")
    assert datasets.get("Gref-umd", "x") == mine
    assert datasets.names("x") == datasets.names("y") == list(datasets.DATASETS)
    assert not datasets.get("Gref-umd", "y").is_custom


@pytest.mark.parametrize("name", ["unc", "shapes", "", "a/b", "..", "-x", "a b", "a\n"])
def test_names_that_a_custom_data_set_cannot_have(name):
    with pytest.raises(UserError, match="choose another name|is not a name"):
        datasets.check_custom_name(name)
    datasets.check_custom_name("My_data-2+")


ANNOTATIONS = [
    "x/refer/refcoco/refs(unc).p",
    "x/refcoco/refs(unc).p",
    "external/refer/data/refcoco/refs(unc).p",
]


@pytest.mark.parametrize("path", ANNOTATIONS)
def test_annotations_are_found_where_people_keep_them(cwd, path):
    assert datasets.get("unc", "x").annotation_file("val") == ANNOTATIONS[0]
    put(cwd / path)
    assert datasets.get("unc", "x").annotation_file("val") == path
    put(cwd / ANNOTATIONS[0])
    assert datasets.get("unc", "x").annotation_file("val") == ANNOTATIONS[0]


@pytest.mark.parametrize("place", ["x/refer", "x", "external/refer/data"])
@pytest.mark.parametrize("folder", ["grefcoco", "grefs"])
@pytest.mark.parametrize("name", ["grefs(unc).json", "grefs(unc).p"])
def test_annotations_of_grefcoco_have_several_names(cwd, place, folder, name):
    put(cwd / place / folder / name)
    found = datasets.get("gref", "x").annotation_file("val")
    assert found == f"{place}/{folder}/{name}"


IMAGES = [
    f"x/{parent}/{folder}"
    for parent in ("coco/images", "images/mscoco/images", "images", "coco")
    for folder in (
        "train2014/COCO_train2014_000000000007.jpg",
        "train2014/000000000007.jpg",
        "train2017/000000000007.jpg",
        "val2017/000000000007.jpg",
    )
]


@pytest.mark.parametrize("path", IMAGES)
def test_images_of_coco_are_found_under_both_names(cwd, path):
    unc = datasets.get("unc", "x")
    assert unc.image_file(7) == IMAGES[0]
    put(cwd / path)
    assert unc.image_file(7) == path and unc.image_file(8) != path
    assert unc.image_name(7) == "COCO_train2014_000000000007"
    put(cwd / IMAGES[0])
    assert unc.image_file(7) == IMAGES[0]


@pytest.mark.parametrize("name", ["unc+_val_0.npz", "unc+_val_index.npz"])
def test_samples_are_found_in_ours_before_the_old_folder(cwd, name):
    put(cwd / "unc+" / "val_batch" / name)
    old = datasets.get("unc+").sample_dir("val")
    assert os.path.samefile(old, cwd / "unc+" / "val_batch")
    put(cwd / "data" / "unc+" / "val_batch" / name)
    assert datasets.get("unc+").sample_dir("val") == "data/unc+/val_batch"


def test_no_samples_says_how_to_build_them(cwd):
    put(cwd / "x" / "unc" / "val_batch" / "build.json")
    command = "python build_batches.py -d unc -t val --data x"
    with pytest.raises(UserError, match=command + "$"):
        datasets.get("unc", "x").sample_dir("val")
    put(cwd / "unc" / "val_batch" / "unc_val_0.npz")
    with pytest.raises(UserError, match=command + " --batches y"):
        datasets.get("unc", "x", "y").sample_dir("val")


def test_numbered_files_are_no_others(tmp_path):
    for name in (
        "unc+_val_0.npz",
        "unc+_val_12.npz",
        "unc+_val_1.npz.99999999.part",
        "unc+_val_picture_2.npz",
        "unc+_val_01.npz",
        "uncc_val_3.npz",
        "build.json",
    ):
        put(tmp_path / name)
    assert sorted(npz.numbered_files(str(tmp_path), "unc+_val")) == [0, 12]
    assert npz.numbered_files(str(tmp_path / "none"), "unc+_val") == {}
