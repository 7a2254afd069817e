"""Examples in a report: sentences of a test, segmented again and shown as HTML."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageColor

from util.core.errors import UserError
from util.data import datasets, im_processing, text_processing
from util.evaluation import breakdown, evaluate
from util.evaluation.breakdown import Row
from util.evaluation.eval_tools import (
    BASE,
    WITH_CRF,
    WITHOUT_CRF,
    Scores,
    compute_mask_IU,
)
from util.evaluation.html import Html, element, join, photo, swatch
from util.inference import dense_crf, visualize
from util.inference.prediction import Word, read_words
from util.inference.predictor import Predictor, check_samples, rule_of

NUMBER = 4  # of each kind
NEAR = 0.01  # IoU: what may differ between two runs of the same network
SIDE = 320  # pixels, the longer one of an image
ARROW = "\u2192"
KINDS = {
    "best": "The best",
    "worst": "The worst",
    "random": "Chosen by chance",
}
CLASSES = {
    "entity": "what the object is",
    "attribute": "how it looks",
    "relation": "how it stands to others",
    "unnecessary": "says nothing about it",
}
ATTENTION = (
    "Round by round: heat_N is where round N sees what the words say, round_N what it "
    "answers, in the last round called answer. The stronger the colour of a word, the "
    "more it counts in the last round; pointing at a word shows the attention of all "
    "rounds."
)
FAINTEST, STRONGEST = 0.08, 0.6  # of a word's colour: the text stays readable


class Example(NamedTuple):
    """One sentence with all that can be shown of it.

    Attributes:
      row: of the record, see `evaluate.Results.samples`.
      image: uint8 [H, W, 3], RGB.
      true: bool [H, W], the true mask.
      masks: WITHOUT_CRF, also WITH_CRF and BASE -> bool [H, W], as they are found now.
      words: those that the network read, in order.
      unread: the others.
      ious: of these masks, 0..1.
      levels: name -> float32 [H, W], 0..1, of `Predictor.levels` where the model has
        rounds; on the image as the network sees it.
    """

    row: Row
    image: np.ndarray
    true: np.ndarray
    masks: Dict[str, np.ndarray]
    words: List[Word]
    unread: List[str]
    ious: Dict[str, float]
    levels: Dict[str, np.ndarray] = {}  # noqa: RUF012

    @property
    def is_as_recorded(self) -> bool:
        """Whether these masks are as good as those of the test."""
        return all(
            abs(iou - _iou(**self.row[kind])) <= NEAR for kind, iou in self.ious.items()
        )


# --- Choosing and segmenting


def find(
    snapshot: str,
    dataset: datasets.Dataset,
    record: Dict[str, Any],
    precision: str = "float32",
    crf_backend: str = "own",
    model: Optional[str] = None,
) -> Dict[str, List[Example]]:
    """Choose sentences of a test and segment them again.

    Args:
      snapshot: path of the snapshot that was tested.
      dataset: what it was tested on.
      record: of the test, with samples, see `breakdown.read_record`.
      precision: see `session.new_session`.
      crf_backend: see `dense_crf.refine`.
      model: name of the one that the snapshot must be of; None: any.

    Returns:
      "best", "worst" and "random" -> examples.

    Raises:
      UserError: the snapshot or the samples are gone, or are not those of the test.
    """
    kind = breakdown.last_kind(record)
    chosen = breakdown.choose(record["samples"], kind, NUMBER)
    rows = {row["number"]: row for some in chosen.values() for row in some}
    check_samples(snapshot, dataset, record["split"])
    samples = _read(dataset, record["split"], rows)
    with Predictor(snapshot, precision=precision, model=model) as predictor:
        classes = predictor.word_classes
        if kind == WITH_CRF:
            with dense_crf.Workers(1, crf_backend) as workers:
                found = list(evaluate.find_masks([predictor], samples, workers))
        else:
            found = list(evaluate.find_masks([predictor], samples))
    empty_below = record.get("empty_below", 0)  # older records have none
    found = [evaluate.as_counted(one, empty_below) for one in found]
    how = classes, rule_of(snapshot, dataset.root)
    examples = {one.number: _example(one, rows[one.number], *how) for one in found}
    return {
        name: [examples[row["number"]] for row in some] for name, some in chosen.items()
    }


def _read(dataset, split, rows):
    """Read the samples of rows, and refuse those that the test did not see."""
    samples, read = dataset.samples(split), []
    for number, row in rows.items():
        sample = samples.read(number) if number < len(samples) else None
        if sample is None or _of(sample) != (
            row["sentence"],
            (row["height"], row["width"]),
        ):
            raise UserError(
                f"the samples in {dataset.sample_dir(split)} are not those of the test "
                f"(number {number} is another)"
            )
        read.append((number, sample))
    return read


def _of(sample):
    return str(sample["sent_batch"][0]), sample["mask_batch"].shape


def _example(result, row: Row, classes: Sequence[str], rule: str) -> Example:
    sample, true = result.sample, result.sample["mask_batch"]
    ids, weights = sample["text_batch"], result.word_weights
    how = dict(rule=rule, attention=result.attention)
    words = read_words(row["sentence"], ids, weights, classes, **how)
    unread = text_processing.tokenize(row["sentence"], rule)[len(words) :]
    ious = {k: _iou(*compute_mask_IU(mask, true)) for k, mask in result.masks.items()}
    image, masks = sample["im_batch"], result.masks
    return Example(row, image, true, masks, words, unread, ious, result.levels)


def _iou(intersection, union):
    scores = Scores()
    scores.add(intersection, union)
    return scores.mean_iou


# --- Showing


def show(examples: Dict[str, List[Example]]) -> Html:
    """Show all examples.

    Args:
      examples: see `find`; kinds without any are left out.
    """
    words = [
        word for some in examples.values() for example in some for word in example.words
    ]
    parts = [_legend()] if any(word.weights for word in words) else []
    if any(word.attention for word in words):
        parts.append(element("p", ATTENTION, class_="faint"))
    for kind, some in examples.items():
        if some:
            parts.append(element("h3", KINDS[kind]))
            parts += map(_show_one, some)
    return join(parts)


def _legend():
    """Say what the colours of words mean."""
    classes = [
        element("span", _coloured(name, name), f" {meaning}")
        for name, meaning in CLASSES.items()
    ]
    note = (
        "Each word has the colour of the class that the network finds most probable; "
        "the stronger the colour, the more probable. Pointing at a word shows the "
        "probabilities of all four classes."
    )
    return join(
        [
            element("p", note, class_="faint"),
            element("p", *classes, class_="legend"),
        ]
    )


def _show_one(example):
    words = [*map(_word, example.words), *map(_unread, example.unread)]
    facts = element("p", _facts(example), class_="faint")
    lines = [element("h4", join(words, " ")), facts]
    if not example.is_as_recorded:
        note = (
            "The masks are not those of the test: the record has another IoU. Was the "
            "snapshot replaced since?"
        )
        lines.append(element("p", element("strong", note)))
    panels = element("div", *_panels(example), class_="panels")
    levels = [element("div", *_levels(example), class_="panels")]
    return element("article", *lines, panels, *levels * bool(example.levels))


def _word(word):
    """Colour a word by its class, or by its attention in the last round."""
    if word.attention:
        numbers = ", ".join(f"{share:.2f}" for share in word.attention)
        shown = {"title": f"attention: {numbers}"}
        return _coloured(word.text, "attention", word.attention[-1], **shown)
    if not word.weights:
        return element("span", word.text)
    numbers = ", ".join(f"{name} {w:.2f}" for name, w in word.weights.items())
    return _coloured(word.text, word.kind, word.weights[word.kind], title=numbers)


def _unread(word):
    return element("span", word, class_="faint", title="was not read")


def _coloured(word, kind, weight=0.7, **attributes):
    colour = ", ".join(map(str, ImageColor.getrgb(visualize.class_colour(kind))))
    strength = FAINTEST + (STRONGEST - FAINTEST) * weight
    style = f"--colour: {colour}; --strength: {strength:.2f}"
    return element("span", word, class_=f"word {kind}", style=style, **attributes)


def _facts(example):
    """Return the numbers of an example in a line."""
    named = {BASE: " of the base score", WITHOUT_CRF: "", WITH_CRF: " with DenseCRF"}
    ious = [
        f"{100 * example.ious[kind]:.1f} %{name}"
        for kind, name in named.items()
        if kind in example.ious
    ]
    row = example.row
    share = 100 * row["area"] / (row["height"] * row["width"])
    facts = [f"IoU {f' {ARROW} '.join(ious)}"]
    facts += [f"object {share:.1f} % of the image", f"number {row['number']}"]
    return " \u00b7 ".join(facts + [row["image"]] * bool(row["image"]))


def _panels(example):
    """Return the images of an example."""
    scale = SIDE / max(example.image.shape[:2])
    rows, columns = (max(1, round(scale * side)) for side in example.image.shape[:2])
    image = Image.fromarray(example.image).resize((columns, rows), Image.BICUBIC)
    image = np.array(image)
    about = f'"{example.row["sentence"]}"'
    panels = [photo(image, f"The image of {about}", "image")]
    last = example.masks.get(WITH_CRF, example.masks.get(WITHOUT_CRF))
    for name, mask, colour in (
        ("true mask", example.true, visualize.TRUE_COLOUR),
        ("found mask", last, visualize.FOUND_COLOUR),
    ):
        shown = visualize.overlay(image, mask, colour)
        empty = "" if mask.any() else ": empty"
        caption = _named(colour, name + empty)
        panels.append(photo(shown, f"The {name} of {about}{empty}", caption))
    for name, *kinds in (
        ("the last score", BASE, WITHOUT_CRF),
        ("DenseCRF", WITHOUT_CRF, WITH_CRF),
    ):
        if set(kinds) <= set(example.masks):
            masks = [example.masks[kind] for kind in kinds]
            panels.append(_difference(image, *masks, name, about))
    return panels


def _levels(example):
    """Return images of what else the model shows, in its order."""
    scale = SIDE / max(example.image.shape[:2])
    size = [max(1, round(scale * side)) for side in example.image.shape[:2]]
    image = np.array(Image.fromarray(example.image).resize(size[::-1], Image.BICUBIC))
    about = f'"{example.row["sentence"]}"'
    for name, level in example.levels.items():
        heat = visualize.heat_map(image, im_processing.resize_and_crop(level, *size))
        yield photo(heat, f"{name} of {about}", name)


def _difference(image, before, after, name, about):
    """Show what the last step changed, `name`."""
    added = np.count_nonzero(after & ~before)
    removed = np.count_nonzero(before & ~after)
    caption = join(
        [
            f"{name[0].upper()}{name[1:]}:",
            _named(visualize.ADDED_COLOUR, f"{added} pixels added,"),
            _named(visualize.REMOVED_COLOUR, f"{removed} removed"),
        ]
    )
    alt = f"What {name} changed for {about}: {added} pixels added, {removed} removed"
    return photo(visualize.difference(image, before, after), alt, caption)


def _named(colour, name):
    """Show a colour and its name in one line."""
    return element("span", swatch(colour), name, class_="kept")
