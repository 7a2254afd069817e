"""Draw the row of answers at the head of README.

Asks the snapshot that -m demo left every sentence of the test split of `shapes`, and
shows the ones it answers best, each about another scene and of another length.
"""

import argparse
import sys
from typing import List, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from CMPC_model import Predictor
from util.core.cli import OneLineParser, exit_code
from util.core.errors import UserError
from util.data import datasets
from util.evaluation.eval_tools import compute_mask_IU
from util.graph import checkpoint
from util.inference import visualize

EXAMPLES = """examples:
  python tests/readme_row.py ckpts/shapes/demo --output .github/answers.png
"""
RIGHT = 0.8  # the least IoU of an answer that is shown
NUM_SHOWN = 3
SIDE, GAP, TEXT = 220, 16, 18  # pixels: longer side of an image, gaps, size of letters


class Shown(NamedTuple):
    """An answer: image uint8 [H, W, 3], mask bool [H, W] that was found, IoU 0..1."""

    image: np.ndarray
    mask: np.ndarray
    sentence: str
    iou: float


def ask(snapshot: str, data: str) -> List[Shown]:
    """Segment every sentence of the test split, refined by DenseCRF."""
    samples = datasets.get("shapes", data).samples("test")
    answers = []
    with Predictor(snapshot) as predictor:
        for number in tqdm(range(len(samples)), "asking", unit="sentence"):
            sample = samples.read(number)
            image, sentence = sample["im_batch"], sample["sent_batch"][0]
            predictor.set_image(image)
            mask = predictor.segment(sentence, with_dense_crf=True).mask
            common, either = compute_mask_IU(mask, sample["mask_batch"])
            answers.append(Shown(image, mask, sentence, common / max(1, either)))
    return answers


def choose(answers: List[Shown]) -> List[Shown]:
    """Choose the best answers, each of another scene and length.

    Raises:
      UserError: too few are right.
    """
    chosen, scenes, lengths = [], set(), set()
    for answer in sorted(answers, key=lambda answer: -answer.iou):
        scene, length = answer.image.tobytes(), len(answer.sentence.split())
        if answer.iou < RIGHT or len(chosen) == NUM_SHOWN:
            break
        if scene not in scenes and length not in lengths:
            chosen.append(answer)
            scenes.add(scene)
            lengths.add(length)
    if len(chosen) < NUM_SHOWN:
        raise UserError(
            f"only {len(chosen)} answers of different scenes and lengths have an IoU "
            f"of {RIGHT}: train longer"
        )
    return sorted(chosen, key=lambda answer: len(answer.sentence))


def row(shown: List[Shown]) -> np.ndarray:
    """Draw answers side by side: sentence, image, image with the mask.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    cells = [_cell(answer) for answer in shown]
    size = sum(cell.width for cell in cells), max(cell.height for cell in cells)
    canvas = Image.new("RGB", size, visualize.PAPER)
    left = 0
    for cell in cells:
        canvas.paste(cell, (left, 0))
        left += cell.width
    return np.array(canvas)


def _cell(answer):
    height, width = answer.image.shape[:2]
    scale = SIDE / max(height, width)
    size = round(width * scale), round(height * scale)
    image = Image.fromarray(answer.image).resize(size, Image.BICUBIC)
    found = Image.fromarray(visualize.overlay(np.array(image), answer.mask))
    top = 2 * GAP + TEXT
    canvas = Image.new("RGB", (2 * SIDE + 3 * GAP, top + SIDE + GAP), visualize.PAPER)
    font = visualize._font(TEXT)
    ImageDraw.Draw(canvas).text((GAP, GAP), answer.sentence, visualize.INK, font)
    canvas.paste(image, (GAP, top))
    canvas.paste(found, (size[0] + GAP + GAP // 2, top))
    return canvas


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = OneLineParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", help="with the demo's snapshot")
    parser.add_argument("--data", default="data", metavar="DIR")
    parser.add_argument("--output", required=True, metavar="FILE", help="a .png")
    return parser


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)

    def run():
        steps = checkpoint.steps(args.folder, "shapes")
        if not steps:
            raise UserError(f"{args.folder} has no snapshot: run -m demo first")
        snapshot = checkpoint.path(args.folder, "shapes", steps[-1])
        shown = choose(ask(snapshot, args.data))
        visualize.save_png(args.output, row(shown))
        for answer in shown:
            print(f"IoU {answer.iou:.3f}: {answer.sentence}")
        return 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
