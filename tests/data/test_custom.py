"""util.data.custom: registered data sets, mistakes in them, data/README.md."""

import json
import os
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import recipe
import tiny_sets
from networks import small_backbone
from on_disk import read_all
from PIL import Image

import build_batches
import trainval_model
from util import convert, glove, vocabulary
from util.core.errors import UserError
from util.data import annotations, custom, datasets, im_processing
from util.training import start

TOP = Path(__file__).resolve().parents[2]
IMAGES = {1: "a.jpg", 2: "b.jpg", 3: "more/a.jpg"}  # two of the same name
ANNOTATIONS = {101: 1, 102: 1, 103: 2, 104: 3}  # annotation -> image


def write_images(folder):
    (folder / "images" / "more").mkdir(parents=True)
    for number, name in IMAGES.items():
        image = Image.fromarray(recipe.image(number, *tiny_sets.SIZES[number]))
        image.save(str(folder / "images" / name))
    for name in ("mine", "one", "two"):
        tiny_sets.write_vocabulary(folder / f"vocabulary_{name}.txt")


def write_mask(path, mask):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(str(path))


def instances():
    content = tiny_sets.instances()
    for image in content["images"]:
        image["file_name"] = IMAGES[image["id"]]
    return content


def as_refs(folder):
    (folder / "instances.json").write_text(json.dumps(instances()))
    path = folder / "mine.pickle"
    path.write_bytes(pickle.dumps(tiny_sets.refs(), protocol=2))
    return path


def as_coco(folder):
    content = instances()
    for annotation, (_, image, split, texts) in zip(
        content["annotations"], tiny_sets.REFS
    ):
        annotation["sentences"] = texts
        content["images"][image - 1]["split"] = split
    content["annotations"][1]["sentences"] = [{"raw": "box on the right"}]
    content["annotations"][3]["split"] = "train"
    content["images"][2]["split"] = "val"  # the annotation's own one counts
    content["annotations"].append({"id": 7, "image_id": 1})  # nothing is said of it
    path = folder / "coco.txt"
    path.write_text(json.dumps(content))
    return path


def as_list(folder):
    segmentations = {a["id"]: a["segmentation"] for a in instances()["annotations"]}
    entries = [
        {
            "image": IMAGES[image],
            "split": split,
            "sentences": texts,
            "segmentation": segmentations[annotation],
        }
        for annotation, image, split, texts in tiny_sets.REFS
    ]
    for number in (1, 2):
        del entries[number]["segmentation"]
        entries[number]["mask"] = f"masks/{number}.png"
        mask = tiny_sets.MASKS[tiny_sets.REFS[number][0]]
        write_mask(folder / "masks" / f"{number}.png", mask)
    path = folder / "mine.json"
    path.write_text(json.dumps(entries))
    return path


FORMS = pytest.mark.parametrize("form", [as_refs, as_coco, as_list])


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path)
    return tmp_path


def build(data, path, split="train", name="mine", more=""):
    """Run the command with new annotations; return its exit code."""
    options = "-d {} -t {} --data {} --annotations {} --images {} -j 1 --size 16 {}"
    options = options.format(name, split, data, path, data / "images", more)
    return build_batches.main(options.split())


def told(capsys):
    """Return the one line of an error."""
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


# --- What comes out


@FORMS
def test_every_form_gives_the_same_samples(data, form, capsys):
    assert build(data, form(data)) == 0
    assert "mine train: built, 4 samples" in capsys.readouterr().out
    samples = read_all(str(data / "mine" / "train_batch"), "mine_train")
    texts = ["Left box.", "the two boxes", "box on the right", "the thin line"]
    assert [sample["sent_batch"] for sample in samples] == [[text] for text in texts]
    for sample, annotation in zip(samples, (101, 101, 102, 104)):
        number = ANNOTATIONS[annotation]
        assert sample["im_name_batch"] == [IMAGES[number]]
        mask = im_processing.fit_mask(tiny_sets.MASKS[annotation], 16, 16)
        np.testing.assert_array_equal(sample["mask_batch"], mask)
        image = im_processing.read_image(str(data / "images" / IMAGES[number]))
        image = im_processing.fit_image(image, 16, 16)
        np.testing.assert_array_equal(sample["im_batch"], image)


@FORMS
def test_afterwards_the_name_is_enough(data, form):
    build(data, form(data))
    root = ["--data", str(data)]
    assert build_batches.main("-d mine -t val -j 1".split() + root) == 0
    (sample, _) = read_all(str(data / "mine" / "val_batch"), "mine_val")
    np.testing.assert_array_equal(sample["mask_batch"], tiny_sets.MASKS[103])
    assert convert.main("-d mine -t train".split() + root) == 0
    words = data / "words.txt"
    assert vocabulary.main(["-d", "mine", "--output", str(words)] + root) == 0
    assert {"line", "boxes"} <= set(words.read_text().split("\n"))
    assert "tall" not in words.read_text()
    (data / "glove.txt").write_text("box 1.0 2.0\n")
    assert glove.main([str(data / "glove.txt"), "-d", "mine"] + root) == 0
    assert np.load(str(data / "mine_emb.npy")).shape == (7, 2)


@pytest.mark.parametrize("form", [as_coco, as_list])
def test_vocabulary_of_a_file_takes_the_sentences_for_training(data, form):
    path = str(form(data))
    os.rename(path, path + ".json")
    sentences = vocabulary.read_sentences(path + ".json")
    assert sentences == custom.training_sentences(path + ".json")
    assert len(sentences) == 4 and "tall one" not in sentences


def test_all_sentences_are_taken_where_no_split_is_for_training(data):
    path = as_list(data)
    path.write_text(path.read_text().replace('"train"', '"test"'))
    assert len(vocabulary.read_sentences(str(path))) == 6
    mine = datasets.custom("mine", str(path), "x", ["test", "val"], str(data))
    assert len(vocabulary.training_sentences(mine)) == 6


def test_defaults_are_those_of_unc(data):
    build(data, as_list(data))
    own, unc = datasets.get("mine", str(data)), datasets.get("unc")
    for key in ("input_size", "has_backbone", "glove", "v_emb_dim", "mlp_dim"):
        assert getattr(own, key) == getattr(unc, key)
    assert list(own.splits) == ["train", "val"]
    assert os.path.isabs(own.annotations) and os.path.isabs(own.images)


# --- Masks that are images


def values(mode):
    """Return an image of 2 x 3 whose object is its first row, and that mask."""
    mask = np.array([[True] * 3, [False] * 3])
    if mode == "I;16":
        return Image.fromarray(mask.astype(np.uint16) * 256), mask
    return Image.fromarray(mask.astype(np.uint8) * 255).convert(mode), mask


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "I;16", "P"])
def test_what_is_not_0_is_the_object(tmp_path, mode):
    image, mask = values(mode)
    image.save(str(tmp_path / "mask.png"))
    found = im_processing.read_mask(str(tmp_path / "mask.png"))[0]
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_bad_masks_are_told_of_by_name(data, capsys):
    path, mask = as_list(data), data / "masks" / "1.png"
    write_mask(mask, np.ones((5, 5)))
    assert build(data, path, name="one") == 2
    assert "entry 1: annotated at 5x5 pixels" in capsys.readouterr().err
    mask.write_bytes(mask.read_bytes()[:40])
    assert build(data, path, name="two") == 2
    assert "cannot read the mask" in capsys.readouterr().err
    mask.unlink()
    assert build(data, path) == 2
    assert "mine.json: entry 1: there is no file" in told(capsys)


def test_changed_mask_is_another_annotation(data, capsys):
    path = as_list(data)
    assert build(data, path) == build(data, path) == 0
    write_mask(data / "masks" / "1.png", np.ones((40, 60)))
    capsys.readouterr()
    assert build(data, path) == 2
    assert "was built with other annotations" in told(capsys)
    assert build_batches.main(["-d", "mine", "-t", "train", "--data", str(data)]) == 2
    assert "was built with other" in told(capsys)


# --- Annotations again


def test_other_annotations_are_refused_while_there_are_samples(data, capsys):
    path = as_list(data)
    assert build(data, path) == 0
    before = (data / "mine" / "dataset.json").read_bytes()
    other = data / "other.json"
    other.write_text(path.read_text().replace("thin", "thick"))
    capsys.readouterr()
    # Of another split there are no samples yet, but of this one there are.
    assert build(data, other, split="val") == 2
    assert "train_batch was built with other annotations: delete" in told(capsys)
    assert (data / "mine" / "dataset.json").read_bytes() == before
    for file in (data / "mine" / "train_batch").iterdir():
        file.unlink()
    assert build(data, other) == 0
    assert "other.json" in (data / "mine" / "dataset.json").read_text()


def test_same_annotations_elsewhere_take_the_place(data):
    assert build(data, as_list(data)) == 0
    (data / "moved").mkdir()
    (data / "mine.json").rename(data / "moved" / "all.json")
    (data / "masks").rename(data / "moved" / "masks")
    assert build(data, data / "moved" / "all.json") == 0
    assert datasets.get("mine", str(data)).annotations.endswith("moved/all.json")


def test_samples_elsewhere_count_too(data, capsys):
    path, more = as_list(data), "--batches " + str(data / "b[1]")
    assert build(data, path, more=more) == 0
    path.write_text(path.read_text().replace("thin", "thick"))
    capsys.readouterr()
    assert build(data, path, split="val", more=more) == 2
    assert "built with other annotations" in told(capsys)


def test_without_a_vocabulary_the_command_that_makes_it_is_told(data, capsys):
    (data / "vocabulary_mine.txt").unlink()
    assert build(data, as_list(data)) == 2
    line = told(capsys)
    assert "there is no vocabulary" in line
    options = shlex.split(line.split("python -m util.vocabulary ")[1])
    assert vocabulary.main(options) == 0 and build(data, data / "mine.json") == 0


# --- Mistakes


def entry(**changes):
    content = {
        "image": "a.jpg",
        "sentences": ["left"],
        "split": "train",
        "segmentation": tiny_sets.POLYGONS[101],
    }
    content.update(changes)
    return {key: value for key, value in content.items() if value is not None}


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"split": None}, '"split" is None; expected a plain name such as train'),
        ({"split": "../x"}, "'../x'; expected a plain name"),
        ({"split": 3}, '"split" is 3'),
        ({"sentences": None}, '"sentences" must be a list of texts'),
        ({"sentences": "left"}, '"sentences" must be a list of texts'),
        ({"sentences": [3]}, '"sentences" must be a list of texts'),
        ({"sentences": [{"text": "left"}]}, 'or of objects with "sent"'),
        ({"sentences": ["."]}, "the sentence '.' has no words"),
        ({"image": None}, "its image None is not a path below"),
        ({"image": "/etc/a.jpg"}, "'/etc/a.jpg' is not a path below the folder"),
        ({"image": "more/../../a.jpg"}, "is not a path below the folder of --images"),
        ({"image": "..\\a.jpg"}, "is not a path below"),
        ({"image": "a\0.jpg"}, "is not a path below"),
        ({"image": "a\ud800.jpg"}, "is not a path below"),
        ({"image": ""}, "its image '' is not a path"),
        ({"image": "none.jpg"}, "there is no file"),
        ({"segmentation": None}, 'with "image", "sentences", "split", and "segm'),
        ({"mask": "m.png"}, '"segmentation" or "mask"'),
        ({"mask": "../m.png", "segmentation": None}, "'../m.png' is not a path below"),
        ({"segmentation": [[1, 2]]}, "the mask is damaged"),
    ],
)
def test_wrong_entry_is_told_of_in_one_line(data, capsys, wrong, reason):
    path = data / "mine.json"
    path.write_text(json.dumps([entry(), entry(**wrong)]))
    assert build(data, path) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {path}: entry 1: ") and reason in line


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "none of the forms"),
        (b"left box\n", "none of the forms"),
        (b'{"1_1": ["a"]}', "none of the forms"),
        (b"[", "is damaged"),
        (b"[]", "holds no sentences"),
        (b"[7]", "entry 0: expected an object with"),
        (b'{"annotations": []}', "is not a COCO file: it has no list 'images'"),
        (b'{"annotations": [], "images": 3}', "it has no list 'images'"),
        (b'{"annotations": [7], "images": []}', "annotations, entry 0: expected an"),
        (b'{"annotations": [], "images": [{"id": 1}]}', "with id, height, width"),
        (b'{"annotations": [], "images": []}', "holds no sentences"),
        (
            b'{"annotations": [{"id": 5, "sentences": [], "segmentation": [7]}], '
            b'"images": []}',
            "annotation 5: its image None is not among the images",
        ),
        (b"\x80\x02cos\nsystem\n.", "asks for the code os.system"),
        (pickle.dumps(tiny_sets.refs(), 2), "there is no file"),  # instances.json
        (pickle.dumps(tiny_sets.refs(), 2)[:-9], "is not a pickle of plain data"),
    ],
)
def test_bad_file_is_told_of_in_one_line(data, capsys, content, reason):
    path = data / "mine.json"
    path.write_bytes(content)
    assert build(data, path) == 2
    assert reason in told(capsys)
    assert not (data / "mine").exists()


def test_refs_without_names_of_files_are_refused(data, capsys):
    path = as_refs(data)
    (data / "instances.json").write_text(json.dumps(tiny_sets.instances()))
    assert build(data, path) == 2
    assert "referent 101: its image None is not a path" in told(capsys)


def test_unknown_split_lists_those_that_are_there(data, capsys):
    path = as_list(data)
    assert build(data, path, split="test") == 2
    assert "has no split 'test'; choose from train, val" in told(capsys)
    assert not (data / "mine").exists()
    build(data, path)
    capsys.readouterr()
    root = ["--data", str(data)]
    assert build_batches.main("-d mine -t test".split() + root) == 2
    assert "mine has no split 'test'; choose from train, val" in told(capsys)


def test_unknown_data_set_lists_the_custom_ones(data, capsys):
    build(data, as_list(data))
    capsys.readouterr()
    root = ["--data", str(data)]
    for main, options in (
        (build_batches.main, "-d yours -t train"),
        (convert.main, "-d yours -t train"),
        (vocabulary.main, "-d yours --output w"),
        (glove.main, "g.txt -d yours"),
        (trainval_model.main, "-m train -d yours -t train -f x"),
        (trainval_model.main, "-m train -d ./mine -t train -f x"),
    ):
        try:
            code = main(options.split() + root)
        except SystemExit as end:
            code = end.code
        line = told(capsys)
        assert code == 2 and "choose from unc, unc+, Gref, Gref-umd, " in line
        assert ", shapes, mine, or make one" in line
        assert "build_batches.py -d NAME --annotations FILE --images DIR" in line


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"splits": ["../x"]}', "[" * 9999]
)
def test_damaged_memory_is_told_of(data, capsys, content):
    build(data, as_list(data))
    (data / "mine" / "dataset.json").write_text(content)
    capsys.readouterr()
    with pytest.raises(UserError, match="dataset.json is damaged"):
        datasets.get("mine", str(data))
    assert build(data, data / "mine.json") == 0  # writes it again
    assert annotations.referents(datasets.get("mine", str(data)), "val")


# --- The page


def page():
    """Return the section of data/README.md."""
    text = (TOP / "data" / "README.md").read_text(encoding="utf-8")
    return re.search(r"^## Your own data\n(.*?)(?=^## )", text, re.S | re.M).group(1)


MAINS = {
    "build_batches.py": build_batches.main,
    "trainval_model.py": trainval_model.main,
    "-m util.vocabulary": vocabulary.main,
}
SMALLER = {  # what a test cannot wait for
    "build_batches.py": "--size 64 -j 1",
    "-m train": "-st 2 --v-emb-dim 16 --mlp-dim 8 --backbone random -g -1",
    "-m test": "-i 2 -g -1",
}


def test_commands_of_the_page_lead_from_annotations_to_a_test(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(start, "CALIBRATION_IMAGES", 4)
    write_images(tmp_path)
    as_list(tmp_path)
    commands = re.findall(r"^python (-m util\.\w+|\w+\.py) (.*)", page(), re.M)
    assert [command for command, _ in commands].count("build_batches.py") == 2
    for command, options in commands:
        smaller = [SMALLER[key] for key in SMALLER if key in command + " " + options]
        options = shlex.split(" ".join([options] + smaller))
        with small_backbone():
            assert MAINS[command](options) == 0, options
    with open("ckpts/mine/first/mine_iter_2.tfmodel.val.json") as file:
        scores = json.load(file)["results"]["without DenseCRF"]
    assert scores["count"] == 2
