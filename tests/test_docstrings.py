"""The examples of docstrings, in whichever file: they do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest
from networks import small_backbone

from util.graph.compat import tf

TOP = Path(__file__).resolve().parent.parent
FILES = [*TOP.glob("*.py"), *TOP.glob("deeplab_resnet/*.py"), *TOP.glob("util/**/*.py")]


def name_of(path):
    """Return the dotted name of a module."""
    parts = path.relative_to(TOP).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


WITH_EXAMPLES = sorted(
    name_of(path) for path in FILES if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_do_what_they_say(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(str(tmp_path))
    with small_backbone(), tf.Graph().as_default():
        failed, attempted = doctest.testmod(module)
    assert attempted and not failed
