"""What of the annotations may be wrong although it can be built: counted and named."""

from typing import Dict, Iterable, Iterator, List, Set, Tuple

NAMED = 10  # objects or images in a warning
MARGIN = 5  # pixels outside the image that a polygon may have

NO_PIXEL, SMALL, FULL, OUTSIDE = "no pixel", "small", "full", "outside"
OBJECTS = {
    NO_PIXEL: "have no pixel",
    SMALL: "have no pixel at the size of the samples",
    FULL: "fill their image",
    OUTSIDE: f"have a polygon more than {MARGIN} pixels outside their image",
}
# Of images that are stored turned: what the size of the annotations tells.
UNSURE, AS_STORED, AS_UPRIGHT = "frame unsure", "frame stored", "frame upright"

Doubts = Dict[str, List[str]]  # kind -> names of objects, or of images
Found = Iterable[Tuple[str, str]]  # a kind, and what it is said of


def renewed(known: Doubts, looked_at: Set[str], found: Found) -> Doubts:
    """Return what is known after some objects and images were looked at.

    Args:
      known: what was known before.
      looked_at: names; of them counts only what was found now.
      found: that.

    Example:
      >>> renewed({"full": ["a", "b"]}, {"a", "c"}, [("no pixel", "c")])
      {'full': ['b'], 'no pixel': ['c']}
    """
    names: Dict[str, Dict[str, None]] = {}
    kept = [(kind, name) for kind in known for name in known[kind]]
    kept = [pair for pair in kept if pair[1] not in looked_at]
    for kind, name in [*kept, *found]:
        names.setdefault(kind, {})[name] = None
    return {kind: list(of_kind) for kind, of_kind in names.items()}


def are_all_empty(doubts: Doubts, objects: int) -> bool:
    """Say whether none of the objects has a pixel."""
    return len(doubts.get(NO_PIXEL, ())) + len(doubts.get(SMALL, ())) >= objects > 0


def sentences(doubts: Doubts, objects: int, images: int) -> Iterator[str]:
    """Say all of it, a line a kind.

    Args:
      doubts: what is known.
      objects: number of all objects.
      images: number of all images.

    Example:
      >>> list(sentences({"full": ["annotation 7"]}, 120, 40))
      ['1 of 120 objects fill their image: annotation 7']
    """
    for kind, says in OBJECTS.items():
        if kind in doubts:
            names = doubts[kind]
            yield f"{len(names)} of {objects} objects {says}: {first(names)}"
    if UNSURE in doubts:
        names = doubts[UNSURE]
        yield (
            f"{len(names)} of {images} images are stored turned (EXIF), and no size "
            "tells whether their annotations count pixels of the stored or of the "
            f"upright image; upright was taken ({_told(doubts)}): say --annotated "
            f"stored or --annotated upright: {first(names)}"
        )


def first(names: List[str]) -> str:
    """Return the first names as text, and how many there are more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _told(doubts):
    stored, upright = (len(doubts.get(kind, ())) for kind in (AS_STORED, AS_UPRIGHT))
    if not stored + upright:
        return "no other image tells more"
    return f"sizes tell stored of {stored} other images, upright of {upright}"
