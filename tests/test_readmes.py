"""What the READMEs show: commands, links, options, the example in Python.

Every command in a fence is parsed by the parser of its program, and run where HOW says
so: in a folder with two scenes of `shapes`, a tiny `unc` and a snapshot of 8 channels.
"""

import ast
import importlib
import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
import pytest
import readme_row
import tiny_sets
from networks import small_backbone
from PIL import Image

import trainval_model
from util.core import files
from util.core.errors import UserError
from util.data import datasets
from util.training import cluster

TOP = Path(__file__).resolve().parents[1]
OLD = TOP / "tests" / "before_house"
READMES = [
    "README.md",
    "data/README.md",
    "ckpts/README.md",
    "util/README.md",
    "util/deploy/README.md",
]
# Both start from a fresh clone, so people and programs rely on every letter.
MAIN_JOB = (
    "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && "
    "python trainval_model.py -m demo"
)
ALL_TESTS = (
    "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[test]' && "
    "pytest tests"
)
RUN = "run"
# What happens to a command: the first pattern that matches counts. All are parsed.
HOW = [
    (r"python .* corrected.*", "tests/commands/test_label_tools.py"),
    (r"python -m util\.vocabulary mine\.json .*", "tests/data/test_custom.py"),
    (r"python -m util\.(check|convert|glove|plot_log|vocabulary) .*", RUN),
    (r"python build_batches\.py -d mine .*", "tests/data/test_custom.py"),
    (r"python build_batches\.py -d shapes .*", "tests/data/test_shapes.py, small"),
    (r"python build_batches\.py -d unc .*", RUN),
    (r"python trainval_model\.py -m (predict|report) .*", RUN),
    (r"python trainval_model\.py -m test -d mine .*", "tests/data/test_custom.py"),
    (r"python trainval_model\.py -m test .*", RUN),
    (r"python trainval_model\.py -m demo", "tests/training/test_demo.py, small"),
    (r"python trainval_model\.py -m train .*", "hours; tests/training/test_train.py"),
    (r"python trainval_model\.py -m serve .*", "tests/deploy/test_server.py"),
    (r"python trainval_model\.py -m export .*", "tests/deploy/test_export.py"),
    (r"python -m util\.convert_backbone .*", "files of 170 MB from other servers"),
    (r"python -m util\.benchmark.*", "minutes; tests/bench/test_benchmark.py"),
    (r"python -m util\.compare_models .*", "hours; tests/training/test_comparison.py"),
    (r"python tests/\w+\.py .*", "needs a page or the demo's snapshot"),
    (r"python3[.\d]* -m venv \S+", "CI installs"),
    (r"\. \S+/activate", "CI installs"),
    (r"\S*pip install .*", "CI installs"),
    (r"export TF_CONFIG=.*", "its value is read"),
    (r"curl .*", "tests/deploy/test_server.py"),
    (r"pytest .*", "that is what runs here"),
    (r"ruff .*", "CI runs it"),
]
SMALLER = {  # one process, or a child would load TensorFlow again
    "build_batches.py": "-j 1",
    "-m test": "--crf-jobs 1 -g -1",
    "-m predict": "-g -1",
    "-m report -d": "-g -1",
}
BEFORE = {  # what must be built before a command runs
    r"convert -d unc -t (\w+)$": "-d unc -t {} -j 1",
    r"convert -d unc -t (\w+) --to npz": "-d unc -t {} --compact -j 1",
    r"-m test -d unc -t (\w+)": "-d unc -t {} -j 1",
}


def read(name):
    return (TOP / name).read_text(encoding="utf-8")


# --- Commands


class Fence(NamedTuple):
    """A block between ``` lines: the word after the first ones, and its text."""

    language: str
    text: str


def fences(text) -> List[Fence]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Fence(*one) for one in found]


def is_command(line):
    return re.match(r"(python[.\d]*|pip|pytest|ruff|curl|export|\S+/pip) ", line)


def split(line):
    """Return the commands that && joins, as they were written."""
    ends = [m.end() for m in re.finditer(r" && ", line)]
    parts = [line[a:b] for a, b in zip([0, *ends], [*ends, len(line)])]
    return [part[: -len(" && ")] if part.endswith(" && ") else part for part in parts]


def commands_of(text):
    """Return the commands in the fences of a README."""
    found = []
    for fence in fences(text):
        if is_command(fence.text):
            for line in fence.text.replace("\\\n ", "").splitlines():
                found += split(line)
    return found


COMMANDS = [
    pytest.param(name, command, id=f"{name}:{command[:60]}")
    for name in READMES
    for command in dict.fromkeys(commands_of(read(name)))
]


def how(command):
    return next(what for pattern, what in HOW if re.fullmatch(pattern, command))


def test_all_fences_are_of_a_known_kind():
    """A command that begins like none of ours would not be looked at."""
    for name in READMES:
        for _, text in fences(read(name)):
            known = r"[\[{@]|from |import |Segmentation |(data|ckpts)/"
            assert is_command(text) or re.match(known, text), (name, text)
            if not is_command(text):
                assert not re.search(r"^(python|pip) ", text, re.M), (name, text)


def test_every_row_about_commands_is_needed():
    commands = [param.values[1] for param in COMMANDS]
    for pattern, _ in HOW:
        assert any(re.fullmatch(pattern, command) for command in commands), pattern


def test_every_command_and_mode_is_shown():
    shown = "\n".join(param.values[1] for param in COMMANDS)
    for path in (TOP / "util").glob("[a-z]*.py"):
        assert f"python -m util.{path.stem} " in shown
    assert set(re.findall(r"trainval_model\.py -m (\w+)", shown)) == set(
        trainval_model.MODES
    )


def test_two_commands_are_all_that_a_fresh_machine_needs():
    lines = [fence.text.strip() for fence in fences(read("README.md"))]
    assert MAIN_JOB in lines and ALL_TESTS in lines


def extras():
    """Return the names of the extras in setup.py, which cannot be imported."""
    for node in ast.walk(ast.parse(read("setup.py"))):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            return {ast.literal_eval(key) for key in node.value.keys}


def module_of(words):
    """Return the name of the module behind `python ...`, and its options."""
    if words[0] == "-m":
        return words[1], words[2:]
    return words[0].replace("tests/", "")[: -len(".py")], words[1:]


@pytest.mark.parametrize("name, command", COMMANDS)
def test_commands_parse(tmp_path, monkeypatch, name, command):
    assert how(command)
    monkeypatch.chdir(str(tmp_path))
    about = {"annotations": "mine.json", "images": "images", "splits": ["train", "val"]}
    for custom in ("mine", "corrected"):
        files.write_json(datasets.custom_file(custom), about)
    program, *words = shlex.split(command)
    if program == "python":
        module, options = module_of(words)
        if module == "trainval_model":
            trainval_model.parse(options)
        else:
            importlib.import_module(module).build_parser().parse_args(options)
    elif program.endswith("pip"):
        assert words[:2] == ["install", "-e"] and len(words) == 3
        wanted = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[2]).group(1)
        assert set(wanted.split(",") if wanted else []) <= extras()
    elif program == "export":
        variable, value = words[0].split("=", 1)
        assert variable == "TF_CONFIG" and cluster.read(value)
    elif program == "curl":
        assert "http://127.0.0.1:7860/gradio_api/" in command
        for body in words[words.index("-d") + 1 :] if "-d" in words else []:
            assert len(json.loads(body)["data"]) == 3
    elif program == "pytest":
        paths = [TOP / word for word in words if word.startswith("tests")]
        assert paths and all(path.exists() for path in paths)
        if "-k" in words:
            (path,) = paths
            assert f"def test_{words[words.index('-k') + 1]}" in path.read_text()


# --- Those that run


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with all that the commands read."""
    top = tmp_path_factory.mktemp("readmes")
    data = top / "data"
    shutil.copytree(str(OLD / "data"), str(data))
    tiny_sets.write_unc(data)
    # The run that poses as one of unc knows the words of shapes.
    words = str(data / "vocabulary_shapes.txt")
    shutil.copy(words, str(data / "vocabulary_Gref.txt"))
    tiny_sets.write_vocabulary(data / "vocabulary_referit.txt")
    tiny_sets.write_vocabulary(top / "sentences.txt")
    (data / "shapes" / "test_batch").mkdir()
    for file in (data / "shapes" / "val_batch").iterdir():  # no test scene is there
        copy = file.name.replace("_val_", "_test_")
        shutil.copy(str(file), str(data / "shapes" / "test_batch" / copy))
    write_runs(top / "ckpts")
    for name in ("first.json", "second.json"):
        shutil.copy(str(OLD / "ckpts" / "shapes_iter_800.tfmodel.val.json"), name)
        shutil.move(name, str(top / name))
    record = files.read_json(str(top / "first.json"))
    for split in ("val", "testA", "testB"):
        files.write_json(str(top / f"{split}.json"), dict(record, split=split))
    image = str(OLD / "data" / "shapes" / "images" / "000000000001.jpg")
    (top / "photos").mkdir()
    for name in "photo image a b photos/a photos/b".split():
        shutil.copy(image, str(top / f"{name}.jpg"))
    (top / "queries.csv").write_text("image,sentence\na.jpg,the red circle\n")
    with zipfile.ZipFile(str(top / "glove.6B.zip"), "w") as file:
        file.writestr("glove.6B.300d.txt", "left" + " 0.5" * 300 + "\n")
    return top


def write_runs(folder):
    """Copy the one run there is to where the commands look for runs."""
    for run, snapshot, split in (
        ("shapes/demo", "shapes_iter_10000", "test"),
        ("shapes/small", "shapes_iter_1000", "test"),
        ("unc/cmpc_model", "unc_iter_700000", "val"),
    ):
        (folder / run).mkdir(parents=True)
        for file in (OLD / "ckpts").iterdir():
            name = file.name.replace("shapes_iter_800", snapshot)
            name = name.replace(".val.", f".{split}.")
            shutil.copy(str(file), str(folder / run / name))


@pytest.fixture
def folder(template, tmp_path, monkeypatch):
    """The working folder, a copy of `template`."""
    folder = tmp_path / "run"
    shutil.copytree(str(template), str(folder))
    monkeypatch.chdir(str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    return folder


def start(command):
    """Run a command in this process and return its exit code."""
    module, options = module_of(shlex.split(command)[1:])
    for key, more in SMALLER.items():
        if key in command:
            options += more.split()
    with small_backbone():
        return importlib.import_module(module).main(options)


@pytest.mark.parametrize(
    "command",
    dict.fromkeys(c for c in (p.values[1] for p in COMMANDS) if how(c) == RUN),
)
def test_commands_run(folder, command):
    for pattern, options in BEFORE.items():
        match = re.search(pattern, command)
        if match:
            options = options.format(*match.groups())
            assert start(f"python build_batches.py {options}") == 0
    # The check finds no word vectors and no weights, and must say so.
    assert start(command) == (1 if "util.check" in command else 0)


def test_example_in_python(folder):
    (code,) = [fence.text for fence in fences(read("README.md")) if fence.language]
    assert len(code.splitlines()) <= 6
    names = {}
    with small_backbone():
        exec(compile(code, "README.md", "exec"), names)
    with Image.open("image.jpg") as image:
        assert names["circle"].mask.shape == (image.height, image.width)
    assert names["circle"].mask.dtype == bool
    assert names["square"].words[1].text == "small"
    assert names["circle"].probability.max() <= 1 and names["circle"].levels


# --- The row of right answers


def answer(scene, sentence, iou):
    image = np.full((20, 30, 3), scene, np.uint8)
    return readme_row.Shown(image, np.ones((20, 30), bool), sentence, iou)


def test_row_shows_the_best_of_different_scenes_and_lengths():
    answers = [
        answer(1, "the red circle", 0.91),
        answer(2, "the square", 0.95),
        answer(2, "the square at the top", 0.94),  # its scene is there
        answer(3, "the green circle", 0.90),  # its length is there
        answer(4, "the circle that is red", 0.85),
        answer(5, "the square that is not so red", 0.2),
    ]
    chosen = readme_row.choose(answers)
    assert [one.iou for one in chosen] == [0.95, 0.91, 0.85]
    with pytest.raises(UserError, match="only 2 answers"):
        readme_row.choose(answers[:4])
    height, width = readme_row.row(chosen).shape[:2]
    assert width > 3 * 2 * readme_row.SIDE > height


def test_row_of_a_snapshot(folder, monkeypatch, capsys):
    monkeypatch.setattr(readme_row, "NUM_SHOWN", 1)
    command = "python tests/readme_row.py ckpts/shapes/demo --output answers.png"
    monkeypatch.setattr(readme_row, "RIGHT", 0)
    assert start(command) == 0
    (line,) = capsys.readouterr().out.splitlines()
    iou, sentence = re.fullmatch(r"IoU (\S+): (the .*)", line).groups()
    assert 0 <= float(iou) <= 1
    with Image.open("answers.png") as image:
        assert image.width > 2 * readme_row.SIDE > image.height / 2
    shutil.rmtree("ckpts")
    assert start(command) == 2 and "run -m demo first" in capsys.readouterr().err


# --- Links, paths, options, length


def anchor(heading):
    """Return what a link to a heading ends in, on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def without_fences(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    text = without_fences(read(name))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, section = target.partition("#")
        file = (TOP / name).parent / path if path else TOP / name
        assert file.exists(), target
        if section:
            headings = re.findall(r"^#+ (.*)$", without_fences(file.read_text()), re.M)
            assert section in map(anchor, headings), target


@pytest.mark.parametrize("name", READMES)
def test_code_that_is_named_is_there(name):
    paths = re.findall(
        r"`((?:util|tests|deeplab_resnet)/[\w/]*(?:\.\w+)?)`", read(name)
    )
    assert [path for path in paths if not (TOP / path).exists()] == []


def test_rows_of_the_code_map_name_files_of_their_room():
    rows = re.findall(
        r"^\| `(util/\w+/)` \|.*\| `(\w+\.py)` \|$", read("README.md"), re.M
    )
    rooms = {f"util/{path.parent.name}/" for path in TOP.glob("util/*/__init__.py")}
    assert {room for room, _ in rows} == rooms and len(rows) == len(rooms)
    assert all((TOP / room / file).exists() for room, file in rows)


def test_options_are_all_in_the_table():
    section = read("ckpts/README.md").split("\n## All options\n")[1]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    shown = [option for cell in cells for option in re.findall(r"`(-[\w-]+)", cell)]
    options = set(trainval_model.build_parser()._option_string_actions)
    assert sorted(shown) == sorted(options - {"-h", "--help"})


def test_readme_is_short_and_quick():
    lines = read("README.md").splitlines()
    assert len(lines) <= 200
    assert lines[0] == "# RefSeg" and "https://arxiv.org/abs/2010.00514" in "".join(
        lines[:10]
    )
    first = [param.values[1] for param in COMMANDS if param.values[0] == "README.md"]
    assert any("-m predict" in command for command in first[:10])
