"""util.data.shapes: files, truth of the sentences, and what it takes to answer them."""

import json
import math
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from util.data import annotations, datasets, shapes, shapes_scenes
from util.data.referent import check_files, load

COUNTS = {"train": 9, "val": 3, "test": 3}


def files_under(root):
    """Return relative path -> bytes."""
    found = {}
    for folder, _, names in os.walk(str(root)):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, str(root))] = file.read()
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.draw(str(folder), num_scenes=COUNTS)
    return folder


@pytest.fixture(scope="module")
def refs(root):
    return pickle.loads((root / "refer" / "shapes" / "refs(shapes).p").read_bytes())


@pytest.fixture(scope="module")
def instances(root):
    return json.loads((root / "refer" / "shapes" / "instances.json").read_text())


@pytest.fixture(scope="module")
def scenes():
    """Twenty scenes of each kind."""
    return [
        shapes_scenes.make_scene(np.random.RandomState([7, n]), kind)
        for kind in shapes_scenes.KINDS
        for n in range(20)
    ]


def test_a_sentence_tells_words_of_its_figure_and_of_its_anchor(scenes):
    told = shapes_scenes.told
    assert told("the large red cross") == (["large", "red", "cross"], [])
    assert told("the cross at the left") == (["cross", "left"], [])
    beside = (["red", "cross", "left"], ["small", "blue", "circle"])
    assert told("the red cross that is left of the small blue circle") == beside
    assert told("the square above the cross") == (["square", "above"], ["cross"])
    for scene in scenes:
        for sentence in scene.sentences:
            own, anchor = told(sentence.text)
            assert bool(anchor) == (sentence.kind == "relation")
            look = scene.figures[sentence.target].look
            assert set(own) - set(look) <= {*shapes_scenes.PLACES, "above", "below"}
            words = set(sentence.text.split()) - {"the", "that", "is", "at", "of"}
            assert {*own, *anchor} == words


def test_a_sentence_tells_its_kind(scenes):
    said = [sentence for scene in scenes for sentence in scene.sentences]
    assert len(said) == 3 * 20 * 8
    assert all(shapes_scenes.kind_of(one.text) == one.kind for one in said)


# --- A second reader of the sentences, which shares no code with the first


SLOTS = {
    "size": ["small", "large"],
    "colour": ["red", "green", "blue", "yellow", "purple", "orange"],
    "shape": ["circle", "square", "triangle", "cross"],
    "place": ["top", "bottom", "left", "right"],
    "relation": ["above", "below", "left of", "right of"],
}


def parse(text):
    """Return (words of the description, place, relation, words of the anchor)."""
    related = re.match(
        "the (.+?)(?: that is)? (above|below|left of|right of) the", text
    )
    if related:
        target, relation = related.groups()
        return target.split(), None, relation, text[related.end() :].split()
    placed = re.match("the (top|bottom|left|right) (.+)", text)
    if placed:
        return placed.group(2).split(), placed.group(1), None, None
    placed = re.match("the (.+) at the (top|bottom|left|right)", text)
    if placed:
        return placed.group(1).split(), placed.group(2), None, None
    return text.replace("that is", "").split()[1:], None, None, None


def described(scene, words):
    """Return the numbers of the figures that have all these words."""
    return [n for n, f in enumerate(scene.figures) if set(words) <= set(f.look)]


def angle(figure, anchor, relation):
    """Return the degrees between the relation's direction and the figure's."""
    toward = {"right of": 0, "below": 90, "left of": 180, "above": 270}[relation]
    down, right = figure.row - anchor.row, figure.column - anchor.column
    off = abs(math.degrees(math.atan2(down, right)) - toward) % 360
    return min(off, 360 - off)


def side(figure, place, frame):
    """Return how far towards that side of the image: 0.5 is its rim."""
    row, column = figure.row / frame[0] - 0.5, figure.column / frame[1] - 0.5
    return {"top": -row, "bottom": row, "left": -column, "right": column}[place]


def read(scene, description, place, relation, anchor):
    """Return the numbers of the figures that are meant, and of those in doubt."""
    found = described(scene, description)
    if place:
        leads = {n: side(scene.figures[n], place, scene.frame) for n in found}
        yes = [n for n in found if leads[n] >= 0.1]
        return yes, [n for n in found if abs(leads[n]) < 0.1]
    if relation:
        (base,) = described(scene, anchor)
        others = [n for n in found if n != base]
        off = {
            n: angle(scene.figures[n], scene.figures[base], relation) for n in others
        }
        yes = [n for n in others if off[n] <= 27]
        return yes, [n for n in others if 27 < off[n] < 56]
    return found, []


def variants(scene, text):
    """Return, for each of the two words that count, what else it could have said.

    Lists of parsed sentences which differ from `text` in that word alone.
    """
    description, place, relation, anchor = parse(text)

    def with_other(slot):
        said = next(word for word in description if word in SLOTS[slot])
        for other in SLOTS[slot]:
            words = [other if word == said else word for word in description]
            yield words, place, relation, anchor

    if relation:
        looks = {figure.look for figure in scene.figures}
        anchors = [look for look in looks if len(described(scene, look)) == 1]
        return [
            [(description, None, other, anchor) for other in SLOTS["relation"]],
            [(description, None, relation, other) for other in anchors],
        ]
    if place:
        places = [(description, other, None, None) for other in SLOTS["place"]]
        colour = set(SLOTS["colour"]) & set(description)
        return [places, list(with_other("colour" if colour else "shape"))]
    adjectives = [s for s in ("size", "colour") if set(SLOTS[s]) & set(description)]
    return [list(with_other(slot)) for slot in (adjectives + ["shape"])[:2]]


def test_every_sentence_is_true_of_its_own_figure_alone(scenes):
    for scene in scenes:
        for sentence in scene.sentences:
            assert read(scene, *parse(sentence.text)) == ([sentence.target], [])


def test_a_related_figure_is_never_nearer_than_a_seventh_of_the_image(scenes):
    for scene in scenes:
        for sentence in scene.sentences:
            _, _, relation, anchor = parse(sentence.text)
            if relation:
                here = scene.figures[sentence.target]
                there = scene.figures[described(scene, anchor)[0]]
                axis = relation in ("left of", "right of")
                lead = (here.row - there.row, here.column - there.column)[axis]
                assert abs(lead) > scene.frame[axis] / 7


def test_whoever_ignores_one_of_the_two_words_is_right_half_of_the_time_at_best(scenes):
    """The best IoU without a word is 1 over the figures it could have meant.

    With n such figures, each as likely, any union U of some of them scores
    sum(area / area of U) / n = 1 / n in the mean, and no other mask more.
    """
    bounds = {kind: [] for kind in shapes_scenes.KINDS}
    for scene in scenes:
        for sentence in scene.sentences:
            for said in variants(scene, sentence.text):
                answers = [read(scene, *parsed) for parsed in said]
                meant = {
                    yes[0] for yes, doubt in answers if len(yes) == 1 and not doubt
                }
                assert sentence.target in meant
                bounds[sentence.kind].append(1 / len(meant))
    for kind, bound in bounds.items():
        assert np.max(bound) <= 0.5, kind


def test_a_relation_has_a_twin_on_the_other_side(scenes):
    opposite = {"above": "below", "left of": "right of"}
    opposite.update({there: here for here, there in opposite.items()})
    relations = [
        (scene, sentence)
        for scene in scenes
        for sentence in scene.sentences
        if sentence.kind == "relation"
    ]
    twins = 0
    for scene, sentence in relations:
        words, _, relation, anchor = parse(sentence.text)
        twins += len(read(scene, words, None, opposite[relation], anchor)[0]) == 1
    # A few have theirs at a right angle instead: a twin serves as an anchor there.
    assert twins >= 0.95 * len(relations)


def test_each_image_answers_four_ways_and_each_answer_has_two_sentences(scenes):
    for scene in scenes:
        texts = {}
        for sentence in scene.sentences:
            texts.setdefault(sentence.target, set()).add(sentence.text)
        assert [len(said) for said in texts.values()] == [2, 2, 2, 2]


def test_kinds_are_what_the_sentences_are(scenes):
    for scene in scenes:
        for sentence in scene.sentences:
            _, place, relation, _ = parse(sentence.text)
            kind = "relation" if relation else "place" if place else "attribute"
            assert sentence.kind == kind


def test_figures_lie_apart_and_inside_and_are_large(scenes):
    shares = []
    for scene in scenes:
        assert 4 <= len(scene.figures) <= 6
        assert all(150 <= side <= 200 for side in scene.frame)
        covered = np.zeros(scene.frame, int)
        for figure in scene.figures:
            low, high = {"small": (28, 34), "large": (48, 60)}[figure.look.size]
            assert low <= figure.span <= high
            corners = shapes.outline(figure)
            assert corners.min() > 0 and (corners < scene.frame[::-1]).all()
            covered += coco_mask.decode(
                coco_mask.frPyObjects([corners.ravel().tolist()], *scene.frame)
            )[:, :, 0]
        assert covered.max() == 1
        shares.append(covered.mean() / len(scene.figures))
    assert 0.035 < np.mean(shares) < 0.06


def test_every_word_is_in_the_vocabulary(root, scenes):
    words = (root / "vocabulary_shapes.txt").read_text().split("\n")
    assert words[:4] == ["<pad>", "<go>", "<eos>", "<unk>"]
    assert words.pop() == ""
    assert words == shapes_scenes.vocabulary()
    assert words[4:] == sorted(set(words[4:]))
    said = {
        word for scene in scenes for s in scene.sentences for word in s.text.split()
    }
    assert said == set(words[4:])


# --- Files


def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    shapes.draw(str(tmp_path / "again"), num_scenes=COUNTS)
    assert files_under(tmp_path / "again") == files_under(root)
    shapes.draw(str(tmp_path / "other"), seed=1, num_scenes=COUNTS)
    other = files_under(tmp_path / "other")
    same = {
        path for path, content in files_under(root).items() if other[path] == content
    }
    assert same == {"vocabulary_shapes.txt"}


def test_a_scene_does_not_depend_on_the_number_of_others(root, tmp_path):
    shapes.draw(str(tmp_path), num_scenes={"test": 1})
    alone = (tmp_path / "shapes" / "images" / "000000000001.jpg").read_bytes()
    first = COUNTS["train"] + COUNTS["val"] + 1
    together = root / "shapes" / "images" / f"{first:012d}.jpg"
    assert alone == together.read_bytes()


def test_a_finished_one_is_left_alone(tmp_path):
    shapes.draw(str(tmp_path), num_scenes={"val": 1})
    before = files_under(tmp_path)
    shapes.draw(str(tmp_path), seed=1, num_scenes=COUNTS)
    assert files_under(tmp_path) == before


def test_an_interrupted_one_is_drawn_again(root, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shapes.json, "dump", interrupt)
        with pytest.raises(KeyboardInterrupt):
            shapes.draw(str(tmp_path), seed=1, num_scenes=COUNTS)
    assert not any("refs" in path or "json" in path for path in files_under(tmp_path))
    shapes.draw(str(tmp_path), num_scenes=COUNTS)
    assert files_under(tmp_path) == files_under(root)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="testA"):
        shapes.draw(str(tmp_path), num_scenes={"testA": 1})


def test_refs_are_plain_and_complete(root, refs, instances):
    raw = (root / "refer" / "shapes" / "refs(shapes).p").read_bytes()
    assert raw[:2] == b"\x80\x02"  # protocol 2, which Python 2 reads as well
    assert b"numpy" not in raw
    assert [ref["ref_id"] for ref in refs] == list(range(4 * sum(COUNTS.values())))
    annotations = {entry["id"]: entry for entry in instances["annotations"]}
    sent_ids = []
    for ref in refs:
        assert set(ref) == {
            *("sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split"),
            *("category_id", "sentences"),
        }
        annotation = annotations[ref["ann_id"]]
        assert ref["image_id"] == annotation["image_id"]
        assert ref["category_id"] == annotation["category_id"]
        assert ref["sent_ids"] == [said["sent_id"] for said in ref["sentences"]]
        sent_ids += ref["sent_ids"]
        for said in ref["sentences"]:
            assert set(said) == {"tokens", "raw", "sent_id", "sent"}
            assert said["sent"] == said["raw"] == " ".join(said["tokens"])
    assert sent_ids == list(range(8 * sum(COUNTS.values())))


def test_kinds_and_splits_have_their_shares(refs):
    sentences = {split: [] for split in COUNTS}
    for ref in refs:
        sentences[ref["split"]] += [parse(said["sent"]) for said in ref["sentences"]]
    for split, parsed in sentences.items():
        assert len(parsed) == 8 * COUNTS[split]
        third = len(parsed) // 3
        assert sum(place is not None for _, place, _, _ in parsed) == third
        assert sum(relation is not None for _, _, relation, _ in parsed) == third


def test_a_ref_is_about_a_figure_of_its_name(refs, instances):
    names = {entry["id"]: entry["name"] for entry in instances["categories"]}
    for ref in refs:
        for said in ref["sentences"]:
            nouns = [word for word in said["tokens"] if word in names.values()]
            assert nouns[0] == names[ref["category_id"]]


def decode(segmentation, height, width):
    """Return bool [H, W], the way pycocotools.coco does it."""
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def test_masks_agree_with_the_images(root, instances):
    """The ground is greyish: what has a strong colour is figure.

    Half a pixel of doubt along its edge is 8 % of the smallest triangle, and JPEG keeps
    colours at half the resolution; 0.887 was seen.
    """
    forms = set()
    for image in instances["images"]:
        file = Image.open(str(root / "shapes" / "images" / image["file_name"]))
        assert file.size == (image["width"], image["height"])
        pixels = np.asarray(file).astype(int)
        coloured = np.ptp(pixels, axis=2) > 70
        for entry in instances["annotations"]:
            if entry["image_id"] != image["id"]:
                continue
            forms.add(str(type(entry["segmentation"])))
            if isinstance(entry["segmentation"], dict):
                forms.add(str(type(entry["segmentation"]["counts"])))
            mask = decode(entry["segmentation"], image["height"], image["width"])
            assert entry["area"] == mask.sum()
            left, top, width, height = entry["bbox"]
            rows, columns = np.nonzero(mask)
            first, last = [columns.min(), rows.min()], [columns.max(), rows.max()]
            # Whole pixels; the tip of a triangle covers none for another one.
            np.testing.assert_allclose(first, [left, top], atol=2)
            np.testing.assert_allclose(last, [left + width, top + height], atol=2)
            box = np.zeros_like(mask)
            box[first[1] - 2 : last[1] + 3, first[0] - 2 : last[0] + 3] = True
            drawn = coloured & box
            assert (mask & drawn).sum() / (mask | drawn).sum() > 0.87
    assert forms == {str(form) for form in (list, dict, str)}


@pytest.mark.parametrize("split", sorted(COUNTS))
def test_the_loader_of_refcoco_reads_it(root, refs, instances, split):
    areas = {entry["id"]: entry["area"] for entry in instances["annotations"]}
    expected = [ref for ref in refs if ref["split"] == split]
    referents = annotations.referents(datasets.get("shapes", str(root)), split)
    check_files(referents)
    assert len(referents) == len(expected) == 4 * COUNTS[split]
    for referent, ref in zip(referents, expected):
        assert referent.sentences == [said["sent"] for said in ref["sentences"]]
        image, (mask,), _ = load([referent])
        assert image.shape == mask.shape + (3,)
        assert mask.sum() == areas[ref["ann_id"]]


def test_its_splits_are_those_of_the_table():
    assert set(shapes.SCENES) == set(datasets.DATASETS["shapes"].splits)


def test_figures_have_the_colour_and_size_that_sentences_say(root, refs, instances):
    annotations = {entry["id"]: entry for entry in instances["annotations"]}
    for ref in refs:
        path = root / "shapes" / "images" / "{:012d}.jpg".format(ref["image_id"])
        pixels = np.asarray(Image.open(str(path))).astype(int)
        entry = annotations[ref["ann_id"]]
        mask = decode(entry["segmentation"], *pixels.shape[:2])
        mean = pixels[mask].mean(axis=0)
        distance = {n: np.abs(mean - c).max() for n, c in shapes_scenes.COLOURS.items()}
        colour = min(distance, key=distance.get)
        size = "large" if entry["bbox"][2] > 41 else "small"
        for said in ref["sentences"]:
            words = parse(said["sent"])[0]
            assert set(words) & set(SLOTS["colour"]) <= {colour}
            assert set(words) & set(SLOTS["size"]) <= {size}
