"""util.data.forms: each form that people have gives the right masks."""

import json
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Dict, List, NamedTuple

import numpy as np
import pytest
import recipe
import tiny_sets
from on_disk import read_all
from PIL import Image

import build_batches
from util import vocabulary

TOP = Path(__file__).resolve().parents[2]
SIZE = (40, 60)
OF_COCO = "COCO_train2014_000000000009.jpg"
BOX = [[10, 5, 30, 5, 30, 20, 10, 20]]
LEFT = tiny_sets.box(*SIZE, (5, 20, 10, 30))
RIGHT = tiny_sets.box(*SIZE, (30, 35, 40, 50))
BOTH, NOTHING = LEFT | RIGHT, LEFT & RIGHT
RUNS = tiny_sets.compressed(RIGHT)
LINES = [RUNS, tiny_sets.run_lengths(LEFT)]  # a list of run lengths, which are united
SHOWN = {"id": 9, "file_name": OF_COCO, "height": 40, "width": 60}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".p":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(json.dumps(content))
    return path


def coco(annotations, **image):
    """Return a COCO file of one image; annotations are (segmentation, what else)."""
    return {
        "images": [dict(SHOWN, **image)],
        "annotations": [
            dict(more, id=number, image_id=9, segmentation=mask, iscrowd=0)
            for number, (mask, more) in enumerate(annotations, 1)
        ],
    }


INSTANCES = coco([(BOX, {}), (RUNS, {}), (LINES, {})])


def ref(number, ann_id, text, **more):
    return dict(
        more,
        ref_id=number,
        ann_id=ann_id,
        image_id=9,
        split="val",
        file_name="COCO_train2014_000000000009_0.jpg",
        sentences=[{"sent": text, "raw": text, "sent_id": number}],
    )


def refs(folder, name, content):
    write(folder / "instances.json", INSTANCES)
    return write(folder / name, content)


def refclef(folder):
    return refs(folder, "refs(unc).p", [ref(0, 3, "both"), ref(1, 1, "left")])


def rrsisd(folder):
    instances = coco([(LINES, {}), (BOX, {})], file_name="00001.jpg")
    write(folder / "instances.json", instances)
    (folder / "images" / OF_COCO).rename(folder / "images" / "00001.jpg")
    content = [ref(0, 1, "both"), ref(1, 2, "left")]
    return write(folder / "refs(unc).p", content)


def grefcoco(folder, name="grefs(unc).json"):
    content = [
        ref(0, [1, 2], "both", category_id=[5, 5], no_target=False),
        ref(1, [1], "left", category_id=[5], no_target=False),
        ref(2, [-1], "nothing", category_id=[-1], no_target=True),
        ref(3, [], "nothing"),
    ]
    return refs(folder, name, content)


def grefcoco_pickle(folder):
    return grefcoco(folder, "grefs(unc).p")


def uninext(folder):
    content = coco([(LINES, {}), (BOX, {})])
    content["images"] = [
        dict(SHOWN, id=id_, expressions=texts)
        for id_, texts in ((1, ["both"]), (2, ["left"]))
    ]
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["image_id"] = number
    return write(folder / "instances_val.json", content)


def seqtr(folder):
    item = {"image_id": 9, "height": 40, "width": 60, "category_id": 1, "bbox": [0] * 4}
    content = {
        "train": [dict(item, mask=BOX, expressions=["not this"])],
        "val": [
            dict(item, mask=LINES, expressions=["both"]),
            dict(item, mask=tiny_sets.run_lengths(LEFT), expressions=["left"]),
        ],
    }
    return write(folder / "instances.json", content)


def cris(folder):
    for number, mask in ((11, BOTH), (12, LEFT)):
        path = folder / "masks" / "refcoco" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(str(path))
    content = [
        {
            "bbox": [0, 0, 9, 9],
            "cat": 1,
            "segment_id": number,
            "img_name": OF_COCO,
            "sentences": [{"idx": 0, "sent_id": number, "sent": text}],
            "sentences_num": 1,
        }
        for number, text in ((11, "both"), (12, "left"))
    ]
    return write(folder / "anns" / "refcoco" / "val.json", content)


def cvat(folder):
    def attributes(text):
        return {"attributes": {"occluded": False, "rotation": 0.0, "description": text}}

    content = coco([(LINES, attributes("both")), (BOX, attributes("left"))])
    content["annotations"].append(
        {"id": 3, "image_id": 9, "segmentation": BOX, **attributes("")}
    )
    return write(folder / "instances_val.json", content)


def datumaro(folder):
    texts = [{"attributes": {"color": "red", "sentence": t}} for t in ("both", "left")]
    content = coco([(LINES, texts[0]), (BOX, texts[1])])
    return write(folder / "instances_val.json", content)


def fiftyone(folder):
    content = coco([(LINES, {"caption": "both"}), (BOX, {"caption": "left"})])
    content["annotations"][0]["segmentation"] = tiny_sets.run_lengths(BOTH)
    content["annotations"].append({"id": 3, "image_id": 9, "bbox": [1, 1, 2, 2]})
    return write(folder / "val.json", content)


def ours(folder):
    items = [
        {"image": OF_COCO, "split": "val", "sentences": [text], "segmentation": mask}
        for text, mask in (("both", LINES), ("left", BOX))
    ]
    del items[0]["segmentation"]
    nothing = dict(items[0], sentences=["nothing"], no_target=True)
    items[0]["segmentation"] = LINES
    return items + [nothing, dict(nothing, segmentation=[])]


def json_lines(folder):
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, ours(folder))) + "\n\n")
    return path


def marked(folder):
    path = folder / "mine.json"
    path.write_text(json.dumps(ours(folder)), encoding="utf-8-sig")
    return path


def marked_lines(folder):
    path = json_lines(folder)
    path.write_text(path.read_text(), encoding="utf-16")
    return path


def our_coco(folder):
    content = coco([(LINES, {"sentences": ["both"]}), (BOX, {"sentences": ["left"]})])
    content["annotations"] += [
        {"id": 3, "image_id": 9, "sentences": ["nothing"], "no_target": True}
    ] * 2
    content["annotations"][3] = dict(content["annotations"][3], id=4)
    content["images"][0]["split"] = "val"
    return write(folder / "mine.json", content)


WITH_NOTHING = [grefcoco, grefcoco_pickle, json_lines, marked, marked_lines, our_coco]
WITHOUT = [refclef, rrsisd, uninext, seqtr, cris, cvat, datumaro, fiftyone]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "images").mkdir()
    image = Image.fromarray(recipe.image(1, *SIZE))
    image.save(str(tmp_path / "images" / OF_COCO))
    tiny_sets.write_vocabulary(tmp_path / "vocabulary_mine.txt")
    return tmp_path


def build(data, path, *more, split="val"):
    """Run the command; return its exit code."""
    options = f"-d mine -t {split} -j 1 --data {data} --images {data / 'images'}"
    return build_batches.main([*options.split(), "--annotations", str(path), *more])


def told(capsys):
    """Return the one line of an error."""
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("layout", [[], ["--compact"]])
@pytest.mark.parametrize("form", WITH_NOTHING + WITHOUT)
def test_masks_are_the_right_pixels(data, form, layout):
    assert build(data, form(data), *layout) == 0
    samples = read_all(str(data / "mine" / "val_batch"), "mine_val")
    expected = [("both", BOTH), ("left", LEFT)]
    expected += [("nothing", NOTHING)] * 2 if form in WITH_NOTHING else []
    assert len(samples) == len(expected)
    for sample, (text, mask) in zip(samples, expected):
        assert sample["sent_batch"] == [text]
        np.testing.assert_array_equal(sample["mask_batch"], mask)


class Frame(NamedTuple):
    """As much of pandas' DataFrame as the snippet needs."""

    rows: List[Dict]

    def to_dict(self, orient):
        assert orient == "records"
        return self.rows


def parquet_rows():
    """Return rows of jxu124/refcoco: texts of JSON, and arrays where lists were."""
    info = {
        "license": 1,
        "file_name": OF_COCO,
        "coco_url": f"http://images.cocodataset.org/train2014/{OF_COCO}",
        "height": 40,
        "width": 60,
        "date_captured": "2013-11-18 02:53:27",
        "id": 9,
    }
    for number, (mask, texts) in enumerate([(BOX, ["Left", "the box"]), (RUNS, ["r"])]):
        annotation = {"segmentation": mask, "area": 704.5, "iscrowd": 0, "image_id": 9}
        sentences = [
            {"raw": text + "!", "sent": text.lower(), "sent_id": 0, "tokens": ["a"]}
            for text in texts
        ]
        yield {
            "sent_ids": np.arange(len(texts)),
            "file_name": f"COCO_train2014_000000000009_{number}.jpg",
            "ann_id": number + 1,
            "image_id": 9,
            "split": "testA",
            "sentences": np.array(sentences, object),
            "raw_anns": json.dumps(dict(annotation, category_id=1, id=number + 1)),
            "raw_image_info": json.dumps(info),
            "bbox": np.array([20.0, 5.0, 20.0, 15.0]),
        }


def test_snippet_for_parquet(data, monkeypatch):
    """The code in data/README.md, with a stand-in for the reader of pandas."""
    rows = list(parquet_rows())
    for name, some in (("test-00000.parquet", rows[:1]), ("val-0.parquet", rows[1:])):
        write(data / "refcoco" / "data" / name, []).write_bytes(pickle.dumps(some))
    pandas = types.ModuleType("pandas")
    pandas.read_parquet = lambda path: Frame(pickle.loads(Path(path).read_bytes()))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.chdir(str(data))
    readme = (TOP / "data" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    exec(compile(code, "data/README.md", "exec"), {})
    assert len(code.splitlines()) <= 15
    assert build(data, "refcoco.jsonl", split="testA") == 0
    samples = read_all(str(data / "mine" / "testA_batch"), "mine_testA")
    expected = [("left", LEFT), ("the box", LEFT), ("r", RIGHT)]
    assert [sample["sent_batch"] for sample in samples] == [[t] for t, _ in expected]
    for sample, (_, mask) in zip(samples, expected):
        np.testing.assert_array_equal(sample["mask_batch"], mask)


@pytest.mark.parametrize("form", WITH_NOTHING + WITHOUT)
def test_vocabulary_reads_the_same_forms(data, form):
    sentences = vocabulary.read_sentences(str(form(data)))
    if form is seqtr:
        assert sentences == ["not this"]
    else:
        assert sentences[:2] == ["both", "left"]


# --- What files do not say, or say twice


def test_folder_of_files_has_a_split_a_file(data):
    cris(data)
    folder = data / "anns" / "refcoco"
    (folder / "val.json").rename(folder / "testA.json")
    cris(data)
    (folder / "notes.txt").write_text("no annotations")
    assert build(data, folder) == build(data, folder, split="testA") == 0
    found = read_all(str(data / "mine" / "testA_batch"), "mine_testA")
    np.testing.assert_array_equal(found[0]["mask_batch"], BOTH)


def test_chosen_attribute_is_told(data, capsys):
    assert build(data, cvat(data)) == 0
    told = "instances_val.json: the sentences are those of attributes.description"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("name, code", [("sentence", 0), ("note", 2)])
def test_several_attributes_are_no_guess(data, capsys, name, code):
    both = {"attributes": {"color": "red", name: "both"}}
    path = write(data / "instances_val.json", coco([(LINES, both)]))
    assert build(data, path) == code
    if code:
        assert "which attribute has the sentences, color, note? Call" in told(capsys)


def of_tool(text, **more):
    """Return what -m predict writes of a sentence, or what a label tool left of it."""
    return dict(more, attributes={"sentence": text, "occluded": "false"})


def test_what_was_added_in_a_label_tool_counts_beside_what_was_predicted(data):
    predicted, added = of_tool("both", sentences=["both"]), of_tool("left")
    path = write(data / "val.json", coco([(LINES, predicted), (BOX, added)]))
    assert build(data, path) == 0
    found = read_all(str(data / "mine" / "val_batch"), "mine_val")
    assert [one["sent_batch"] for one in found] == [["both"], ["left"]]
    for one, mask in zip(found, (BOTH, LEFT)):
        np.testing.assert_array_equal(one["mask_batch"], mask)


def test_empty_sentences_of_a_label_tool_are_left_out_and_told(data, capsys):
    empty = [(BOX, of_tool(text)) for text in ("", " ")] + [(BOX, {"sentence": None})]
    path = write(data / "val.json", coco([(LINES, of_tool("both")), *empty]))
    assert build(data, path) == 0
    printed = capsys.readouterr()
    assert "mine val: built, 1 samples" in printed.out
    assert (
        f"warning: {path}: 3 annotations whose sentence is empty are left out: "
        "annotation 2, annotation 3, annotation 4\n"
    ) in printed.err


@pytest.mark.parametrize(
    "texts, told_of",
    [
        ({"sentences": ["both"], **of_tool("left")}, "attributes.sentence is 'left'"),
        ({"sentences": ["both"], "sentence": "left"}, "sentence is 'left'"),
        ({"sentences": [{"sent": "both"}], **of_tool("")}, "attributes.sentence is ''"),
        ({"sentence": "both", **of_tool("left")}, "attributes.sentence is 'left'"),
        ({"sentences": ["left", "both"], **of_tool("left")}, None),
        ({"sentences": ["both"], "sentence": "both", **of_tool("both")}, None),
        ({"sentences": None, "sentence": "both"}, None),
        ({"sentences": ["both"], "attributes": {"color": "red"}}, None),
    ],
)
def test_sentence_that_was_corrected_in_one_of_two_places(data, capsys, texts, told_of):
    path = write(data / "val.json", coco([(LINES, texts)]))
    if told_of is None:
        assert build(data, path) == 0
    else:
        assert build(data, path) == 2
        line = told(capsys)
        assert f"annotation 1: {next(iter(texts))} is 'both', but {told_of}: " in line


def test_sentences_of_an_image_with_several_annotations_are_no_guess(data, capsys):
    content = coco([(LINES, {}), (BOX, {})], expressions=["both"])
    assert build(data, write(data / "val.json", content)) == 2
    assert "image 9 has expressions and several annotations" in told(capsys)


@pytest.mark.parametrize(
    "name, refs",
    [
        ("finetune_refcoco_val.json", "refcoco/refs(unc).p"),
        ("finetune_refcoco+_val.json", "refcoco+/refs(unc).p"),
        ("finetune_refcocog_val.json", "refcocog/refs(umd).p"),
        ("mine.json", "refcoco/refs(unc).p"),
    ],
)
def test_boxes_of_mdetr_are_refused_with_the_file_that_has_masks(
    data, capsys, name, refs
):
    content = coco([([], {"original_id": 7})], caption="left", original_id=9)
    del content["annotations"][0]["segmentation"]
    assert build(data, write(data / name, content)) == 2
    line = told(capsys)
    assert (
        f"{name} has boxes, no masks, as MDETR's files do: take" in line
        and refs in line
    )


def test_captions_without_masks_are_refused(data, capsys):
    content = coco([([], {"caption": "a street"})])
    assert build(data, write(data / "val.json", content)) == 2
    assert "has sentences, but no annotation has a segmentation" in told(capsys)


@pytest.mark.parametrize(
    "form, changes, reason",
    [
        (ours, {"no_target": True}, "its no_target is true, but it has a mask"),
        (ours, {"no_target": "no"}, "its no_target is 'no', not true or false"),
        (ours, {"segmentation": []}, '"no_target": true says that nothing is meant'),
        (cris, {"segment_id": "../11"}, "its segment_id '../11' is no number"),
        (cris, {"segment_id": 7}, "there is no file "),
        (grefcoco, {"no_target": True}, "its no_target is True, but its ann_id [1, 2]"),
        (grefcoco, {"ann_id": [-1]}, "its no_target is False, but its ann_id []"),
        (grefcoco, {"ann_id": [1, -1]}, "has no annotation -1 in"),
        (grefcoco, {"ann_id": [[1]]}, "its ann_id [[1]] is no list of ids"),
        (seqtr, {"image_id": -9}, "its image None is not a path"),
    ],
)
def test_contradictions_are_refused(data, capsys, form, changes, reason):
    made = form(data)
    content = made if isinstance(made, list) else json.loads(made.read_text())
    entries = content["val"] if isinstance(content, dict) else content
    entries[0].update(changes)
    path = data / "mine.json" if isinstance(made, list) else made
    assert build(data, write(path, content)) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_line_that_is_no_json_is_told_by_its_number(data, capsys):
    path = json_lines(data)
    path.write_text(path.read_text() + "{\n")
    assert build(data, path) == 2
    assert "mine.jsonl: line 6 is damaged: Expecting" in told(capsys)


# --- All that is wrong, in one run


def damaged(data):
    """Write a file of 16 entries, 13 of them wrong, each in another way."""
    sound = dict(ours(data)[1], sentences=["left", "box"])
    (data / "images" / "half.jpg").write_bytes(
        (data / "images" / OF_COCO).read_bytes()[:500]
    )
    Image.new("RGB", (60, 40)).save(str(data / "other.png"))
    wrong = [
        {"split": 3},
        {"sentences": "left"},
        {"sentences": ["left", "."]},
        {"image": "../a.jpg"},
        {"image": "none.jpg"},
        {"image": "half.jpg"},
        {"segmentation": []},
        {"segmentation": [[3, 3, 4, 4]]},
        {"segmentation": [[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]]},
        {"segmentation": dict(RUNS, counts="~~")},
        {"segmentation": {"size": [40, 60], "counts": [2400.5, -0.5]}},
        {"segmentation": {"size": [9, 9], "counts": [81]}},
        {"no_target": True},
    ]
    items = [sound, *(dict(sound, **changes) for changes in wrong[:6])]
    items += [dict(sound, sentences=["the"], segmentation=LINES)]
    items += [dict(sound, **changes) for changes in wrong[6:]] + [sound]
    return write(data / "mine.json", items)


def test_all_entries_of_wrong_form_are_told_in_one_run(data, capsys):
    assert build(data, damaged(data)) == 2
    line = told(capsys)
    assert line.startswith("error: 4 entries are wrong: ")
    for number in (1, 2, 4, 14):
        assert f"mine.json: entry {number}: " in line


def test_all_entries_that_cannot_be_built_are_told_in_one_run(data, capsys):
    path = damaged(data)
    items = json.loads(path.read_text())
    path.write_text(json.dumps([items[n] for n in (0, 7, 8, 9, 10, 11, 12, 13, 15)]))
    assert build(data, path) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: 6 entries are wrong: ")
    assert "(--skip-damaged leaves out what is wrong)" in line
    assert all(f"mine.json: entry {number}: " in line for number in range(2, 8))


def test_the_first_ten_are_told_and_how_many(data, capsys):
    path = write(data / "mine.json", [dict(ours(data)[0], image=None)] * 12)
    assert build(data, path) == 2
    line = told(capsys)
    assert "12 entries are wrong: " in line and line.rstrip().endswith("and 2 more")
    assert line.count("mine.json: entry ") == 10


@pytest.mark.parametrize("layout", [[], ["--compact"]])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_skip_damaged_leaves_out_and_counts(data, capsys, layout, jobs):
    path, options = damaged(data), [*layout, "-j", jobs]
    assert build(data, path, "--skip-damaged", *options) == 0
    printed = capsys.readouterr()
    assert "mine val: built, 5 samples" in printed.out
    last = printed.err.splitlines()[-1]
    assert last.startswith("warning: 13 entries are left out: 13 entries are wrong: ")
    assert last.endswith("and 3 more")
    folder = data / "mine" / "val_batch"
    assert json.loads((folder / "build.json").read_text())["skipped"] == 13
    samples = read_all(str(folder), "mine_val")
    texts = [sample["sent_batch"][0] for sample in samples]
    assert texts == ["left", "box", "the", "left", "box"]
    for sample, mask in zip(samples, (LEFT, LEFT, BOTH, LEFT, LEFT)):
        np.testing.assert_array_equal(sample["mask_batch"], mask)
    assert build(data, path, "--skip-damaged", *options) == 0
    assert "mine val: already complete, 5 samples" in capsys.readouterr().out
    items = json.loads(path.read_text())
    path.write_text(json.dumps(items[:1] + items[7:9] + items[-1:]))
    assert build(data, path, *options) == 2
    assert "was built with other annotations" in told(capsys)


def test_what_was_left_out_is_not_forgotten(data, capsys):
    items = [ours(data)[1], dict(ours(data)[1], segmentation=[[1, 1]])]
    path = write(data / "mine.json", items)
    assert build(data, path, "--skip-damaged") == 0
    capsys.readouterr()
    assert build(data, path) == 2
    line = told(capsys)
    assert "built without 1 entries that were wrong, now it would be without 0" in line


def test_nothing_sound_is_told(data, capsys):
    path = write(data / "mine.json", [dict(ours(data)[1], segmentation=[[1, 1]])])
    assert build(data, path, "--skip-damaged") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "have no sentences for val; left out: " in line and "entry 0" in line


def test_malformed_run_lengths_never_reach_pycocotools(data):
    """Some thousands of them in one process abort it."""
    random, items = np.random.RandomState(0), [ours(data)[1]]
    for number in range(5000):
        counts = bytearray(RUNS["counts"].encode("ascii"))
        for place in random.randint(0, len(counts), 1 + number % 3):
            counts[place] = random.randint(33, 127)
        counts = bytes(counts[: number % 7 or None]).decode("ascii")
        items.append(dict(items[0], segmentation={"size": SIZE, "counts": counts}))
    options = f"-d mine -t val --data {data} --images {data}/images -j 1 --skip-damaged"
    path = write(data / "mine.json", items)
    command = [sys.executable, "build_batches.py", *options.split(), "--annotations"]
    done = subprocess.run([*command, str(path)], stderr=subprocess.PIPE, cwd=TOP)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((data / "mine" / "val_batch" / "build.json").read_text())
    assert record["skipped"] > 4900
    assert record["skipped"] + record["sentences"] == 5001
