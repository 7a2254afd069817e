"""util.plot_log: what is read of logs, running means, lines in the axes, the PNG."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from util import plot_log

TOP = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")
# Keys of log.jsonl, and the axes that each is drawn in; `record` gives the n-th one n.
KEYS = {
    "loss_c5": "loss",
    "loss_all": "loss",
    "loss_avg": "loss",
    "accuracy_pos_avg": "accuracy",
    "regularisation": "regularisation",
    "learning_rate": "learning",
    "memory_mb": "memory",
}


def record(step, **changes):
    """Return a line of log.jsonl; the n-th key is n + step / 1000."""
    values = {key: n + 1 + step / 1000 for n, key in enumerate(KEYS)}
    return dict(values, loss=99, accuracy_pos=99, step=step, **changes)


def evaluation(step, overall_iou, mean_iou, split="val"):
    """Return a line of eval.jsonl."""
    scores = {"overall_iou": overall_iou, "mean_iou": mean_iou, "precision@0.5": 0.25}
    return dict(scores, step=step, split=split, samples=9)


def write_lines(path, records, end=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in records) + end)
    return str(path)


@pytest.fixture
def two_runs(tmp_path):
    """Write the folders `first` (with scores) and `second`, and return their paths."""
    folders = [tmp_path / "first", tmp_path / "second"]
    write_lines(folders[0] / "log.jsonl", map(record, [100, 200, 300, 400]))
    scores = [
        evaluation(200, 0.25, 0.5),
        evaluation(200, 0.125, 0.375, "testA"),
        evaluation(400, 0.75, 0.625),
    ]
    write_lines(folders[0] / "eval.jsonl", scores)
    write_lines(folders[1] / "log.jsonl", map(record, [1000, 2000]))
    return [str(folder) for folder in folders]


def read(path, smooth=1):
    """Return label -> (steps, values) of the curves of a run."""
    return {
        curve.label: (curve.steps.tolist(), curve.values.tolist())
        for curve in plot_log.read_curves(str(path), smooth)
    }


def drawn(runs):
    """Return title -> axes of the figure of some runs."""
    figure = plot_log.draw([plot_log.read_curves(run) for run in runs], runs)
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def told(parent):
    """Return what a legend says."""
    return [text.get_text() for text in parent.get_texts()]


def refused(arguments, capsys):
    """Run a command that must fail, and return the line that it prints."""
    assert plot_log.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    return printed.err


# --- Reading


def test_each_number_of_a_log_is_a_curve_but_those_that_have_an_average(two_runs):
    found = read(two_runs[1])
    assert list(found) == list(KEYS)
    for n, (steps, values) in enumerate(found.values(), 1):
        assert steps == [1000, 2000] and values == pytest.approx([n + 1, n + 2])


def test_losses_of_any_model_are_drawn(tmp_path):
    lines = [{"step": 1, "loss_avg": 2, "loss_mask": 3, "loss": 4, "note": "text"}]
    write_lines(tmp_path / "log.jsonl", lines)
    assert read(tmp_path) == {"loss_avg": ([1], [2]), "loss_mask": ([1], [3])}


def test_scores_are_read_by_split(two_runs):
    found = read(two_runs[0])
    assert list(found)[len(KEYS) :] == [
        "testA overall_iou (oIoU)",
        "testA mean_iou (mIoU)",
        "val overall_iou (oIoU)",
        "val mean_iou (mIoU)",
    ]
    assert found["val overall_iou (oIoU)"] == ([200, 400], [0.25, 0.75])
    assert found["testA mean_iou (mIoU)"] == ([200], [0.375])


def test_what_is_not_finite_is_a_gap(tmp_path):
    losses = [1.0, NAN, INF, -INF, 10**400, None, "7", True, 7]
    lines = [record(step, loss_all=loss) for step, loss in enumerate(losses)]
    write_lines(tmp_path / "log.jsonl", lines)
    _, values = read(tmp_path)["loss_all"]
    np.testing.assert_array_equal(values, [1, *[NAN] * 7, 7])


@pytest.mark.parametrize("size", [1, 50, 150])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, size):
    cut = json.dumps(record(300))[:size]
    write_lines(tmp_path / "log.jsonl", map(record, [100, 200]), end=cut)
    assert read(tmp_path)["loss_all"][0] == [100, 200]


def test_running_mean_by_hand():
    values = np.array([1.0, 2.0, 6.0, NAN, 4.0, 5.0])
    # (1), (1 + 2) / 2, (1 + 2 + 6) / 3, gap, (6 + 4) / 2, (4 + 5) / 2
    wanted = [1, 1.5, 3, NAN, 5, 4.5]
    np.testing.assert_allclose(plot_log.smoothed(values, 3), wanted, rtol=1e-12)
    np.testing.assert_array_equal(plot_log.smoothed(values, 1), values)
    mean = plot_log.smoothed(np.array([2.0, 4.0, 9.0]), 10**12)
    np.testing.assert_allclose(mean, [2, 3, 5], rtol=1e-12)


def test_scores_are_not_smoothed(two_runs):
    found = read(two_runs[0], smooth=2)
    assert found["learning_rate"][1] == pytest.approx([6.1, 6.15, 6.25, 6.35])
    assert found["val mean_iou (mIoU)"][1] == [0.5, 0.625]


# --- The figure


def test_each_panel_has_the_lines_of_each_run(two_runs):
    panels = drawn(two_runs)
    assert list(panels) == [*dict.fromkeys(KEYS.values()), "IoU"]
    for title, axes in panels.items():
        wanted = [(n, *x) for n, run in enumerate(two_runs) for x in read(run).items()]
        wanted = [x for x in wanted if KEYS.get(x[1], "IoU") == title]
        assert len(axes.lines) == len(wanted)
        for line, (number, _, (steps, values)) in zip(axes.lines, wanted):
            assert line.get_xdata().tolist() == steps
            assert line.get_ydata().tolist() == values
            assert line.get_color() == f"C{number}"
            assert line.get_marker() == "."  # the only value would have no line
    assert panels["loss"].get_yscale() == "log"


def test_legends_name_lines_and_runs(two_runs):
    panels = drawn(two_runs)
    styles = [line.get_linestyle() for line in panels["loss"].lines]
    assert styles == ["-", "--", ":"] * 2
    assert told(panels["loss"].get_legend()) == ["loss_c5", "loss_all", "loss_avg"]
    (legend,) = panels["loss"].figure.legends
    assert told(legend) == two_runs
    assert [line.get_color() for line in legend.get_lines()] == ["C0", "C1"]


# --- The command


def test_the_command_writes_a_png_and_prints_its_path(two_runs, capsys):
    assert plot_log.main([*two_runs, "--smooth", "2"]) == 0
    path = os.path.join(two_runs[0], "curves.png")
    assert capsys.readouterr().out == path + "\n"
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 1000
        found = np.array(image.convert("RGB")).astype(int)
    for colour in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first two
        assert (abs(found - colour).max(axis=2) <= 1).sum() > 500
    assert set(os.listdir(two_runs[0])) == {"curves.png", "eval.jsonl", "log.jsonl"}
    assert os.listdir(two_runs[1]) == ["log.jsonl"]


def test_names_are_not_taken_for_formulas_or_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [r"$\frac$", "_hidden", "a_b$c"]
    for folder in folders:
        write_lines(tmp_path / folder / "log.jsonl", [record(100)])
    assert plot_log.main([*folders, "--output", "new/curves.PNG"]) == 0
    assert capsys.readouterr().err == "" and os.path.exists("new/curves.PNG")
    (legend,) = drawn(folders)["loss"].figure.legends
    assert told(legend) == [r"\$\frac\$", "hidden", r"a_b\$c"]


@pytest.mark.parametrize("name", ["log.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("line", ["", '{"step": 2, "lo', "7", "{}", '{"step": "x"}'])
def test_a_damaged_line_is_named(two_runs, capsys, name, line):
    lines = [json.dumps(record(100)), line, json.dumps(record(300))]
    (Path(two_runs[0]) / name).write_text("\n".join(lines) + "\n")
    error = refused(two_runs, capsys)
    assert f"first/{name}, line 2: no JSON object with a step; delete the" in error
    assert not os.path.exists(os.path.join(two_runs[0], "curves.png"))


def test_bytes_that_are_no_text_are_damage(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe\0\n")
    assert "log.jsonl, line 1: no JSON" in refused([str(tmp_path)], capsys)


def test_a_folder_without_a_log_keeps_the_older_image(two_runs, tmp_path, capsys):
    older = Path(two_runs[0]) / "curves.png"
    older.write_bytes(b"older")
    (tmp_path / "none").mkdir()
    error = refused([*two_runs, str(tmp_path / "none")], capsys)
    assert "there is no file {}".format(tmp_path / "none" / "log.jsonl") in error
    assert "no file missing.jsonl" in refused(["missing.jsonl"], capsys)
    assert older.read_bytes() == b"older"


def test_files_that_cannot_be_read_or_written(two_runs, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    output = str(tmp_path / "taken" / "curves.png")
    error = refused([two_runs[0], "--output", output], capsys)
    assert "cannot write " + output in error
    path = os.path.join(two_runs[1], "eval.jsonl")
    os.mkdir(path)
    assert f"cannot read {path}: Is a directory" in refused(two_runs, capsys)


@pytest.mark.parametrize("content", ["", '{"step": 1'])
def test_a_log_without_a_line(tmp_path, capsys, content):
    path = write_lines(tmp_path / "log.jsonl", [], end=content)
    assert path + " has no whole line yet" in refused([path], capsys)


def test_without_matplotlib_the_command_says_how_to_install_it(
    two_runs, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install -e '.[plot]'" in refused(two_runs, capsys)
    assert not os.path.exists(os.path.join(two_runs[0], "curves.png"))


@pytest.mark.parametrize(
    "options, error",
    [
        ([], "RUN"),
        (["x", "--smooth", "0"], "'0' is not a whole number above 0"),
        (["x", "--output", "log.jsonl"], "'log.jsonl' is not a name of a .png file"),
    ],
)
def test_wrong_options_are_refused(capsys, options, error):
    with pytest.raises(SystemExit) as caught:
        plot_log.main(options)
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and error in printed and printed.count("\n") == 1


def test_no_window_system_and_no_state_of_pyplot_is_touched(two_runs):
    code = (
        "import sys\n"
        "from util import plot_log\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert plot_log.main(sys.argv[1:]) == 0\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *two_runs],
        cwd=str(TOP),
        env={**os.environ, "MPLBACKEND": "TkAgg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert found.returncode == 0 and found.stderr == "", found.stderr
