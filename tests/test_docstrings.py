"""The examples of docstrings, in whichever file: they do what they say."""

import doctest
import importlib
import os
import shutil
from pathlib import Path

import pytest
import recipe
import runs
from networks import small_backbone
from PIL import Image

from util.data import datasets
from util.graph.compat import tf

TOP = Path(__file__).resolve().parent.parent
FILES = [*TOP.glob("*.py"), *TOP.glob("deeplab_resnet/*.py"), *TOP.glob("util/**/*.py")]
SNAPSHOT = "shapes_iter_10000.tfmodel"  # of the demo


def name_of(path):
    """Return the dotted name of a module."""
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


WITH_EXAMPLES = sorted(
    name_of(path) for path in FILES if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the working folder of examples.

    data/ has the samples of `shapes`, ckpts/shapes/demo the snapshot of the demo, small
    and drawn at random; image.jpg is an image.
    """
    folder = tmp_path_factory.mktemp("examples")
    data = runs.build(folder, jobs=1)
    demo = folder / "ckpts" / "shapes" / "demo"
    demo.mkdir(parents=True)
    drawn = runs.draw_weights(demo, data)
    for name in os.listdir(str(demo)):
        if name.startswith(os.path.basename(drawn)):
            ending = name[len(os.path.basename(drawn)) :]
            (demo / name).rename(demo / (SNAPSHOT + ending))
    vocabulary = datasets.get("shapes", data[1]).vocabulary_file
    shutil.copy(vocabulary, str(demo / "vocabulary.txt"))
    Image.fromarray(recipe.image(1, 40, 90)).save(str(folder / "image.jpg"))
    return folder


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_do_what_they_say(name, folder, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(str(folder))
    with small_backbone(), tf.Graph().as_default():
        failed, attempted = doctest.testmod(module)
    assert attempted and not failed
