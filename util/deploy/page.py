"""What the page of `-m serve` looks like: its parts, and what an answer becomes there.

All text of users is escaped. Gradio is imported inside functions.
"""

import os
import tempfile
from html import escape
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import numpy as np
from PIL import Image

from util.core.errors import UserError
from util.data import im_processing, shapes, shapes_scenes
from util.deploy.store import EXAMPLES, Store
from util.inference import visualize
from util.inference.prediction import Prediction
from util.inference.visualize import class_colour

SHOWN_SIDE, LEVEL_SIDE = 800, 400  # pixels, the longer side of what the page shows
MAX_ASKED = 50  # questions in the history
EXAMPLES_SEED = 4
FONTS = ["system-ui", "sans-serif"]  # nothing to download
LOOK = {"primary_hue": "orange", "font": FONTS, "font_mono": ["monospace"]}
CSS = """
footer { opacity: 0.6; }
#image img, #mask img { width: 100%; height: 100%; object-fit: contain; }
#message { padding: 0.6em 0.9em; border-radius: 8px; border: 1px solid #dc2626;
  background: color-mix(in srgb, #dc2626 12%, transparent); overflow-wrap: anywhere; }
.words { display: flex; flex-wrap: wrap; gap: 0.4em; }
.word { border-radius: 8px; padding: 0.25em 0.6em; border-bottom: 4px solid var(--c);
  background: color-mix(in srgb, var(--c) var(--s), transparent); line-height: 1.3; }
.word.unknown { border-bottom-style: dashed; }
.word small, .fine { opacity: 0.75; font-size: 0.8em; }
.word small { display: block; }
.word b, .asked td { overflow-wrap: anywhere; }
.asked { width: 100%; border-collapse: collapse; font-size: 0.9em; }
.asked th { text-align: left; font-weight: 600; }
.asked th, .asked td { padding: 0.25em 0.6em 0.25em 0; }
.asked td { border-top: 1px solid var(--border-color-primary); }
.asked .number { text-align: right; white-space: nowrap; }
"""
API = """Segment the object that a sentence refers to.

Returns the mask as COCO's run lengths, its box and area in pixels, its mean probability
and what the network takes each word for.
"""


class Asked(NamedTuple):
    """A line of the history; the area is in pixels."""

    sentence: str
    image: str
    area: int
    seconds: float


def draw_examples(folder: str) -> List[List[str]]:
    """Draw images of `shapes` that no split has.

    Returns:
      [path, sentence] an image.
    """
    rng = np.random.RandomState(EXAMPLES_SEED)
    examples = []
    for kind in shapes_scenes.KINDS:
        scene = shapes_scenes.make_scene(rng, kind)
        path = os.path.join(folder, EXAMPLES, kind + ".png")
        visualize.save_png(path, shapes.render(rng, scene))
        examples.append([path, scene.sentences[0].text])
    return examples


def build(
    answer: Callable,
    store: Store,
    examples: Sequence,
    max_letters: int,
    levels: Sequence[str] = (),
    about_levels: str = "",
) -> Any:
    """Build the page and the JSON call `/segment`.

    Args:
      answer: function of path, sentence and whether to refine; see `Service.answer`.
      store: where files come from the browser and go to it.
      examples: see `draw_examples`; may be empty.
      max_letters: most letters of a sentence.
      levels, about_levels: the model's, see `Predictor`.

    Returns:
      `gradio.Blocks`, not launched.
    """
    import gradio as gr

    # One question at a time: page and call wait in one queue.
    network = {"concurrency_id": "network", "concurrency_limit": 1}
    with gr.Blocks(title="RefSeg", analytics_enabled=False) as blocks:
        parts = _lay_out(gr, store, max_letters, levels, about_levels)
        question = [parts.image, parts.sentence, parts.refine]
        if examples:
            gr.Examples(
                list(examples),
                question[:2],
                cache_examples=False,
                api_visibility="private",
            )
        gr.on(
            [parts.button.click, parts.sentence.submit],
            _shower(gr, parts, answer, store.folder),
            [*question, parts.asked],
            [parts.message, parts.result, parts.history, parts.asked, *parts.shown],
            show_progress_on=[parts.button],
            api_name="show",
            api_visibility="undocumented",
            **network,
        )
        gr.Button(visible=False).click(
            _caller(gr, answer),
            question,
            gr.JSON(label="answer", visible=False),
            api_name="segment",
            api_description=API,
            **network,
        )
    return blocks


def _shower(gr, parts, answer, folder):
    """Return the function that answers on the page: the parts that change."""

    def show(image, sentence, refine, so_far):
        try:
            found = answer(image, sentence, refine)
        except UserError as error:
            return {parts.message: gr.HTML(escape(str(error)), visible=True)}
        name, record = os.path.basename(image), found.record
        asked = [Asked(sentence, name, record["area"], record["seconds"]), *so_far]
        asked = asked[:MAX_ASKED]
        return {
            parts.message: gr.HTML("", visible=False),
            parts.result: gr.Column(visible=True),
            parts.history: history_html(asked),
            parts.asked: asked,
            **dict(zip(parts.shown, _drawn(found, folder))),
        }

    return show


def _caller(gr, answer):
    """Return the function behind the JSON call; its arguments are those of the call."""

    def segment(image, sentence, refine=False):
        try:
            return answer(image, sentence, refine).record
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return segment


# --- The parts of the page


class Parts(NamedTuple):
    """What is on the page, each a Gradio component.

    Attributes:
      image, sentence, refine, button: the question.
      message: of an error; hidden otherwise.
      result: what holds the answer; hidden before the first one.
      shown: list, the answer, in the order of `_drawn`.
      history: the table of questions.
      asked: the same as list of Asked, in the browser's session.
    """

    image: Any
    sentence: Any
    refine: Any
    button: Any
    message: Any
    result: Any
    shown: List[Any]
    history: Any
    asked: Any


def _lay_out(gr, store, max_letters, levels, about_levels):
    """Put the parts on the page that is being built."""
    gr.Markdown("## RefSeg\nChoose an image and say which object you mean.")
    with gr.Row():
        with gr.Column():
            question = _question_parts(gr, store, max_letters)
        with gr.Column():
            message = gr.HTML(elem_id="message", visible=False)
            with gr.Column(visible=False) as result:
                shown = _answer_parts(gr, levels, about_levels)
    history = gr.HTML(apply_default_css=False)
    return Parts(*question, message, result, shown, history, gr.State([]))


def _question_parts(gr, store, max_letters):
    """Return image, sentence, whether to refine, button."""
    image = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label="Image",
        height=320,
        elem_id="image",
    )
    _take_uploads_only(gr, store, image)
    sentence = gr.Textbox(
        label="Sentence",
        placeholder="the small red circle left of the square",
        max_length=max_letters,
        elem_id="sentence",
    )
    with gr.Row(equal_height=True):
        refine = gr.Checkbox(label="refine (DenseCRF)", container=False)
        button = gr.Button("Find it", variant="primary", elem_id="find")
    return image, sentence, refine, button


def _take_uploads_only(gr, store, image):
    """Leave reading to the service, and fetch nothing from elsewhere.

    Gradio would open the file with its own messages, and download any URL that a
    request names in its place; no option forbids it. So two methods of this one
    component are replaced. (A class derived from gradio.Image would do, but Gradio
    writes a file next to the module of such a class when it is imported.) A test
    asks with a URL, so a Gradio that calls other methods does not go unnoticed.
    Only what a request marks as a file ("meta") comes through the first method;
    everything comes through the second.
    """
    move = image.async_move_resource_to_block_cache

    async def move_file(path):
        if path and "://" in path:
            raise gr.Error("upload the image: a URL is not fetched")
        return await move(path)

    image.async_move_resource_to_block_cache = move_file

    def preprocess(payload):
        try:
            return payload and store.check(payload.path)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    image.preprocess = preprocess


def _answer_parts(gr, names, note):
    """Return what shows an answer, in the order of `_drawn`."""
    plain = {"interactive": False, "buttons": ["fullscreen"]}
    overlay = gr.Image(label="The object", height=320, elem_id="mask", **plain)
    summary, words = (
        gr.HTML(apply_default_css=False, elem_id=name) for name in ("summary", "words")
    )
    if names:
        note += "; base: the score that the answer refines" * ("base" in names)
        gr.HTML(f"<span class='fine'>{note}</span>")
    with gr.Row(elem_id="levels", visible=bool(names)):
        levels = [gr.Image(label=name, min_width=90, **plain) for name in names]
    mask = gr.DownloadButton("Download the mask (PNG)", elem_id="download")
    return [overlay, summary, words, *levels, mask]


def _drawn(found, folder):
    prediction, record = found.prediction, found.record
    folder = tempfile.mkdtemp(dir=folder)
    levels = zip(prediction.seen_levels, level_images(found.image, prediction))
    return (
        _save(folder, "object", overlay_image(found.image, prediction)),
        summary_html(record),
        words_html(record),
        *(_save(folder, level, image) for level, image in levels),
        save_mask(prediction, folder),
    )


def _save(folder, name, image):
    """Write an image for the browser and return its path.

    Gradio would keep equal images in one file, and write it again for each answer,
    also while a browser loads it.
    """
    path = os.path.join(folder, name + ".webp")
    Image.fromarray(image).save(path)
    return path


# --- What an answer becomes


def _scale(image: np.ndarray, side: int) -> np.ndarray:
    full = Image.fromarray(image)
    scale = side / max(full.size)
    size = [max(1, round(scale * length)) for length in full.size]
    return np.array(full.resize(size, Image.BICUBIC))


def overlay_image(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Draw the mask over the image, SHOWN_SIDE pixels long."""
    image = _scale(image, SHOWN_SIDE)
    mask = im_processing.restore_mask(prediction.on_object, *image.shape[:2])
    return visualize.overlay(image, mask)


def level_images(image: np.ndarray, prediction: Prediction) -> List[np.ndarray]:
    """Draw heat maps over the image, LEVEL_SIDE pixels long, one for each level."""
    image = _scale(image, LEVEL_SIDE)
    maps = (
        im_processing.resize_and_crop(seen, *image.shape[:2])
        for seen in prediction.seen_levels.values()
    )
    return [visualize.heat_map(image, seen) for seen in maps]


def save_mask(prediction: Prediction, folder: str) -> str:
    """Write the mask, 255 on the object, at the image's size; return its path."""
    path = os.path.join(folder, "mask.png")
    visualize.save_png(path, prediction.mask.astype(np.uint8) * 255)
    return path


def summary_html(record: Dict[str, Any]) -> str:
    """Return a line about what was found."""
    rows, columns = record["mask"]["size"]
    if not record["area"]:
        text = "nothing found"
    else:
        text = (
            f"{record['area']:,} pixels ({record['area'] / (rows * columns):.1%}), "
            f"mean probability {record['mean_probability']:.2f}"
        )
    return (
        f"<b>{escape(record['sentence'])}</b><br>"
        f"<span class='fine'>{text}; {record['seconds']:.2f} s</span>"
    )


def words_html(record: Dict[str, Any]) -> str:
    """Show the words, in the colours of their classes where the model has any."""
    words = "".join(map(_word_html, record["words"]))
    unread, foreign = record["num_unread"], record.get("foreign_words")
    notes = []
    if unread:
        notes.append(f"{unread} more words were not read")
    if foreign:
        notes.append(
            "the network's vocabulary reads the letters of ASCII only, not "
            f"<b>{escape(' '.join(foreign))}</b>"
        )
    notes = "".join(f"<p class='fine'>{note}</p>" for note in notes)
    return f"<div class='words'>{words}</div>{notes}"


def _word_html(word):
    kind, weights = word["class"], word["weights"]
    about = [", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())]
    if not word["known"]:
        about.append("the network does not know this word")
    unknown = "" if word["known"] else " unknown"
    colour, strength = class_colour(kind), 16
    if word.get("attention"):
        shares = " ".join(f"{share:.2f}" for share in word["attention"])
        about.append(f"attention: {shares}")
        strength += round(60 * word["attention"][-1])
    shown = f"<small>{kind} {weights[kind]:.2f}</small>" if weights else ""
    if word.get("attention"):
        shown += f"<small>{shares}</small>"
    return (
        f"<span class='word{unknown}' style='--c: {colour}; --s: {strength}%' "
        f"title='{'; '.join(filter(None, about))}'><b>{escape(word['text'])}</b>{shown}"
        "</span>"
    )


def history_html(asked: Sequence[Asked]) -> str:
    """Show the questions of a session."""
    rows = "".join(
        f"<tr><td>{escape(one.sentence)}</td><td>{escape(one.image)}</td>"
        f"<td class='number'>{one.area:,}</td>"
        f"<td class='number'>{one.seconds:.2f}</td></tr>"
        for one in map(Asked._make, asked)
    )
    head = "<th>Asked in this session</th><th>Image</th><th class='number'>Pixels"
    head += "</th><th class='number'>Seconds</th>"
    return f"<table class='asked' id='history'><tr>{head}</tr>{rows}</table>"
