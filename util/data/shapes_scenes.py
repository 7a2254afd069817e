"""The scenes of the embedded data set `shapes`, and what is said of them.

A sentence is true of exactly one figure, by a clear margin, and two of its words
count: with another word in the place of either it means another figure of the
same image. Whoever ignores one of them is right half of the time at best.
"""

import collections
import itertools
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from util.data.text_processing import SPECIAL_WORDS

KINDS = ("attribute", "place", "relation")
REFERENTS = 4  # in a scene
SENTENCES = 2  # about a referent

SIZES = {"small": (28, 34), "large": (48, 60)}  # pixels across
COLOURS = {
    "red": (206, 36, 42),
    "green": (48, 160, 66),
    "blue": (44, 92, 212),
    "yellow": (242, 214, 48),
    "purple": (142, 58, 180),
    "orange": (244, 134, 28),
}
# Direction: (axis, sign) of rows and columns.
PLACES = {"top": (0, -1), "bottom": (0, 1), "left": (1, -1), "right": (1, 1)}
RELATIONS = {"above": (0, -1), "below": (0, 1), "left of": (1, -1), "right of": (1, 1)}
RELATION_WORDS = tuple(relation.split()[0] for relation in RELATIONS)
# The two words that count, and the ways to say it.
FORMS = {
    ("size", "colour"): (
        "the {size} {colour} {shape}",
        "the {colour} {shape} that is {size}",
        "the {size} {shape} that is {colour}",
    ),
    ("colour", "shape"): ("the {colour} {shape}", "the {shape} that is {colour}"),
    ("size", "shape"): ("the {size} {shape}", "the {shape} that is {size}"),
    ("place", "colour"): ("the {place} {look}", "the {look} at the {place}"),
    ("place", "shape"): ("the {place} {look}", "the {look} at the {place}"),
    ("relation", "anchor"): (
        "the {look} {relation} the {anchor}",
        "the {look} that is {relation} the {anchor}",
    ),
}

FRAME = (150, 200)  # least and greatest height and width of an image
EDGE = 3  # pixels between a figure and the frame, at least
GAP = 5  # pixels between two figures, at least
MARGIN = 0.1  # of the image, from its middle: nearer than that is no place


class Look(NamedTuple):
    """What a figure looks like; "" in a description is what goes unsaid."""

    size: str
    colour: str
    shape: str

    def fits(self, look: "Look") -> bool:
        """Say whether this description is true of the whole `look`."""
        return all(said in ("", seen) for said, seen in zip(self, look))

    def __str__(self) -> str:
        return " ".join(word for word in self if word)


class Meaning(NamedTuple):
    """What a sentence says, however it says it; "" is what goes unsaid."""

    size: str
    colour: str
    shape: str
    place: str = ""
    relation: str = ""
    anchor: Union[Look, str] = ""

    @property
    def look(self) -> Look:
        """The description of what is looked for, without place and relation."""
        return Look(*self[:3])

    @property
    def counting(self) -> Tuple[str, str]:
        """The two words that count, a key of FORMS."""
        if self.relation:
            return "relation", "anchor"
        if self.place:
            return "place", "colour" if self.colour else "shape"
        if self.size and self.colour:
            return "size", "colour"
        return ("size" if self.size else "colour"), "shape"


@dataclass(frozen=True)
class Figure:
    """A figure: its look, centre and side of its box in pixels, and RGB colour."""

    look: Look
    row: float
    column: float
    span: float
    rgb: Tuple[int, int, int]


@dataclass(frozen=True)
class Sentence:
    """A sentence, its kind (one of KINDS) and the number of the figure it means."""

    text: str
    kind: str
    target: int


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn: height and width, figures, sentences."""

    frame: Tuple[int, int]
    figures: List[Figure]
    sentences: List[Sentence]


def _circle() -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _cross(arm: float = 0.2) -> np.ndarray:
    quarter = np.array([[arm, -0.5], [arm, -arm], [0.5, -arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, n) for n in range(4)])


# Corners (x, y) in a box of side 1 around 0.
SHAPES = {
    "circle": _circle(),
    "square": np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]),
    "triangle": np.array([[0, -0.5], [0.5, 0.5], [-0.5, 0.5]]),
    "cross": _cross(),
}
# The words that tell figures apart, whatever the form.
TELLING = tuple(
    dict.fromkeys(itertools.chain(SIZES, COLOURS, SHAPES, PLACES, RELATION_WORDS))
)


def vocabulary() -> List[str]:
    """Return the special words and, sorted, every word a sentence can have."""
    tables = [SIZES, COLOURS, SHAPES, PLACES, RELATIONS]
    phrases = itertools.chain(*FORMS.values(), *tables)
    words = set(" ".join(phrases).split())
    return list(SPECIAL_WORDS) + sorted(word for word in words if word[0] != "{")


def kind_of(sentence: str) -> str:
    """Return the kind of a sentence, one of KINDS.

    Args:
      sentence: of the grammar.

    Example:
      >>> for text in ("the left square", "the square left of the cross"):
      ...     print(kind_of(text))
      place
      relation
    """

    def has(phrases):
        return any(f" {phrase} " in f" {sentence} " for phrase in phrases)

    if has(RELATIONS):
        return "relation"
    return "place" if has(PLACES) else "attribute"


def told(sentence: str) -> Tuple[List[str], List[str]]:
    """Return what a sentence tells of its figure, and of the one beside it.

    Args:
      sentence: of the grammar.

    Returns:
      (of it, of its anchor): their words, each of TELLING.

    Example:
      >>> told("the red circle that is left of the small cross")
      (['red', 'circle', 'left'], ['small', 'cross'])
      >>> told("the red circle at the top")
      (['red', 'circle', 'top'], [])
    """
    words = sentence.split()
    end = len(words)
    if kind_of(sentence) == "relation":
        end = 1 + next(n for n, word in enumerate(words) if word in RELATION_WORDS)
    own, anchor = words[:end], words[end:]
    return [w for w in own if w in TELLING], [w for w in anchor if w in TELLING]


# --- What is true of a scene


def _is_at(place: str, figure: Figure, frame: Tuple[int, int]) -> Optional[bool]:
    """Say whether a figure is at a side of the image; None where it is unclear."""
    axis, sign = PLACES[place]
    lead = sign * ((figure.row, figure.column)[axis] / frame[axis] - 0.5)
    return None if abs(lead) < MARGIN else lead > 0


def _stands(relation: str, figure: Figure, anchor: Figure) -> Optional[bool]:
    """Say whether a figure stands so to the anchor; None where it is unclear.

    Yes within 27 degrees of the direction, no beyond 56 degrees. They do not
    overlap, so that whatever is within 27 degrees is also far enough.
    """
    axis, sign = RELATIONS[relation]
    offset = (figure.row - anchor.row, figure.column - anchor.column)
    lead, aside = sign * offset[axis], abs(offset[1 - axis])
    if lead >= 2 * aside:
        return True
    return False if lead <= 2 * aside / 3 else None


def _referent(
    meaning: Meaning, figures: List[Figure], frame: Tuple[int, int]
) -> Optional[int]:
    """Return the one figure a meaning is true of; None where it is not just one."""
    found = [n for n, f in enumerate(figures) if meaning.look.fits(f.look)]
    if meaning.place:
        verdicts = [_is_at(meaning.place, figures[n], frame) for n in found]
    elif meaning.relation:
        anchor = next(f for f in figures if meaning.anchor.fits(f.look))
        found = [n for n in found if figures[n] is not anchor]
        verdicts = [_stands(meaning.relation, figures[n], anchor) for n in found]
    else:
        verdicts = [True] * len(found)
    if verdicts.count(True) == 1 and None not in verdicts:
        return found[verdicts.index(True)]
    return None


def _is_name(look: Look, figures: List[Figure]) -> bool:
    """Say whether a description means one figure and has no word too many."""

    def is_unique(description: Look) -> bool:
        return sum(description.fits(figure.look) for figure in figures) == 1

    said = [slot for slot in ("size", "colour") if getattr(look, slot)]
    shorter = [look._replace(**{slot: ""}) for slot in said]
    return is_unique(look) and not any(map(is_unique, shorter))


def _meanings(kind: str, figures: List[Figure]) -> Iterator[Meaning]:
    """Yield what the grammar can say about the figures, true or not."""
    looks = sorted(
        {
            Look(size, colour, figure.look.shape)
            for figure in figures
            for size in ("", figure.look.size)
            for colour in ("", figure.look.colour)
        }
    )
    if kind == "attribute":
        return (Meaning(*look) for look in looks if look.size or look.colour)
    short = [look for look in looks if not (look.size and look.colour)]
    if kind == "place":
        pairs = itertools.product(short, PLACES)
        return (Meaning(*look, place=place) for look, place in pairs)
    anchors = [look for look in looks if _is_name(look, figures)]
    return (
        Meaning(*look, relation=relation, anchor=anchor)
        for look, relation, anchor in itertools.product(short, RELATIONS, anchors)
    )


def _say(meaning: Meaning) -> List[str]:
    """Return the sentences that say it."""
    words = dict(meaning._asdict(), look=meaning.look)
    return [form.format(**words) for form in FORMS[meaning.counting]]


def _true_sentences(
    kind: str, figures: List[Figure], frame: Tuple[int, int]
) -> Dict[int, List[str]]:
    """Return figure number -> all sentences of a kind that mean it.

    Only those whose two counting words do count, see above.
    """
    referents = {m: _referent(m, figures, frame) for m in _meanings(kind, figures)}
    referents = {m: target for m, target in referents.items() if target is not None}
    rivals = collections.defaultdict(set)
    for meaning, target in referents.items():
        for slot in meaning.counting:
            rivals[slot, meaning._replace(**{slot: None})].add(target)
    sentences = collections.defaultdict(list)
    for meaning, target in referents.items():
        gaps = [(slot, meaning._replace(**{slot: None})) for slot in meaning.counting]
        if all(len(rivals[gap]) > 1 for gap in gaps):
            sentences[target] += _say(meaning)
    return sentences


# --- What is in a scene


def _pick(rng: np.random.RandomState, names: Dict, count: int) -> List[str]:
    return [str(name) for name in rng.choice(sorted(names), count, replace=False)]


def _look(rng: np.random.RandomState, **given: str) -> Look:
    """Return a random look with the given parts."""
    tables = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
    drawn = {slot: _pick(rng, names, 1)[0] for slot, names in tables.items()}
    return Look(**dict(drawn, **given))


def _others(rng: np.random.RandomState) -> List[Look]:
    return [_look(rng) for _ in range(rng.randint(3))]


def _attribute_looks(rng: np.random.RandomState) -> List[Look]:
    """Return two sizes, colours or shapes of each of two others."""
    sizes, colours = _pick(rng, SIZES, 2), _pick(rng, COLOURS, 2)
    shapes = _pick(rng, SHAPES, 2)
    varied = [
        [dict(size=s, colour=c, shape=shapes[0]) for s in sizes for c in colours],
        [dict(colour=c, shape=s) for c in colours for s in shapes],
        [dict(size=z, shape=s) for z in sizes for s in shapes],
    ]
    # Shapes are the hardest to tell for a backbone that never learned to see.
    given = varied[rng.choice(3, p=[0.7, 0.15, 0.15])]
    return [_look(rng, **slots) for slots in given] + _others(rng)


def _place_looks(rng: np.random.RandomState) -> List[Look]:
    """Return two each of two colours of a shape, or of two shapes."""
    if rng.randint(4):
        shape = _pick(rng, SHAPES, 1)[0]
        colours = _pick(rng, COLOURS, 2)
        pairs = [dict(shape=shape, colour=colour) for colour in colours]
    else:
        pairs = [dict(shape=shape) for shape in _pick(rng, SHAPES, 2)]
    return [_look(rng, **given) for given in 2 * pairs] + _others(rng)


def _relation_looks(rng: np.random.RandomState) -> List[Look]:
    """Return two lanes of three: two alike, with an anchor between them.

    The anchors differ in colour, and now and then in shape too.
    """
    alike, *rest = _pick(rng, SHAPES, 3)
    size, colours = _pick(rng, SIZES, 1)[0], _pick(rng, COLOURS, 2)
    ends = [_look(rng, size=size, shape=alike) for _ in range(4)]
    if rng.randint(2):
        ends = [end._replace(colour=ends[0].colour) for end in ends]
    shapes = rest if rng.randint(4) == 0 else [rest[0], rest[0]]
    first, second = [
        _look(rng, colour=colour, shape=shape) for colour, shape in zip(colours, shapes)
    ]
    return [ends[0], first, ends[1], ends[2], second, ends[3]]


def _is_free(centre: np.ndarray, span: float, placed: List[Tuple]) -> bool:
    return all(
        np.abs(centre - other).max() >= (span + width) / 2 + GAP
        for other, width in placed
    )


def _scatter(
    rng: np.random.RandomState, spans: List[float], frame: np.ndarray
) -> Optional[List[Tuple]]:
    """Return (centre, span) of figures strewn at random; None where one is stuck."""
    placed = []
    for span in spans:
        room = EDGE + span / 2
        for _ in range(20):
            centre = rng.uniform(room, frame - room)
            if _is_free(centre, span, placed):
                placed.append((centre, span))
                break
        else:
            return None
    return placed


def _lanes(
    rng: np.random.RandomState, spans: List[float], frame: np.ndarray
) -> Optional[List[Tuple]]:
    """Return (centre, span) of two lanes of three, side by side or stacked."""
    along = rng.randint(2)
    placed = []
    for lane in (0, 1):
        widths = np.array(spans[3 * lane : 3 * lane + 3])
        slack = frame[along] - widths.sum() - 2 * GAP - 2 * EDGE
        if slack < 0:
            return None
        starts = EDGE + np.sort(rng.uniform(0, slack, 3)) + GAP * np.arange(3)
        middles = starts + np.cumsum(widths) - widths / 2
        asides = frame[1 - along] * (0.25 + 0.5 * lane) + rng.uniform(-12, 12, 3)
        for middle, aside, span in zip(middles, asides, widths):
            room = EDGE + span / 2
            aside = np.clip(aside, room, frame[1 - along] - room)
            centre = np.array([middle, aside] if along == 0 else [aside, middle])
            if not _is_free(centre, span, placed):
                return None
            placed.append((centre, span))
    return placed


class _Template(NamedTuple):
    looks: Callable
    layout: Callable


TEMPLATES = {
    "attribute": _Template(_attribute_looks, _scatter),
    "place": _Template(_place_looks, _scatter),
    "relation": _Template(_relation_looks, _lanes),
}


def _compose(
    rng: np.random.RandomState, kind: str, frame: np.ndarray
) -> Optional[List[Figure]]:
    """Return figures out of a kind's template; None where they find no room."""
    template = TEMPLATES[kind]
    looks = template.looks(rng)
    spans = [rng.uniform(*SIZES[look.size]) for look in looks]
    placed = template.layout(rng, spans, frame)
    if placed is None:
        return None
    figures = []
    for look, (centre, span) in zip(looks, placed):
        rgb = np.array(COLOURS[look.colour]) + rng.randint(-10, 11, 3)
        rgb = tuple(np.clip(rgb, 0, 255).tolist())
        figures.append(Figure(look, *centre.tolist(), float(span), rgb))
    return figures


def make_scene(rng: np.random.RandomState, kind: str) -> Scene:
    """Make up a scene and sentences about it.

    Args:
      rng: drawn from until a scene comes out that gives enough to say.
      kind: one of KINDS.

    Returns:
      A scene of 4 to 6 figures that do not touch, with SENTENCES different
      sentences of this kind about each of REFERENTS of them.
    """
    rich = []
    while len(rich) < REFERENTS:
        height_width = rng.randint(FRAME[0], FRAME[1] + 1, 2)
        frame = tuple(height_width.tolist())
        figures = _compose(rng, kind, height_width)
        texts = _true_sentences(kind, figures, frame) if figures else {}
        rich = sorted(n for n, said in texts.items() if len(said) >= SENTENCES)
    targets = sorted(rng.choice(rich, REFERENTS, replace=False).tolist())
    sentences = [
        Sentence(str(text), kind, target)
        for target in targets
        for text in rng.choice(texts[target], SENTENCES, replace=False)
    ]
    return Scene(frame, figures, sentences)
