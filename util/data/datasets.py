"""The data sets: their splits, their files and the folders they lie in.

NumPy loads where samples are looked for, so that options are checked before it.
"""

import dataclasses
import glob
import os
import re
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Union

from util.core.errors import UserError
from util.core.files import read_json, write_json
from util.data import coco_images

if TYPE_CHECKING:
    from util.data import compact, samples

REFERENCE_ANNOTATIONS = os.path.join("external", "refer", "data")
COCO_NAME = "COCO_train2014_{:012d}.jpg"

FRAMES = STORED, UPRIGHT = "stored", "upright"  # of annotations, see util.data.frames
PLAIN_NAME = re.compile("[A-Za-z0-9_+][A-Za-z0-9_+-]*")  # goes into paths as it is


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One data set, bound to the folders that its files lie in.

    Example:
      >>> unc = get("unc", root="/mnt/data")
      >>> unc.vocabulary_file
      '/mnt/data/vocabulary_Gref.txt'
      >>> unc.build_command("val")
      'python build_batches.py -d unc -t val --data /mnt/data'

    Attributes:
      name: as after -d.
      splits: split -> number of sentences published for it; None: not fixed.
      vocabulary: name in the files of its words and word vectors.
      refs: `<folder>/<file>` of its refs, see `annotation_file`; None for ReferIt,
        whose annotations are query files and masks, and for custom data sets.
      other_refs: other folders and files that are the same as `refs`.
      image_folders: where its images may lie, below `root`.
      image_pattern: pattern of the name of an image.
      input_size: height and width of the network's input, in pixels.
      has_backbone: training starts from the published backbone weights.
      glove: pretrained word vectors can be used.
      v_emb_dim: channels of words and cells, see `models.base.Arguments`.
      mlp_dim: channels after fusion.
      no_target: sentences may mean nothing in their image.
      annotations: path of a custom data set's file, see `util.data.custom`; else None.
      images: path of the folder with a custom data set's images; else None.
      annotated: the frame of annotations whose size does not tell it, see
        `util.data.frames`; None: nobody said it.
      root: the data folder.
      batches: the folder of the samples, in place of `root`; None: it is `root`.
    """

    name: str
    splits: Dict[str, Optional[int]]
    vocabulary: str
    refs: Optional[str]
    other_refs: Sequence[str] = ()
    image_folders: Sequence[str] = coco_images.FOLDERS
    image_pattern: str = COCO_NAME
    input_size: int = 320
    has_backbone: bool = True
    glove: bool = True
    v_emb_dim: int = 1000
    mlp_dim: int = 500
    no_target: bool = False
    annotations: Optional[str] = None
    images: Optional[str] = None
    annotated: Optional[str] = None
    root: str = "data"
    batches: Optional[str] = None

    @property
    def is_custom(self) -> bool:
        """Whether a user made it, with build_batches.py --annotations."""
        return self.annotations is not None

    @property
    def vocabulary_file(self) -> str:
        """Path of the vocabulary, one word a line."""
        return os.path.join(self.root, f"vocabulary_{self.vocabulary}.txt")

    @property
    def embedding_file(self) -> str:
        """Path of the word vectors, float [V, 300]."""
        return os.path.join(self.root, f"{self.vocabulary}_emb.npy")

    def annotation_file(self, split: str) -> str:
        """Return the path of the file with the sentences of a split.

        Refs are looked for in <root>/refer/<folder>, <root>/<folder>, and the folder
        of the reference, external/refer/data/<folder>.
        """
        if self.annotations is not None:
            return self.annotations
        if self.refs is None:
            return os.path.join(self.root, f"referit_query_{split}.json")
        places = (os.path.join(self.root, "refer"), self.root, REFERENCE_ANNOTATIONS)
        names = (self.refs, *self.other_refs)
        paths = [os.path.join(place, name) for place in places for name in names]
        return next((path for path in paths if os.path.isfile(path)), paths[0])

    def mask_file(self, name: str) -> str:
        """Return the path of ReferIt's mask `<image>_<object>`."""
        return os.path.join(self.root, "referit", "mask", f"{name}.mat")

    def image_file(self, image: Union[int, str]) -> str:
        """Return the path of an image by its number; for ReferIt its digits as text.

        See `coco_images.find` for those of COCO.
        """
        name = self.image_pattern.format(image)
        return coco_images.find(
            [os.path.join(self.root, folder, name) for folder in self.image_folders]
        )

    def image_name(self, image: int) -> str:
        """Return the name of an image, the same wherever it lies."""
        return os.path.splitext(self.image_pattern.format(image))[0]

    def check_split(self, split: str) -> None:
        """Refuse a split that the data set does not have.

        Raises:
          UserError: lists those that it has.
        """
        if split not in self.splits:
            raise UserError(
                f"{self.name} has no split {split!r}; choose from "
                f"{', '.join(self.splits)}"
            )

    def prefix(self, split: str) -> str:
        """Return what the names of a split's sample files begin with."""
        return f"{self.name}_{split}"

    def build_dir(self, split: str) -> str:
        """Return the folder that a split's samples are written to."""
        return self._sample_dir(self.batches or self.root, split)

    def _sample_dir(self, root, split):
        return os.path.join(root, self.name, f"{split}_batch")

    def sample_dir(self, split: str) -> str:
        """Return the folder that a split's samples can be read from.

        That is `build_dir`, or where it has no samples and `batches` names no other
        place the folder of the reference, ./<name>/<split>_batch.

        Raises:
          UserError: unknown split, or no samples; says how to build them.
        """
        from util.data.samples import has_samples

        self.check_split(split)
        folders = [self.build_dir(split)]
        if self.batches is None:
            folders.append(self._sample_dir(".", split))
        for folder in folders:
            if has_samples(folder, self.prefix(split)):
                return folder
        raise UserError(
            f"there are no samples in {folders[0]}; build them: "
            f"{self.build_command(split)}"
        )

    def samples(self, split: str) -> "Union[samples.SampleFiles, compact.Samples]":
        """Open the samples of a split, see `samples.open_samples`.

        Raises:
          UserError: unknown split; there are none, some are missing, or their build
            was interrupted.
        """
        from util.data.samples import open_samples

        return open_samples(self.sample_dir(split), self.prefix(split))

    def build_command(self, split: str) -> str:
        """Return the command that builds a split's samples."""
        command = f"python build_batches.py -d {self.name} -t {split}"
        if self.root != "data":
            command += f" --data {self.root}"
        if self.batches is not None:
            command += f" --batches {self.batches}"
        return command

    @property
    def vocabulary_command(self) -> str:
        """The command that makes the vocabulary of a custom data set."""
        data = "" if self.root == "data" else f" --data {self.root}"
        return (
            f"python -m util.vocabulary -d {self.name}{data} "
            f"--output {self.vocabulary_file}"
        )


_BUILT_IN = (
    Dataset(
        "unc",
        {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
        vocabulary="Gref",
        refs="refcoco/refs(unc).p",
    ),
    Dataset(
        "unc+",
        {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
        vocabulary="Gref",
        refs="refcoco+/refs(unc).p",
    ),
    Dataset(
        "Gref",
        {"train": 85474, "val": 9536},
        vocabulary="Gref",
        refs="refcocog/refs(google).p",
    ),
    Dataset(
        "Gref-umd",
        {"train": 80512, "val": 4896, "test": 9602},
        vocabulary="Gref",
        refs="refcocog/refs(umd).p",
    ),
    Dataset(
        "gref",
        dict.fromkeys(("train", "val", "testA", "testB")),
        vocabulary="Gref",
        refs="grefcoco/grefs(unc).json",
        other_refs=(
            "grefcoco/grefs(unc).p",
            "grefs/grefs(unc).json",
            "grefs/grefs(unc).p",
        ),
        no_target=True,
    ),
    Dataset(
        "referit",
        {"trainval": 59976, "test": 60105},
        vocabulary="referit",
        refs=None,
        image_folders=("referit/images",),
        image_pattern="{}.jpg",
    ),
    Dataset(
        "shapes",
        {"train": None, "val": None, "test": None},
        vocabulary="shapes",
        refs="shapes/refs(shapes).p",
        image_folders=("shapes/images",),
        image_pattern="{:012d}.jpg",
        input_size=160,
        has_backbone=False,
        glove=False,
        v_emb_dim=64,
        mlp_dim=32,
    ),
)
DATASETS = {dataset.name: dataset for dataset in _BUILT_IN}


def get(name: str, root: str = "data", batches: Optional[str] = None) -> Dataset:
    """Return a data set: one of DATASETS, or a custom one that `remember` wrote.

    Args:
      name: as after -d.
      root: the data folder, that of --data.
      batches: the folder of the samples in place of `root`, that of --batches.

    Raises:
      UserError: there is none of that name, which lists those that are there; or the
        file about it is damaged.
    """
    if _is_built_in(name, root):
        return dataclasses.replace(DATASETS[name], root=root, batches=batches)
    path = custom_file(name, root)
    if not PLAIN_NAME.fullmatch(name) or not os.path.isfile(path):
        raise UserError(
            f"there is no data set {name!r}; choose from {', '.join(names(root))}, or "
            "make one of your own: "
            "python build_batches.py -d NAME --annotations FILE --images DIR -t SPLIT"
        )
    about = read_json(path)
    try:
        if not all(map(PLAIN_NAME.fullmatch, about["splits"])):
            raise ValueError("a split has no plain name")
        files = [os.fspath(about[key]) for key in ("annotations", "images")]
        annotated = about.get("annotated")
        if annotated not in (None, *FRAMES):
            raise ValueError(f"annotated is {annotated!r}")
        dataset = custom(name, *files, about["splits"], root, batches)
        return dataclasses.replace(dataset, annotated=annotated)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}): write it again with build_batches.py "
            f"-d {name} --annotations FILE --images DIR"
        ) from error


def _is_built_in(name, root):
    """Say whether a name is a built-in one that no older data set of a user's has."""
    return name in DATASETS and not os.path.isfile(custom_file(name, root))


def names(root: str = "data") -> List[str]:
    """Return the names of all data sets: the built-in ones, then the custom ones."""
    paths = glob.glob(custom_file("*", glob.escape(root)))
    more = sorted(os.path.basename(os.path.dirname(path)) for path in paths)
    return list(dict.fromkeys([*DATASETS, *more]))


def custom_file(name: str, root: str = "data") -> str:
    """Return the path of the file that says what a custom data set is."""
    return os.path.join(root, name, "dataset.json")


def check_custom_name(name: str, root: str = "data") -> None:
    """Refuse what a custom data set cannot be called.

    Raises:
      UserError: it is the name of a built-in one, or not a plain name.
    """
    if _is_built_in(name, root):
        raise UserError(
            f"-d {name} is built in: choose another name for the data set of "
            "--annotations"
        )
    if not PLAIN_NAME.fullmatch(name):
        raise UserError(
            f"-d {name!r} is not a name for a data set: use letters, digits, _, + and -"
        )


def custom(
    name: str,
    annotations: str,
    images: str,
    splits: Sequence[str],
    root: str = "data",
    batches: Optional[str] = None,
) -> Dataset:
    """Return a custom data set.

    Args:
      name: not checked, see `check_custom_name`.
      annotations: path of its file, see `util.data.custom`.
      images: path of the folder with its images.
      splits: their names.
      root, batches: as for `get`.
    """
    return Dataset(
        name,
        dict.fromkeys(splits),
        vocabulary=name,
        refs=None,
        no_target=True,
        annotations=os.path.abspath(annotations),
        images=os.path.abspath(images),
        root=root,
        batches=batches,
    )


def remember(dataset: Dataset) -> None:
    """Write the file of a custom data set, from which `get` reads it.

    Raises:
      UserError: the file cannot be written.
    """
    about = {
        "annotations": dataset.annotations,
        "images": dataset.images,
        "splits": list(dataset.splits),
    }
    if dataset.annotated:
        about["annotated"] = dataset.annotated
    write_json(custom_file(dataset.name, dataset.root), about)


def backbone_file(root: str = "data") -> str:
    """Return the path of the published weights of the backbone."""
    return os.path.join(root, "weights", "deeplab_resnet_init.ckpt")
