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
# The keys of log.jsonl; `record` gives each one values of its own.
KEYS = (
    "loss loss_c5 loss_c4 loss_c3 loss_all regularisation learning_rate accuracy_all "
    "accuracy_pos accuracy_neg loss_avg accuracy_all_avg accuracy_pos_avg "
    "accuracy_neg_avg sentences_per_s memory_mb skipped"
).split()
DRAWN = {
    "Loss": ["loss", "loss_avg", "loss_c5", "loss_c4", "loss_c3"],
    "Accuracy, average": ["accuracy_all_avg", "accuracy_pos_avg", "accuracy_neg_avg"],
    "Regularisation": ["regularisation"],
    "Learning rate": ["learning_rate"],
    "Speed": ["sentences_per_s"],
    "Memory": ["memory_mb"],
}


def record(step, **changes):
    """Return a line of log.jsonl; the n-th key is n + step / 1000."""
    return dict(
        {key: n + step / 1000 for n, key in enumerate(KEYS)}, step=step, **changes
    )


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
    write_lines(
        folders[0] / "eval.jsonl",
        [
            evaluation(200, 0.25, 0.5),
            evaluation(200, 0.125, 0.375, "testA"),
            evaluation(400, 0.75, 0.625),
        ],
    )
    write_lines(folders[1] / "log.jsonl", map(record, [1000, 2000]))
    return [str(folder) for folder in folders]


def read(path):
    return plot_log.read_run(plot_log.log_file(str(path)), "name")


def drawn(folders, smooth=1):
    """Return title -> axes of the figure of some runs."""
    paths = [plot_log.log_file(folder) for folder in folders]
    runs = list(map(plot_log.read_run, paths, plot_log.run_names(paths)))
    figure = plot_log.draw(runs, smooth)
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def points(axes):
    """Return the steps and values of each line of axes."""
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines
    ]


# --- Reading


def test_a_log_is_read_by_key(two_runs):
    run = read(two_runs[0])
    assert run.log["step"].tolist() == [100, 200, 300, 400]
    for key in sum(DRAWN.values(), []):
        wanted = [KEYS.index(key) + share for share in (0.1, 0.2, 0.3, 0.4)]
        np.testing.assert_allclose(run.log[key], wanted, rtol=1e-12)


def test_scores_are_read_by_split(two_runs):
    scores = read(two_runs[0]).scores
    assert set(scores) == {"val", "testA"}
    assert scores["val"]["step"].tolist() == [200, 400]
    assert scores["val"]["overall_iou"].tolist() == [0.25, 0.75]
    assert scores["val"]["mean_iou"].tolist() == [0.5, 0.625]
    assert scores["testA"]["mean_iou"].tolist() == [0.375]
    assert read(two_runs[1]).scores == {}


def test_what_is_not_finite_is_a_gap(tmp_path):
    losses = [1.0, NAN, INF, -INF, 10**400, 7]
    write_lines(
        tmp_path / "log.jsonl",
        [record(step, loss=loss) for step, loss in enumerate(losses)],
    )
    run = read(tmp_path)
    np.testing.assert_array_equal(run.log["loss"], [1, NAN, NAN, NAN, NAN, 7])
    assert np.isfinite(run.log["loss_avg"]).all()


@pytest.mark.parametrize("size", [1, 50, 200])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, size):
    cut = json.dumps(record(300))[:size]
    write_lines(tmp_path / "log.jsonl", map(record, [100, 200]), end=cut)
    cut = json.dumps(evaluation(200, 1, 1))[:size]
    write_lines(tmp_path / "eval.jsonl", [evaluation(100, 0.5, 0.5)], end=cut[:-1])
    run = read(tmp_path)
    assert run.log["step"].tolist() == [100, 200]
    assert run.scores["val"]["step"].tolist() == [100]


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path):
    whole = json.dumps(record(200))
    path = write_lines(tmp_path / "log.jsonl", [record(100)], end=whole)
    assert read(path).log["step"].tolist() == [100, 200]


def test_where_steps_do_not_rise_the_later_lines_count(tmp_path):
    steps = [100, 200, 300, 400, 200, 300]
    write_lines(
        tmp_path / "log.jsonl",
        [record(step, loss=loss) for loss, step in enumerate(steps)],
    )
    write_lines(
        tmp_path / "eval.jsonl",
        [evaluation(200, 0.1, 0.1), evaluation(400, 0.2, 0.2), evaluation(200, 0.3, 0)],
    )
    run = read(tmp_path)
    assert run.log["step"].tolist() == [100, 200, 300]
    assert run.log["loss"].tolist() == [0, 4, 5]
    assert run.scores["val"]["overall_iou"].tolist() == [0.3]


def test_runs_are_named_by_as_much_of_the_path_as_it_takes():
    names = plot_log.run_names
    assert names(["/a/b/log.jsonl"]) == ["b"]
    assert names(["/a/b/log.jsonl", "/a/c/log.jsonl"]) == ["b", "c"]
    assert names(["/a/c/log.jsonl", "/b/c/log.jsonl"]) == ["a/c", "b/c"]
    assert names(["/a/c/log.jsonl", "/a/c/old.jsonl"]) == ["c", "old.jsonl"]
    assert names(["/a/c/log.jsonl"] * 2 + ["/b/c/log.jsonl"]) == ["a/c", "a/c", "b/c"]
    assert names(["/log.jsonl"]) == [""]
    assert names(["log.jsonl"]) == [os.path.basename(os.getcwd())]


# --- Running means


def test_running_mean_by_hand():
    values = np.array([1.0, 2.0, 6.0, NAN, 4.0, 5.0])
    # (1), (1 + 2) / 2, (1 + 2 + 6) / 3, gap, (6 + 4) / 2, (4 + 5) / 2
    wanted = [1, 1.5, 3, NAN, 5, 4.5]
    np.testing.assert_allclose(plot_log.smoothed(values, 3), wanted, rtol=1e-12)
    np.testing.assert_array_equal(plot_log.smoothed(values, 1), values)


def test_a_mean_over_more_lines_than_there_are_is_over_all():
    mean = plot_log.smoothed(np.array([2.0, 4.0, 9.0]), 10**12)
    np.testing.assert_allclose(mean, [2, 3, 5], rtol=1e-12)


def test_a_spike_is_forgotten_after_its_lines():
    mean = plot_log.smoothed(np.array([1.0, 1e30, 1.0, 1.0, 1.0]), 2)
    np.testing.assert_allclose(mean, [1, 5e29, 5e29, 1, 1], rtol=1e-12)


# --- The figure


def test_each_panel_has_the_lines_of_each_run(two_runs):
    panels = drawn(two_runs)
    assert set(panels) == {*DRAWN, "Score"}
    for title, keys in DRAWN.items():
        found = points(panels[title])
        assert len(found) == 2 * len(keys)
        for run, steps in enumerate([[100, 200, 300, 400], [1000, 2000]]):
            for n, key in enumerate(keys):
                at, values = found[run * len(keys) + n]
                assert at == steps
                wanted = [KEYS.index(key) + step / 1000 for step in steps]
                assert values == pytest.approx(wanted)


def test_scores_are_lines_with_a_marker_for_each_split(two_runs):
    axes = drawn(two_runs)["Score"]
    assert points(axes) == [
        ([200, 400], [0.25, 0.75]),
        ([200, 400], [0.5, 0.625]),
        ([200], [0.125]),
        ([200], [0.375]),
    ]
    markers = [line.get_marker() for line in axes.lines]
    assert markers[0] == markers[1] != markers[2] == markers[3]
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told == ["overall", "mean", "testA", "val"]
    handles = axes.get_legend().get_lines()
    assert [handle.get_marker() for handle in handles[2:]] == [markers[2], markers[0]]


def test_there_is_no_panel_for_scores_without_any(two_runs):
    assert list(drawn(two_runs[1:])) == list(DRAWN)


def test_a_run_has_one_colour_and_its_name_in_the_legend(two_runs):
    panels = drawn(two_runs)
    figure = panels["Loss"].figure
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    colours = [handle.get_color() for handle in legend.get_lines()]
    assert colours[0] != colours[1]
    for title, keys in DRAWN.items():
        found = [line.get_color() for line in panels[title].lines]
        assert found == [colours[0]] * len(keys) + [colours[1]] * len(keys)
    assert {line.get_color() for line in panels["Score"].lines} == {colours[0]}


def test_many_runs_have_as_many_colours(two_runs):
    lines = drawn(two_runs * 10)["Memory"].lines
    assert len({line.get_color() for line in lines}) == 20


@pytest.mark.parametrize("length", [0, 1, 30, 90])
def test_names_of_runs_fill_the_width_of_the_panels_and_no_more(two_runs, length):
    run = read(two_runs[0])
    figure = plot_log.draw([run._replace(name=length * "n")] * 12)
    (legend,) = figure.legends
    box = legend.get_window_extent(figure.canvas.get_renderer())
    assert box.width > figure.bbox.width / 2
    assert box.width < figure.bbox.width


def test_the_current_loss_is_faint_and_its_average_strong(two_runs):
    now, average, *levels = drawn(two_runs[:1])["Loss"].lines
    assert now.get_alpha() < 0.5 and not average.get_alpha()
    assert average.get_linewidth() > 1.5 * max(
        line.get_linewidth() for line in (now, *levels)
    )
    assert len({line.get_linestyle() for line in (average, *levels)}) == 4


def test_axes_share_steps_and_say_their_units(two_runs):
    panels = drawn(two_runs)
    limits = {axes.get_xlim() for axes in panels.values()}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low <= 100 and 2000 <= high
    assert all(axes.get_ylabel() for axes in panels.values())
    assert panels["Speed"].get_xlabel() == "thousands of steps"
    assert panels["Memory"].get_xlabel() == "thousands of steps"
    assert panels["Loss"].get_xlabel() == "thousands of steps"  # as wide as two
    assert (
        panels["Score"].get_xlabel() == panels["Accuracy, average"].get_xlabel() == ""
    )
    assert panels["Loss"].get_yscale() == "log"
    thousands = panels["Memory"].xaxis.get_major_formatter()
    assert [thousands(step) for step in (0, 500, 700000)] == ["0", "0.5", "700"]
    rate = panels["Learning rate"].yaxis.get_major_formatter()
    assert rate(0.00025) == "0.00025" and rate(70000) == "70000"


def test_smoothing_leaves_alone_what_has_no_noise(tmp_path):
    write_lines(
        tmp_path / "log.jsonl",
        [record(step, **dict.fromkeys(KEYS, step)) for step in (2, 4, 9)],
    )
    panels = drawn([str(tmp_path)], smooth=2)
    as_it_is = {("Loss", 0), ("Learning rate", 0), ("Memory", 0)}
    for title, axes in panels.items():
        for n, (steps, values) in enumerate(points(axes)):
            assert steps == [2, 4, 9]
            wanted = [2, 4, 9] if (title, n) in as_it_is else [2, 3, 6.5]
            assert values == pytest.approx(wanted)
    assert (
        "running mean over 2" in panels["Loss"].figure.legends[0].get_title().get_text()
    )


def test_a_value_between_gaps_is_a_point(tmp_path):
    losses = [1, 2, NAN, 3, INF, 4, 5]
    write_lines(
        tmp_path / "log.jsonl",
        [record(step, loss=loss) for step, loss in enumerate(losses)],
    )
    now = drawn([str(tmp_path)])["Loss"].lines[0]
    np.testing.assert_array_equal(now.get_ydata(), [1, 2, NAN, 3, NAN, 4, 5])
    assert now.get_marker() == "."
    assert np.flatnonzero(now.get_markevery()).tolist() == [3]


# --- The command


def pixels(path, colour):
    """Count the pixels of a PNG that have a colour, given as shares."""
    with Image.open(str(path)) as image:
        assert image.format == "PNG"
        found = np.array(image.convert("RGB")).astype(int)
    is_near = abs(found - 255 * np.array(colour)).max(axis=2) <= 1
    return int(is_near.sum())


def test_the_command_writes_a_png_and_prints_its_path(two_runs, capsys):
    assert plot_log.main(two_runs) == 0
    path = os.path.join(two_runs[0], "curves.png")
    assert capsys.readouterr().out == path + "\n"
    with Image.open(path) as image:
        assert min(image.size) > 1000
    lines = drawn(two_runs)["Memory"].lines
    for colour in [line.get_color() for line in lines]:
        assert pixels(path, colour) > 500
    assert pixels(path, (1, 1, 1)) > 1e6
    assert set(os.listdir(two_runs[0])) == {"curves.png", "eval.jsonl", "log.jsonl"}
    assert os.listdir(two_runs[1]) == ["log.jsonl"]


def test_a_log_of_one_line_leaves_points_in_the_png(tmp_path):
    gaps = record(100, **dict.fromkeys(KEYS, NAN))
    logs = [
        write_lines(tmp_path / "one.jsonl", [record(100)]),
        write_lines(tmp_path / "gap.jsonl", [gaps]),
    ]
    output = str(tmp_path / "curves.png")
    assert plot_log.main([*logs, "--output", output]) == 0
    one, gap = [line.get_color() for line in drawn(logs)["Memory"].lines]
    assert pixels(output, one) > pixels(output, gap) + 50


def test_names_are_not_taken_for_formulas_or_left_out(tmp_path, capsys):
    folders = [tmp_path / name for name in (r"$\frac$", "_hidden", "a_b$c")]
    for folder in folders:
        write_lines(folder / "log.jsonl", [record(100)])
    output = tmp_path / "new" / "curves.PNG"
    assert plot_log.main([*map(str, folders), "--output", str(output)]) == 0
    assert capsys.readouterr().err == "" and output.exists()
    figure = drawn(map(str, folders))["Loss"].figure
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == [r"\$\frac\$", "./_hidden", r"a_b\$c"]


def refused(arguments, capsys):
    """Run a command that must fail, and return the line that it tells."""
    assert plot_log.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    return printed.err


@pytest.mark.parametrize(
    "line, told",
    [
        ("", "no JSON"),
        ('{"step": 200, "lo', "no JSON"),
        ("[" * 100000, "no JSON"),
        ("7", "no JSON object"),
        (record(200, loss="7"), "no number called loss"),
        (record(200, loss=None), "no number called loss"),
        (record(200, memory_mb=True), "no number called memory_mb"),
        (record(NAN), "a step that is not finite"),
    ],
    ids="empty cut nested number text null bool nan_step".split(),
)
def test_a_damaged_line_is_named(tmp_path, capsys, line, told):
    line = line if isinstance(line, str) else json.dumps(line)
    lines = [json.dumps(record(100)), line, json.dumps(record(300))]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    error = refused([str(tmp_path)], capsys)
    assert "log.jsonl, line 2: " + told in error and "delete the line" in error
    assert os.listdir(str(tmp_path)) == ["log.jsonl"]


@pytest.mark.parametrize("key", ["step", *sum(DRAWN.values(), [])])
def test_a_missing_key_is_named(tmp_path, capsys, key):
    lines = [record(100), record(200)]
    del lines[1][key]
    path = write_lines(tmp_path / "log.jsonl", lines)
    assert path + ", line 2: no number called " + key in refused([path], capsys)


def test_bytes_that_are_no_text_are_damage(tmp_path, capsys):
    path = write_lines(tmp_path / "log.jsonl", [record(100)])
    with open(path, "ab") as file:
        file.write(b"\xff\xfe\0\n")
    assert "log.jsonl, line 2: no JSON" in refused([path], capsys)


@pytest.mark.parametrize("key", ["step", "split", "overall_iou", "mean_iou"])
def test_a_damaged_evaluation_is_named(two_runs, capsys, key):
    lines = [evaluation(200, 0.5, 0.5), evaluation(400, 0.5, 0.5)]
    del lines[1][key]
    write_lines(Path(two_runs[0]) / "eval.jsonl", lines)
    error = refused(two_runs, capsys)
    assert "first/eval.jsonl, line 2: no " in error and "called " + key in error


def test_evaluations_that_are_yet_to_come_are_none(two_runs):
    write_lines(Path(two_runs[0]) / "eval.jsonl", [], end='{"step": 100')
    assert list(drawn(two_runs)) == list(DRAWN)


def test_a_folder_without_a_log(two_runs, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    error = refused([*two_runs, str(tmp_path / "none")], capsys)
    assert "there is no file {}".format(tmp_path / "none" / "log.jsonl") in error
    assert "name a folder" in error
    assert "no file missing.jsonl" in refused(["missing.jsonl"], capsys)
    assert not os.path.exists(os.path.join(two_runs[0], "curves.png"))


def test_a_file_that_cannot_be_read(two_runs, capsys):
    path = os.path.join(two_runs[1], "eval.jsonl")
    os.mkdir(path)
    assert f"cannot read {path}: Is a directory" in refused(two_runs, capsys)


@pytest.mark.parametrize("content", ["", '{"step": 1'])
def test_a_log_without_a_line(tmp_path, capsys, content):
    path = write_lines(tmp_path / "log.jsonl", [], end=content)
    error = refused([path], capsys)
    assert path + " has no whole line yet" in error and "again" in error


def test_a_failure_keeps_the_older_image(two_runs, capsys):
    older = Path(two_runs[0]) / "curves.png"
    older.write_bytes(b"older")
    refused([two_runs[0], "missing"], capsys)
    assert older.read_bytes() == b"older"


def test_an_image_that_cannot_be_written(two_runs, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    output = str(tmp_path / "taken" / "curves.png")
    error = refused([two_runs[0], "--output", output], capsys)
    assert "cannot write " + output in error
    assert sorted(os.listdir(str(tmp_path))) == ["first", "second", "taken"]


def test_without_matplotlib_the_command_says_how_to_install_it(
    two_runs, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error = refused(two_runs, capsys)
    assert "pip install -e '.[plot]'" in error
    assert not os.path.exists(os.path.join(two_runs[0], "curves.png"))


@pytest.mark.parametrize(
    "options, told",
    [
        ([], "RUN"),
        (["x", "--smooth", "0"], "'0' is no whole number above 0"),
        (["x", "--smooth", "1.5"], "'1.5' is no whole number above 0"),
        (["x", "--output", "log.jsonl"], "'log.jsonl' is no name of a .png file"),
    ],
)
def test_wrong_options_are_refused(capsys, options, told):
    with pytest.raises(SystemExit) as caught:
        plot_log.main(options)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and told in error and error.count("\n") == 1


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
