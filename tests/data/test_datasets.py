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
        "referit": {"trainval": 59976, "test": 60105},
        "shapes": {"train": None, "val": None, "test": None},
    }


def test_files_are_where_the_reference_has_them():
    join = os.path.join
    assert datasets.vocabulary_file("unc+") == join("data", "vocabulary_Gref.txt")
    assert datasets.vocabulary_file("shapes", "x") == join("x", "vocabulary_shapes.txt")
    assert datasets.embedding_file("referit") == join("data", "referit_emb.npy")
    assert datasets.backbone_file("x") == join("x", "weights/deeplab_resnet_init.ckpt")
    assert datasets.refs_file("unc+", "x") == join("x", "refer/refcoco+", "refs(unc).p")
    assert datasets.refs_file("Gref") == "data/refer/refcocog/refs(google).p"
    assert datasets.image_file("unc", 7) == (
        "data/coco/images/train2014/COCO_train2014_000000000007.jpg"
    )
    assert datasets.image_file("shapes", 7) == "data/shapes/images/000000000007.jpg"
    assert datasets.image_file("referit", "38685") == "data/referit/images/38685.jpg"
    assert datasets.mask_file("38685_1") == "data/referit/mask/38685_1.mat"
    assert datasets.query_file("test") == join("data", "referit_query_test.json")
    assert datasets.batch_dir("unc", "train") == "data/unc/train_batch"
    assert datasets.batch_dir("unc", "val", "x", "y") == "y/unc/val_batch"


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
        datasets.check_split("Gref", "testA")
    with pytest.raises(UserError, match="no data set 'coco'.*unc, unc\\+, Gref"):
        datasets.check_split("coco", "train")
    datasets.check_split("unc", "testB")


def test_own_data_set_is_remembered_wherever_a_command_runs(cwd, monkeypatch):
    datasets.remember("mine", "x", "a.json", "images", ["train", "dev"])
    monkeypatch.chdir(str(cwd / "x"))
    own = datasets.get("mine", ".")
    assert own.annotations == str(cwd / "a.json")
    assert own.images == str(cwd / "images")
    assert own.splits == {"train": None, "dev": None}
    assert datasets.names(".")[-2:] == ["shapes", "mine"]
    assert datasets.vocabulary_file("mine", ".") == "./vocabulary_mine.txt"
    assert datasets.embedding_file("mine", ".") == "./mine_emb.npy"
    datasets.check_split("mine", "dev", ".")
    with pytest.raises(UserError, match="no data set './mine'.*shapes, mine, or make"):
        datasets.get("./mine", ".")


@pytest.mark.parametrize("name", ["unc", "shapes", "", "a/b", "..", "-x", "a b", "a\n"])
def test_names_that_an_own_data_set_cannot_have(name):
    with pytest.raises(UserError, match="choose another name|is no name"):
        datasets.check_custom_name(name)
    datasets.check_custom_name("My_data-2+")


def test_old_annotation_folder_is_used_where_only_it_exists(cwd):
    old = os.path.join("external", "refer", "data", "refcoco")
    assert datasets.annotation_dir("unc") == "data/refer/refcoco"
    os.makedirs(old)
    assert datasets.annotation_dir("unc") == old
    os.makedirs("data/refer/refcoco")
    assert datasets.annotation_dir("unc") == "data/refer/refcoco"


@pytest.mark.parametrize("name", ["unc+_val_0.npz", "unc+_val_index.npz"])
def test_samples_are_found_in_ours_before_the_old_folder(cwd, name):
    put(cwd / "unc+" / "val_batch" / name)
    old = datasets.find_batch_dir("unc+", "val")
    assert os.path.samefile(old, cwd / "unc+" / "val_batch")
    put(cwd / "data" / "unc+" / "val_batch" / name)
    assert datasets.find_batch_dir("unc+", "val") == "data/unc+/val_batch"


def test_no_samples_says_how_to_build_them(cwd):
    put(cwd / "x" / "unc" / "val_batch" / "build.json")
    command = "python build_batches.py -d unc -t val --data x"
    with pytest.raises(UserError, match=command + "$"):
        datasets.find_batch_dir("unc", "val", "x")
    put(cwd / "unc" / "val_batch" / "unc_val_0.npz")
    with pytest.raises(UserError, match=command + " --batches y"):
        datasets.find_batch_dir("unc", "val", "x", "y")


def test_numbered_files_are_no_others(tmp_path):
    for name in (
        "unc+_val_0.npz",
        "unc+_val_12.npz",
        "unc+_val_1.npz.77.part",
        "unc+_val_picture_2.npz",
        "unc+_val_01.npz",
        "uncc_val_3.npz",
        "build.json",
    ):
        put(tmp_path / name)
    assert sorted(npz.numbered_files(str(tmp_path), "unc+_val")) == [0, 12]
    assert npz.numbered_files(str(tmp_path / "none"), "unc+_val") == {}
