"""The forms of annotation files that people have; data/README.md shows them.

A file's content tells which one it is. Whatever the form, an entry names several masks,
which are united, one, or none, has texts, and an image. What files say becomes part
of paths only where it cannot lead elsewhere.
"""

import os
import re
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from util.core import files
from util.core.errors import Mistakes, UserError, gathering
from util.data import datasets, pickles, refcoco

PICKLE_STARTS = ("\x80", "(", "]")
ENTRY = '"image", "sentences", "split", and "segmentation" or "mask"'
TEXTS = ("sentences", "expressions", "caption", "sentence", "expression")
LISTS = ("sentences", "expressions")  # of them: those that are lists
OF_TOOLS = "sentence"  # of them: what -m predict also gives as an attribute
BLANK = "nowhere"  # instead of them, where a label tool asked for a sentence
IMAGES = ("image", "img_name", "file_name")
ENDINGS = (".json", ".jsonl")
MDETR = re.compile(r"finetune_(refcoco[+g]?)_")  # the names of its files


class Entry(NamedTuple):
    """What an annotation file says of what some sentences mean.

    Attributes:
      name: what to call it in an error.
      image: the image's path below the folder of images.
      split: a plain name.
      sentences: the texts.
      segmentations: COCO's masks, which are united; [] where nothing is meant; None:
        there is `mask_image`.
      mask_image: path of a mask that is an image.
      size: (height, width) of the image in pixels, where the file says it.
      source: where the texts stand in the file; BLANK: nobody wrote one.
    """

    name: str
    image: str
    split: str
    sentences: List[str]
    segmentations: Optional[List[Any]] = None
    mask_image: Optional[str] = None
    size: Optional[Tuple[int, int]] = None
    source: str = TEXTS[0]


Named = Tuple[str, Any]  # what to call an entry, and what the file has of it
Read = Callable[[str, Any], Optional[Entry]]  # None: no sentence is said of it


def read(path: str, mistakes: Optional[Mistakes] = None) -> List[Entry]:
    """Read annotations of any form.

    Args:
      path: the file, or a folder of files, JSON all of them.
      mistakes: takes the errors of wrong entries, which are left out; None: they are
        refused, all at once.

    Returns:
      The entries in file order; one at least.

    Raises:
      UserError: a file is missing, damaged or of another form; names file and entry and
        says what is expected.
    """
    with gathering(mistakes) as gathered:
        entries = [entry for one in _files(path) for entry in _read(one, gathered)]
        if not entries:
            gathered.refuse()
            raise UserError(f"{path} holds no sentences")
    return entries


def is_annotations(path: str) -> bool:
    """Say whether a file, or each of a folder's, has one of the forms.

    Raises:
      UserError: it is missing or damaged.
    """
    return all(_form(one) is not None for one in _files(path))


def _files(path: str) -> List[str]:
    if not os.path.isdir(path):
        return [path]
    names = sorted(name for name in os.listdir(path) if name.endswith(ENDINGS))
    if not names:
        raise UserError(f"there are no files {' or '.join(ENDINGS)} in {path}")
    return [os.path.join(path, name) for name in names]


def _read(path: str, mistakes: Mistakes) -> List[Entry]:
    """Read one file."""
    form = _form(path)
    if form is None:
        raise UserError(
            f"{path} has none of the forms of annotations: see Your own data in "
            "data/README.md"
        )
    (items, read_item), entries = form, []
    for name, item in items:
        with mistakes.gathered():
            entry = read_item(name, item)
            if entry is not None:
                _check_image(entry)
                entries.append(entry)
    if all(entry.split is None for entry in entries):
        split = _split_of_name(path)
        entries = [entry._replace(split=split) for entry in entries]
    sound = []
    for entry in entries:
        with mistakes.gathered():
            _check_split(entry)
            sound.append(entry)
    return sound


def _form(path: str) -> Optional[Tuple[Iterable[Named], Read]]:
    """Return the entries of a file and what reads one; None: it has none of the forms.

    Raises:
      UserError: the file is missing or damaged.
    """
    with open(files.require_file(path), encoding="latin-1") as file:
        if file.read(1) in PICKLE_STARTS:
            return _items(path, _numbered(path, _list_of_refs(path)))
    text = files.read_json_text(path)
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    content = _parse(path, text)
    if isinstance(content, _Lines):
        return _items(path, [(f"{path}: line {n}", item) for n, item in content])
    if isinstance(content, list):
        return _items(path, _numbered(path, content))
    if "annotations" in content:
        return _coco(path, content)
    if {"ann_id", *IMAGES, *TEXTS} & set(content):  # of a list with a line an entry
        return _items(path, [(f"{path}: line 1", content)])
    if content and all(map(_is_list_of_objects, content.values())):
        return _items(path, _of_splits(path, content))
    return None


def _numbered(path: str, content: List) -> List[Named]:
    return [(f"{path}: entry {number}", item) for number, item in enumerate(content)]


def _list_of_refs(path):
    refs = pickles.load(path)
    if not isinstance(refs, list):
        raise UserError(f"{path} does not hold a list of refs")
    return refs


def _is_list_of_objects(value):
    return isinstance(value, list) and value and isinstance(value[0], dict)


def _of_splits(path, content):
    """Return the entries of SeqTR's files, {split: entries}."""
    return [
        (f"{path}: {split}, entry {number}", {**item, "split": split})
        if isinstance(item, dict)
        else (f"{path}: {split}, entry {number}", item)
        for split, some in content.items()
        for number, item in enumerate(some)
    ]


class _Lines(List[Tuple[int, Any]]):
    """Line -> what it holds, a ValueError where that is no JSON."""


def _parse(path: str, text: str) -> Any:
    """Return what a JSON file holds, or a file with an object a line."""
    try:
        return files.parse_json(text)
    except (ValueError, RecursionError) as error:
        if not str(error).startswith("Extra data"):
            raise UserError(f"{path} is damaged: {error}") from error
        lines = _Lines()
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                lines.append((number, _parse_line(line)))
        if not isinstance(lines[0][1], dict):
            raise UserError(f"{path} is damaged: {error}") from error
        return lines


def _parse_line(line):
    try:
        return files.parse_json(line)
    except (ValueError, RecursionError) as error:
        return ValueError(str(error))


# --- Lists of entries: RefCOCO's and gRefCOCO's refs, CRIS, SeqTR, our own


def _items(path: str, items: List[Named]) -> Tuple[List[Named], Read]:
    has_refs = any(isinstance(item, dict) and "ann_id" in item for _, item in items)
    instances = refcoco.Instances(path) if has_refs else None

    def read_item(name, item):
        if isinstance(item, ValueError):
            raise UserError(f"{name} is damaged: {item}")
        if isinstance(item, dict) and "ann_id" in item:
            return _of_ref(instances, name, item)
        return _of_item(path, name, item)

    return items, read_item


def _of_ref(instances: refcoco.Instances, name: str, ref: Dict) -> Entry:
    refcoco.check_ref(name, ref)
    image, annotations = instances.of(ref)
    name = instances.name(ref)
    return Entry(
        name,
        image.get("file_name"),
        ref["split"],
        _texts(name, TEXTS[0], ref["sentences"]),
        segmentations=[one.get("segmentation") for one in annotations],
        size=(image["height"], image["width"]),
    )


def _of_item(path: str, name: str, item: Any) -> Entry:
    if not isinstance(item, dict):
        raise UserError(f"{name}: expected an object with {ENTRY}")
    said = _said(item)
    source, texts = said or (TEXTS[0], None)
    segmentations, mask_image = _masks(path, name, item)
    return Entry(
        name,
        _image_of(item),
        item.get("split"),
        _texts(name, source, texts),
        segmentations=segmentations,
        mask_image=mask_image,
        size=_size_of(item),
        source=source,
    )


def _masks(path, name, item):
    """Return (segmentations, path of a mask that is an image) of an entry."""
    given = [key for key in ("segmentation", "mask") if key in item]
    if _is_about_nothing(name, item):
        if any(item[key] for key in given):
            raise UserError(f"{name}: its no_target is true, but it has a mask")
        return [], None
    if not given and "segment_id" in item:
        return None, _mask_of_cris(path, name, item["segment_id"])
    if len(given) != 1:
        raise UserError(f"{name}: expected an object with {ENTRY}")
    mask = item[given[0]]
    if given == ["segmentation"] or isinstance(mask, (list, dict)):
        return [mask], None
    if not _is_inside(mask):
        raise UserError(
            f"{name}: its mask {mask!r} is not a path below the folder of {path}"
        )
    return None, os.path.join(os.path.dirname(path), mask)


def _mask_of_cris(path, name, segment):
    """Return the path of a mask from that of <...>/anns/<set>/<split>.json."""
    if not re.fullmatch("[0-9]+", str(segment)):
        raise UserError(f"{name}: its segment_id {segment!r} is no number")
    folder = os.path.dirname(os.path.abspath(path))
    top, data_set = os.path.dirname(os.path.dirname(folder)), os.path.basename(folder)
    return os.path.join(top, "masks", data_set, f"{segment}.png")


def _image_of(item):
    """Return the path of an image; by COCO's name where only its number is given."""
    named = [item[key] for key in IMAGES if key in item]
    number = item.get("image_id")
    if not named and type(number) is int and number >= 0:
        return datasets.COCO_NAME.format(number)
    return named[0] if named else None


def _size_of(item):
    size = (item.get("height"), item.get("width"))
    return size if all(type(side) is int for side in size) else None


# --- COCO files with sentences: our own, UNINEXT, CVAT, FiftyOne


def _coco(path: str, content: Dict) -> Tuple[List[Named], Read]:
    images, annotations = refcoco.coco_entries(path, content)
    attribute = _attribute(path, [*annotations.values(), *images.values()])
    shown: Dict[Any, List[Any]] = {}
    for number, annotation in annotations.items():
        shown.setdefault(_key(annotation.get("image_id")), []).append(number)
    _refuse_boxes(path, images, annotations, attribute)
    items = [(f"{path}: annotation {n}", one) for n, one in annotations.items()]
    items += [
        (f"{path}: image {n}", dict(image, image_id=n))
        for n, image in images.items()
        if n not in shown and _said(image, attribute)
    ]

    def read_item(name, item):
        """Return the Entry of an annotation or an image; None: it says nothing."""
        number = _key(item.get("image_id"))
        image = images.get(number, {})
        _refuse_other_texts(name, item)
        said = _said(item, attribute)
        if not said:
            said = _said(image, attribute)
            if said and len(shown.get(number, ())) > 1:
                raise UserError(
                    f"{path}: image {number} has {said[0]} and several annotations: "
                    "write them into the annotation that they mean"
                )
        if not said and (attribute in _attributes(item) or OF_TOOLS in item):
            said = BLANK, []
        if not said:
            return None
        if not image:
            raise UserError(
                f"{name}: its image {item.get('image_id')!r} is not among the images"
            )
        segmentations = [item.get("segmentation")]
        if _is_about_nothing(name, item):
            if item.get("segmentation"):
                raise UserError(f"{name}: its no_target is true, but it has a mask")
            segmentations = []
        return Entry(
            name,
            image.get("file_name"),
            item.get("split", image.get("split")),
            _texts(name, *said),
            segmentations=segmentations,
            size=(image["height"], image["width"]),
            source=said[0],
        )

    return items, read_item


def _key(number):
    return number if isinstance(number, (int, str)) else None


def _attribute(path: str, entries: List[Dict]) -> Optional[str]:
    """Return the name of the attribute that has the sentences, if any.

    Raises:
      UserError: several could be it.
    """
    if any(_said(entry) for entry in entries):
        return OF_TOOLS  # of what was drawn in a label tool, among what was predicted
    names = {
        name: None
        for entry in entries
        for name, value in _attributes(entry).items()
        if _is_said(value)
    }
    known = [name for name in names if name.lower() in TEXTS]
    if len(known or names) > 1:
        raise UserError(
            f"{path}: which attribute has the sentences, {', '.join(known or names)}? "
            f'Call it "{TEXTS[-2]}"'
        )
    return next(iter(known or names), None)


def _refuse_other_texts(name: str, item: Dict) -> None:
    """Refuse an annotation whose sentence was corrected in one of two places.

    -m predict writes it in two, and label tools keep one of them, or both.
    """
    places = {key: item.get(key) for key in (TEXTS[0], OF_TOOLS)}
    places[f"attributes.{OF_TOOLS}"] = _attributes(item).get(OF_TOOLS)
    given = {key: said for key, said in places.items() if said is not None}
    if len(given) < 2:
        return
    (first, texts), *others = [(k, _texts(name, k, given[k])) for k in given]
    for key, said in others:
        if not set(said) <= set(texts):
            raise UserError(
                f"{name}: {first} is {_listed(texts)}, but {key} is {_listed(said)}: "
                "delete what is not meant"
            )


def _listed(texts):
    return ", ".join(map(repr, texts))


def _attributes(item):
    attributes = item.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _refuse_boxes(path, images, annotations, attribute):
    """Refuse a file with sentences about boxes."""
    entries = [*images.values(), *annotations.values()]
    has_masks = any(e.get("segmentation") or "no_target" in e for e in entries)
    if has_masks or not any(_said(entry, attribute) for entry in entries):
        return
    mdetr = MDETR.match(os.path.basename(path))
    if mdetr or any("original_id" in entry for entry in entries):
        kept = mdetr.group(1) if mdetr else "refcoco"
        by = "umd" if kept == "refcocog" else "unc"
        raise UserError(
            f"{path} has boxes, no masks, as MDETR's files do: take the file it was "
            f"made from, {kept}/refs({by}).p, with instances.json next to it"
        )
    raise UserError(f"{path} has sentences, but no annotation has a segmentation")


# --- What all forms share


def _said(item: Dict, attribute: Optional[str] = None) -> Optional[Tuple[str, Any]]:
    """Return where an entry has its texts, and these; None: it has none."""
    for key in TEXTS:
        if item.get(key) is not None:
            return key, item[key]
    texts = _attributes(item).get(attribute)
    return (f"attributes.{attribute}", texts) if _is_said(texts) else None


def _is_said(value):
    """Say whether the value of an attribute is a text, or several."""
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def _texts(name: str, source: str, texts: Any) -> List[str]:
    """Return sentences as texts, whether they are that or objects with one."""
    if isinstance(texts, str) and source not in LISTS:
        return [texts]
    found = [
        text.get("sent", text.get("raw")) if isinstance(text, dict) else text
        for text in (texts if isinstance(texts, list) else [None])
    ]
    if not all(isinstance(text, str) for text in found):
        raise UserError(
            f'{name}: "{source}" must be a list of texts, or of objects with "sent"'
        )
    return found


def _is_about_nothing(name, item):
    value = item.get("no_target", False)
    if not isinstance(value, bool):
        raise UserError(f"{name}: its no_target is {value!r}, not true or false")
    return value


def _split_of_name(path):
    """Return the split that a file's name says: train.json, instances_train.json."""
    name = os.path.splitext(os.path.basename(path))[0]
    start = "instances_"
    return name[len(start) :] if name.startswith(start) else name


def _check_image(entry: Entry) -> None:
    if not _is_inside(entry.image):
        raise UserError(
            f"{entry.name}: its image {entry.image!r} is not a path below the folder "
            "of --images"
        )


def _check_split(entry: Entry) -> None:
    if not (
        isinstance(entry.split, str) and datasets.PLAIN_NAME.fullmatch(entry.split)
    ):
        raise UserError(
            f'{entry.name}: its "split" is {entry.split!r}; expected a plain name such '
            "as train or val"
        )


def _is_inside(path: Any) -> bool:
    """Say whether a text is a relative path that stays below where it begins."""
    if not isinstance(path, str):
        return False
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    parts = path.replace("\\", "/").split("/")
    return not os.path.isabs(path) and "\0" not in path and not {"", ".."} & set(parts)
