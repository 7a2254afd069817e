"""The data sets: their splits, their files and the folders they lie in.

`root` is the folder of the option --data, "data" unless told otherwise.
"""

import dataclasses
import glob
import json
import os
import re
from typing import Dict, List, Optional, Sequence, Union

from util.core.errors import UserError
from util.core.files import read_json, writing

REFERENCE_ANNOTATIONS = os.path.join("external", "refer", "data")

PLAIN_NAME = re.compile("[A-Za-z0-9_+][A-Za-z0-9_+-]*")  # goes into paths as it is


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What is particular to one data set.

    Attributes:
      splits: split -> number of sentences published for it; None: not fixed.
      vocabulary: name in the files of its words and word vectors.
      refs: `<folder>/<file>` of its refs below <root>/refer; None for ReferIt,
        whose annotations are query files and masks, and for own data sets.
      image_pattern: pattern of an image's path below `root`.
      input_size: height and width of the network's input, in pixels.
      backbone: training starts from the published backbone weights.
      glove: pretrained word vectors can be used.
      v_emb_dim: channels of words and cells, see `LSTM_model`.
      mlp_dim: channels after fusion.
      published: split -> overall IoU with DenseCRF in per cent, as published for CMPC.
      annotations: path of an own data set's file, see `util.own_data`; else None.
      images: path of the folder with an own data set's images; else None.
    """

    splits: Dict[str, Optional[int]]
    vocabulary: str
    refs: Optional[str]
    image_pattern: str = "coco/images/train2014/COCO_train2014_{:012d}.jpg"
    input_size: int = 320
    backbone: bool = True
    glove: bool = True
    v_emb_dim: int = 1000
    mlp_dim: int = 500
    published: Dict[str, float] = dataclasses.field(default_factory=dict)
    annotations: Optional[str] = None
    images: Optional[str] = None


DATASETS = {
    "unc": Dataset(
        {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
        vocabulary="Gref",
        refs="refcoco/refs(unc).p",
        published={"val": 62.47, "testA": 65.08, "testB": 60.82},
    ),
    "unc+": Dataset(
        {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
        vocabulary="Gref",
        refs="refcoco+/refs(unc).p",
        published={"val": 50.25, "testA": 54.04, "testB": 43.47},
    ),
    "Gref": Dataset(
        {"train": 85474, "val": 9536},
        vocabulary="Gref",
        refs="refcocog/refs(google).p",
        published={"val": 49.89},
    ),
    "referit": Dataset(
        {"trainval": 59976, "test": 60105},
        vocabulary="referit",
        refs=None,
        image_pattern="referit/images/{}.jpg",
        published={"test": 65.58},
    ),
    "shapes": Dataset(
        {"train": None, "val": None, "test": None},
        vocabulary="shapes",
        refs="shapes/refs(shapes).p",
        image_pattern="shapes/images/{:012d}.jpg",
        input_size=160,
        backbone=False,
        glove=False,
        v_emb_dim=64,
        mlp_dim=32,
    ),
}


def get(dataset: str, root: str = "data") -> Dataset:
    """Return a data set: one of DATASETS, or an own one that `remember` wrote down.

    Raises:
      UserError: there is none of that name, which lists those that are there; or the
        file about it is damaged.
    """
    if dataset in DATASETS:
        return DATASETS[dataset]
    path = own_file(dataset, root)
    if not PLAIN_NAME.fullmatch(dataset) or not os.path.isfile(path):
        raise UserError(
            f"there is no data set {dataset!r}; choose from "
            f"{', '.join([*DATASETS, *own_names(root)])}, or make one of your own: "
            "python build_batches.py -d NAME --annotations FILE --images DIR -t SPLIT"
        )
    about = read_json(path)
    try:
        if not all(map(PLAIN_NAME.fullmatch, about["splits"])):
            raise ValueError("a split has no plain name")
        return Dataset(
            dict.fromkeys(about["splits"]),
            vocabulary=dataset,
            refs=None,
            annotations=os.fspath(about["annotations"]),
            images=os.fspath(about["images"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}): write it again with build_batches.py "
            f"-d {dataset} --annotations FILE --images DIR"
        ) from error


def own_file(dataset: str, root: str = "data") -> str:
    """Return the path of the file that says what an own data set is."""
    return os.path.join(root, dataset, "dataset.json")


def own_names(root: str = "data") -> List[str]:
    """Return the names of the own data sets, sorted."""
    paths = glob.glob(own_file("*", glob.escape(root)))
    return sorted(os.path.basename(os.path.dirname(path)) for path in paths)


def check_own_name(dataset: str) -> None:
    """Refuse what an own data set cannot be called.

    Raises:
      UserError: it is the name of another one, or no plain name.
    """
    if dataset in DATASETS:
        raise UserError(
            f"-d {dataset} is built in: choose another name for the data set of "
            "--annotations"
        )
    if not PLAIN_NAME.fullmatch(dataset):
        raise UserError(
            f"-d {dataset!r} is no name for a data set: use letters, digits, _, + and -"
        )


def remember(
    dataset: str, root: str, annotations: str, images: str, splits: Sequence[str]
) -> None:
    """Write down an own data set so that `get` knows it, in place of an older one.

    Raises:
      UserError: the file cannot be written.
    """
    about = {
        "annotations": os.path.abspath(annotations),
        "images": os.path.abspath(images),
        "splits": list(splits),
    }
    with writing(own_file(dataset, root)) as file:
        file.write(json.dumps(about, indent=2).encode("ascii"))


def check_split(dataset: str, split: str, root: str = "data") -> None:
    """Refuse a split that a data set does not have.

    Raises:
      UserError: `dataset` or `split` is unknown; lists the choices.
    """
    splits = get(dataset, root).splits
    if split not in splits:
        raise UserError(
            f"{dataset} has no split {split!r}; choose from {', '.join(splits)}"
        )


def vocabulary_file(dataset: str, root: str = "data") -> str:
    """Return the path of a data set's vocabulary, one word a line."""
    return os.path.join(root, f"vocabulary_{get(dataset, root).vocabulary}.txt")


def embedding_file(dataset: str, root: str = "data") -> str:
    """Return the path of its word vectors, float [V, 300]."""
    return os.path.join(root, f"{get(dataset, root).vocabulary}_emb.npy")


def backbone_file(root: str = "data") -> str:
    """Return the path of the published weights of the backbone."""
    return os.path.join(root, "weights", "deeplab_resnet_init.ckpt")


def annotation_dir(dataset: str, root: str = "data") -> str:
    """Return the folder with the refs and instances.json of a data set.

    That is <root>/refer/<name>, or where only it exists the folder of the
    reference, external/refer/data/<name>.
    """
    name = os.path.dirname(DATASETS[dataset].refs)
    ours = os.path.join(root, "refer", name)
    theirs = os.path.join(REFERENCE_ANNOTATIONS, name)
    return theirs if os.path.isdir(theirs) and not os.path.isdir(ours) else ours


def refs_file(dataset: str, root: str = "data") -> str:
    """Return the path of a data set's refs(x).p."""
    name = os.path.basename(DATASETS[dataset].refs)
    return os.path.join(annotation_dir(dataset, root), name)


def query_file(split: str, root: str = "data") -> str:
    """Return the path of ReferIt's sentences of one split."""
    return os.path.join(root, f"referit_query_{split}.json")


def annotation_file(dataset: str, split: str, root: str = "data") -> str:
    """Return the path of the file with the sentences of a split."""
    about = get(dataset, root)
    if about.annotations:
        return about.annotations
    return refs_file(dataset, root) if about.refs else query_file(split, root)


def mask_file(name: str, root: str = "data") -> str:
    """Return the path of ReferIt's mask `<image>_<object>`."""
    return os.path.join(root, "referit", "mask", f"{name}.mat")


def image_file(dataset: str, image: Union[int, str], root: str = "data") -> str:
    """Return the path of an image.

    Args:
      dataset: a key of DATASETS.
      image: its number; for ReferIt the digits as text.
      root: the data folder.
    """
    return os.path.join(root, DATASETS[dataset].image_pattern.format(image))


def sample_prefix(dataset: str, split: str) -> str:
    """Return what the names of a split's sample files begin with."""
    return f"{dataset}_{split}"


def batch_dir(
    dataset: str, split: str, root: str = "data", batches: Optional[str] = None
) -> str:
    """Return the folder that a split's samples are written to.

    Args:
      dataset: its name.
      split: one of its splits.
      root: the data folder.
      batches: a folder to use in place of `root`, or None.
    """
    return os.path.join(batches or root, dataset, f"{split}_batch")


def find_batch_dir(
    dataset: str, split: str, root: str = "data", batches: Optional[str] = None
) -> str:
    """Return the folder that a split's samples can be read from.

    That is `batch_dir`, or where it has no samples and `batches` names no other
    place the folder of the reference, ./<dataset>/<split>_batch.

    Raises:
      UserError: unknown split, or no samples; says how to build them.
    """
    check_split(dataset, split, root)
    folders = [batch_dir(dataset, split, root, batches)]
    if batches is None:
        folders.append(batch_dir(dataset, split, root="."))
    for folder in folders:
        if has_samples(folder, sample_prefix(dataset, split)):
            return folder
    command = build_command(dataset, split, root, batches)
    raise UserError(f"there are no samples in {folders[0]}; build them: {command}")


def build_command(
    dataset: str, split: str, root: str = "data", batches: Optional[str] = None
) -> str:
    """Return the command that builds a split's samples."""
    command = f"python build_batches.py -d {dataset} -t {split}"
    if root != "data":
        command += f" --data {root}"
    if batches is not None:
        command += f" --batches {batches}"
    return command


def index_file(folder: str, prefix: str) -> str:
    """Return the path of the index that samples of the compact layout have."""
    return os.path.join(folder, f"{prefix}_index.npz")


def has_samples(folder: str, prefix: str) -> bool:
    """Say whether a folder holds samples, in either layout."""
    is_compact = os.path.isfile(index_file(folder, prefix))
    return is_compact or bool(numbered_files(folder, prefix))


def numbered_files(folder: str, prefix: str) -> Dict[int, str]:
    """Return number -> path of the files `<prefix>_<number>.npz` in a folder."""
    if not os.path.isdir(folder):
        return {}
    pattern = re.compile(re.escape(prefix) + r"_(0|[1-9][0-9]*)\.npz")
    matches = map(pattern.fullmatch, os.listdir(folder))
    return {int(m.group(1)): os.path.join(folder, m.group()) for m in matches if m}
