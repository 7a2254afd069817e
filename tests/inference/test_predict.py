"""util.inference.predict and -m predict: and two hundred broken inputs."""

import json
import shlex
from pathlib import Path

import broken
import networks
import numpy as np
import pytest
import recipe
from networks import SMALL, LSTM_model
from PIL import Image
from pycocotools import mask as coco_mask

import trainval_model
from util.core import files
from util.core.errors import UserError
from util.data import text_processing
from util.graph import checkpoint
from util.graph.compat import tf
from util.inference import coco, predict, visualize
from util.inference.prediction import Prediction
from util.inference.predictor import Predictor
from util.training.snapshots import Snapshots

pytestmark = pytest.mark.usefixtures("small_backbone")
IMAGES = {"b_7.png": (40, 90), "a_12.png": (64, 64)}


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """A folder with a snapshot of the data set unc, step 5, and its vocabulary."""
    folder = tmp_path_factory.mktemp("snapshots")
    with tf.Graph().as_default(), tf.Session() as session:
        LSTM_model(**SMALL)
        networks.load_recipe(session)
        Snapshots(str(folder), "unc").save(session, 5)
    words = ["<pad>", "<go>", "<eos>", "<unk>", "left", "box"]
    words += [f"w{n}" for n in range(6, 50)]
    (folder / text_processing.VOCABULARY).write_text("\n".join(words))
    return folder


@pytest.fixture(scope="module")
def predictor(snapshots):
    with Predictor(checkpoint.path(str(snapshots), "unc", 5)) as predictor:
        yield predictor


def above_median(logits):
    return logits >= np.median(logits, axis=(1, 2), keepdims=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with two images; what is found there is half of each."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr("util.inference.predictor.is_on_object", above_median)
    for number, (name, size) in enumerate(IMAGES.items()):
        Image.fromarray(recipe.image(number, *size)).save(name)
    return tmp_path


def run(snapshots, options):
    options = f"-m predict -d unc -i 5 -g -1 -f {snapshots} " + options
    return trainval_model.main(shlex.split(options))


def read_rows(folder):
    text = (Path(str(folder)) / predict.RECORD).read_text()
    return [json.loads(line) for line in text.splitlines()]


def read(path):
    with Image.open(str(path)) as file:
        return np.array(file)


def test_masks_overlays_and_lines(snapshots, predictor, folder, capsys):
    options = "--image b_7.png a_12.png --text 'Left box' right --output out --coco"
    assert run(snapshots, options) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 sentences segmented: out/predictions.jsonl" in printed
    assert "ids in coco_results.json: invented, from 1 in the order" in printed
    rows, queries = read_rows("out"), []
    for name in IMAGES:
        queries += [(name, "Left box"), (name, "right")]
    assert [(row["image"], row["sentence"]) for row in rows] == queries
    assert (
        f"for label tools: out/instances_train.json, images below {folder}" in printed
    )
    assert len(list((folder / "out").iterdir())) == 2 * len(rows) + 3
    results = json.loads((folder / "out" / "coco_results.json").read_text())
    assert [result["image_id"] for result in results] == [1, 1, 2, 2]
    for number, (row, result) in enumerate(zip(rows, results)):
        image = read(row["image"])
        predictor.set_image(image)
        prediction = predictor.segment(row["sentence"])
        mask = read(folder / "out" / row["mask"])
        assert row["mask"] == f"{number:06d}_mask.png"
        assert prediction.mask.any() and not prediction.mask.all()
        # Two sentences at once are the same sums in another order.
        assert np.mean(mask != 255 * prediction.mask) < 0.002
        wanted = visualize.overlay(image, mask > 0)
        np.testing.assert_array_equal(read(folder / "out" / row["overlay"]), wanted)
        assert row["area"] == np.sum(mask > 0) and row["seconds"] > 0
        assert [word["text"] for word in row["words"]] == row[
            "sentence"
        ].lower().split()
        np.testing.assert_array_equal(
            coco_mask.decode(result["segmentation"]), mask > 0
        )
        assert result["bbox"] == row["box"]
        assert result["score"] == row["mean_probability"]
    made = json.loads((folder / "out" / "instances_train.json").read_text())
    sizes = [(im["file_name"], (im["height"], im["width"])) for im in made["images"]]
    assert sizes == list(IMAGES.items())
    for one, result in zip(made["annotations"], results):
        for key in ("image_id", "segmentation", "bbox", "score"):
            assert one[key] == result[key]
    assert [one["sentences"] for one in made["annotations"]] == [
        [sentence] for _, sentence in queries
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_queries_of_a_file(folder, ending):
    queries = [("a.png", 'left, or "right"'), ("b/c.png", " "), ("/d.png", "box")]
    (folder / "asked").mkdir()
    path = folder / "asked" / ("q." + ending)
    if ending == "csv":
        lines = ["sentence,image"]
        lines += ['"{}",{}'.format(s.replace('"', '""'), p) for p, s in queries]
    else:
        lines = [json.dumps({"image": p, "sentence": s}) for p, s in queries] + [""]
    path.write_text("\n".join(lines))
    assert predict.read_queries("asked/q." + ending) == [
        ("asked/a.png", 'left, or "right"'),
        ("asked/b/c.png", " "),
        ("/d.png", "box"),
    ]


def test_what_cannot_be_segmented_is_told_and_the_rest_goes_on(
    predictor, folder, capsys
):
    queries = [("a_12.png", "left"), ("none.png", "box"), ("b_7.png", " ")]
    queries = [predict.Query(*query) for query in queries + [("b_7.png", "box")]]
    rows = predict.predict(predictor, queries, "out")
    assert rows == read_rows("out")
    assert ["error" in row for row in rows] == [False, True, True, False]
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "000000_mask.png",
        "000000_overlay.png",
        "000003_mask.png",
        "000003_overlay.png",
        predict.RECORD,
    ]
    printed = capsys.readouterr().err
    assert "error: there is no image none.png\n" in printed
    assert "error: the sentence ' ' has no words\n" in printed


@pytest.mark.parametrize(
    "options, told",
    [
        ("--image a_12.png --text left ' ' --output out", "--text ' ' has no words"),
        ("--queries q.txt --output out", "must end in .csv or .jsonl"),
        ("--queries q.csv --output out", "there is no file q.csv"),
        ("--queries bad.csv --output out", "bad.csv: entry 1 needs texts for image"),
        ("--queries bad.jsonl --output out", "cannot read bad.jsonl"),
        ("--queries list.jsonl --output out", "cannot read list.jsonl"),
        ("--queries twice.jsonl --output out", "the key 'sentence' stands twice"),
        ("--queries empty.csv --output out", "empty.csv has no entries"),
        ("--queries latin.csv --output out", "cannot read latin.csv"),
        ("--image a_12.png --text left --output full", "full is there already"),
        ("--image a_12.png --text left --output out -i 6", "choose one with -i: 5"),
        (
            "--image a_12.png --text left --output out --coco-images none.json",
            "there is no file none.json",
        ),
        (
            "--image a_12.png --text left --output out --vocabulary bad.csv",
            "bad.csv has 2 words, but",
        ),
    ],
)
def test_mistakes_end_in_a_line(snapshots, folder, capsys, options, told):
    (folder / "bad.csv").write_text("image,text\na_12.png,left\n")
    (folder / "bad.jsonl").write_text('{"image": ')
    (folder / "list.jsonl").write_text("[1]")
    line = '{"image": "a_12.png", "sentence": "left", "sentence": "right"}'
    (folder / "twice.jsonl").write_text(line)
    (folder / "empty.csv").write_text("image,sentence\n")
    (folder / "latin.csv").write_bytes(b"image,sentence\na_12.png,\xe9\n")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    assert run(snapshots, options) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and told in printed
    assert printed.count("\n") == 1 and not (folder / "out").exists()


def leave(folder, *names):
    """Leave files in the folder of a prediction."""
    (folder / "out").mkdir()
    for name in names:
        (folder / "out" / name).write_text("")


def test_prediction_that_was_killed_does_not_stop_the_next(snapshots, folder):
    drawn = [f"000007_{kind}.png" for kind in ("mask", "overlay", "rounds")]
    leave(folder, "000000_mask.png", *drawn, "000007_mask.png.9.part")
    (folder / "out" / ".lock").write_text("99999999 on here")  # what a kill leaves
    assert run(snapshots, "--image a_12.png --text left --output out") == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "000000_mask.png",
        "000000_overlay.png",
        predict.RECORD,
    ]


@pytest.mark.parametrize(
    "more, lock",
    [
        (["000000_mask.png"], None),  # a prediction's, maybe, but not one killed
        (["000000_mask.png", predict.RECORD], "9 on here"),
        (["0_mask.png"], "9 on here"),
        (["mine.png"], "9 on here"),
    ],
)
def test_what_a_kill_did_not_leave_stays(snapshots, folder, capsys, more, lock):
    leave(folder, *more)
    if lock:
        (folder / "out" / ".lock").write_text(lock)
    assert run(snapshots, "--image a_12.png --text left --output out") == 2
    assert "out is there already and not empty" in capsys.readouterr().err
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(more)


def test_folder_of_another_prediction_is_refused(snapshots, folder, capsys):
    with files.locked("out"):
        assert run(snapshots, "--image a_12.png --text left --output out") == 2
    assert "another process writes in out" in capsys.readouterr().err


def test_what_was_found_stays_after_an_interruption(predictor, folder, monkeypatch):
    queries = [predict.Query(name, "left") for name in IMAGES]
    answer = predict._answer

    def interrupted(predictor, path, *others):
        if path == "a_12.png":
            raise KeyboardInterrupt
        return answer(predictor, path, *others)

    monkeypatch.setattr(predict, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(predictor, queries, "out")
    assert [row["image"] for row in read_rows("out")] == ["b_7.png"]


def test_ids_of_a_ground_truth(snapshots, folder, capsys):
    images = [{"id": 3, "file_name": "a_12.png"}, {"id": 12, "file_name": "b_7.png"}]
    (folder / "truth.json").write_text(json.dumps({"images": images}))
    options = "--image b_7.png a_12.png --text left --output out "
    assert run(snapshots, options + "--coco-images truth.json") == 0
    assert "ids in coco_results.json: those of truth.json" in capsys.readouterr().out
    results = json.loads((folder / "out" / "coco_results.json").read_text())
    assert [result["image_id"] for result in results] == [12, 3]


def test_data_set_of_a_turned_image_and_of_nothing_found(
    snapshots, predictor, folder, monkeypatch, capsys
):
    image = Image.fromarray(recipe.image(3, 40, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save("turned.jpg", exif=exif)
    queries = [predict.Query(path, "left") for path in ("turned.jpg", "./turned.jpg")]
    ids = coco.image_ids([query.image for query in queries])
    predict.predict(predictor, queries, "out", coco_ids=ids)
    made = json.loads((folder / "out" / coco.DATA_SET).read_text())
    (about,) = made["images"]
    assert about == {"id": 1, "file_name": "turned.jpg", "width": 40, "height": 90}
    assert [(one["id"], one["image_id"]) for one in made["annotations"]] == [
        (1, 1),
        (2, 1),
    ]
    assert made["annotations"][0]["segmentation"]["size"] == [90, 40]
    monkeypatch.setattr("util.inference.predictor.is_on_object", np.isnan)
    assert run(snapshots, "--image turned.jpg --text left box --output no --coco") == 0
    made = json.loads((folder / "no" / coco.DATA_SET).read_text())
    assert (made["images"], made["annotations"]) == ([about], [])
    assert "; without 2 sentences that found no pixel\n" in capsys.readouterr().out


# --- Broken inputs: a mask or one line, and nothing else


def outcome(predictor, image, sentence):
    """Return the mask that comes out, or the text of the error."""
    try:
        predictor.set_image(image)
        prediction = predictor.segment(sentence)
    except UserError as error:
        return str(error)
    assert isinstance(prediction, Prediction) and prediction.mask.dtype == bool
    assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
    return prediction.mask


def test_there_are_two_hundred_broken_inputs():
    kinds = broken.images(), broken.arrays(), broken.SENTENCES
    assert sum(map(len, kinds)) >= 200


def test_broken_arrays_in_python(predictor):
    good = {"grey", "grey with an axis", "transparent", "view", "Fortran"}
    for name, array in broken.arrays().items():
        found = outcome(predictor, array, "left")
        assert isinstance(found, str) != (name in good), name
        if name in good:
            assert found.shape == np.shape(array)[:2]
        else:
            assert "must be uint8" in found or "pixels" in found or "image" in found


def test_broken_images_and_sentences_in_python_and_on_the_command_line(
    snapshots, predictor, folder, capsys
):
    (folder / "in").mkdir()
    queries = [("b_7.png", sentence) for sentence in broken.SENTENCES]
    for name, content in broken.images().items():
        (folder / "in" / name).write_bytes(content)
        queries.append(("in/" + name, "left box"))
    queries += [("in", "left"), ("none.png", "left"), ("in/../b_7.png", "left")]
    lines = [json.dumps({"image": p, "sentence": s}) for p, s in queries]
    lines = [line for line, query in zip(lines, queries) if query[1]]
    (folder / "q.jsonl").write_text("\n".join(lines))
    before = {path for path in folder.rglob("*")}
    assert run(snapshots, "--queries q.jsonl --output out --coco") == 1
    after = {path for path in folder.rglob("*")} - before
    assert all(str(path).startswith(str(folder / "out")) for path in after)
    rows = read_rows("out")
    made = json.loads((folder / "out" / coco.DATA_SET).read_text())
    with_pixels = [row["sentence"] for row in rows if row.get("area")]
    assert [one["attributes"]["sentence"] for one in made["annotations"]] == with_pixels
    assert len(rows) == len(lines) == len(queries) - 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and "Warning" not in printed.err
    masks = {row["mask"] for row in rows if "mask" in row}
    assert {path.name for path in after if path.name.endswith("_mask.png")} == masks
    for (image, sentence), row in zip((q for q in queries if q[1]), rows):
        found = outcome(predictor, image, sentence)
        if isinstance(found, str):
            assert row["error"] == found and len(found) > 10
        else:
            assert read(folder / "out" / row["mask"]).shape == found.shape
    failed = [row["image"] for row in rows if "error" in row]
    assert 70 < len(failed) < 110
    for name in ("mode_CMYK.jpg", "mode_I_16.png", "mode_P.gif", "size_20000x10.png"):
        assert "in/" + name not in failed
    for name in ("cut_0.png", "cut_40.jpg", "bomb_100000x100000.png", "text.png"):
        assert "in/" + name in failed
