"""Random images, samples and annotations, for `util.benchmark` to work on.

Also the way in which the reference builds samples, to compare ours with.
"""

import itertools
import json
import os
import pickle
from typing import Any, Dict, List

import numpy as np
from PIL import Image

from util.core import files
from util.data import annotations, datasets, text_processing
from util.data.referent import decode_segmentation

OBJECTS = (3, 3, 1)  # sentences about each object of an image
WORDS = "the left right red box man woman dog car tree near on".split()
NOISE = 4.0  # grey levels; DenseCRF takes as long as on photographs


def random_image(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Return uint8 [height, width, 3]: soft blots of colour and a little noise."""
    blots = rng.randint(0, 256, [6, 8, 3]).astype(np.uint8)
    soft = Image.fromarray(blots).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(soft) + rng.normal(0, NOISE, [height, width, 3])
    return noisy.clip(0, 255).astype(np.uint8)


def random_samples(
    seed: int, sentences: int, height: int, width: int, vocab_size: int
) -> List[Dict[str, Any]]:
    """Return samples of one image, as `DataReader.read_batch` gives them."""
    rng = np.random.RandomState(seed)
    image = random_image(rng, height, width)
    mask = np.zeros([height, width], bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return [
        {
            "text_batch": rng.randint(4, vocab_size, 20).astype(np.int32),
            "im_batch": image,
            "mask_batch": mask,
            "sent_batch": [""],
            "im_name_batch": [str(seed)],
        }
        for _ in range(sentences)
    ]


def draw_images(root: str, count: int, height: int, width: int) -> None:
    """Write `count` images and their annotations as RefCOCO's are."""
    unc, rng = datasets.get("unc", root), np.random.RandomState(0)
    refs, annotations = [], []
    for image in range(count):
        path = unc.image_file(image)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(random_image(rng, height, width)).save(path, quality=90)
        for sentences in OBJECTS:
            one = {"id": len(refs), "image_id": image, "iscrowd": 0}
            annotations.append(dict(one, segmentation=[_outline(rng, height, width)]))
            refs.append(_ref(rng, len(refs), image, sentences))
    images = [{"id": image, "height": height, "width": width} for image in range(count)]
    refs_file = unc.annotation_file("train")
    with files.whole_file(refs_file) as file:
        pickle.dump(refs, file, protocol=2)
    path = os.path.join(os.path.dirname(refs_file), "instances.json")
    with files.whole_file(path, "w") as file:
        json.dump({"images": images, "annotations": annotations}, file)
    with files.whole_file(unc.vocabulary_file, "w") as file:
        file.writelines(word + "\n" for word in text_processing.SPECIAL_WORDS)
        file.writelines(word + "\n" for word in WORDS)


def _outline(rng, height, width):
    """Return a polygon of 16 corners, [x, y, x, y, ...], in pixels."""
    angles = np.arange(16) * (np.pi / 8)
    reach = rng.uniform(0.1, 0.25, 16)
    x = width * (rng.uniform(0.3, 0.7) + reach * np.cos(angles))
    y = height * (rng.uniform(0.3, 0.7) + reach * np.sin(angles))
    return np.stack([x, y], axis=1).ravel().tolist()


def _ref(rng, number, image, sentences):
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(sentences)]
    return {
        "ref_id": number,
        "ann_id": number,
        "image_id": image,
        "split": "train",
        "category_id": 1,
        "file_name": f"{image}.jpg",
        "sent_ids": list(range(sentences)),
        "sentences": [
            {"sent_id": n, "sent": text, "raw": text, "tokens": text.split()}
            for n, text in enumerate(texts)
        ],
    }


def build_singly(root: str, folder: str, images: int, size: int) -> None:
    """Write the samples of the first images as the reference does, one by one.

    Each referent reads its image again, and each sentence stores it again.
    """
    unc = datasets.get("unc", root)
    vocabulary = text_processing.load_vocab_dict_from_file(unc.vocabulary_file)
    numbers = itertools.count()
    referents = annotations.referents(unc, "train")
    for referent in referents[: images * len(OBJECTS)]:
        with Image.open(referent.image) as file:
            image = np.asarray(file)
        height, width = image.shape[:2]
        (outline,) = referent.segmentations
        mask = decode_segmentation(outline, height, width)
        image = np.uint8(255 * _pad(image, size))
        mask = _pad(mask.astype(np.float32), size) > 0
        for sentence in referent.sentences:
            np.savez(
                os.path.join(folder, f"unc_train_{next(numbers)}.npz"),
                text_batch=text_processing.preprocess_sentence(sentence, vocabulary),
                im_batch=image,
                mask_batch=mask,
                sent_batch=[sentence],
            )


def _pad(im, size):
    """Fit an array [H, W, ...] into a square, in the middle, with scikit-image."""
    from skimage.transform import resize

    scale = size / max(im.shape[:2])
    shape = [int(side * scale) for side in im.shape[:2]]
    top, left = ((size - side) // 2 for side in shape)
    padded = np.zeros([size, size, *im.shape[2:]])
    padded[top : top + shape[0], left : left + shape[1]] = resize(
        im, shape, order=1, mode="constant", anti_aliasing=False
    )
    return padded
