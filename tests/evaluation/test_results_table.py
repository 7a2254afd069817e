"""util.evaluation.results_table: rows, refusals, escapes, the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_breakdown import as_written, row

import trainval_model
from util.core.errors import UserError
from util.evaluation import breakdown, results_table
from util.evaluation.eval_tools import BASE, WITH_CRF, WITHOUT_CRF, Scores

NONE = "\u2013"


def scores(*percents, areas=()):
    found = Scores()
    for place, percent in enumerate(percents):
        found.add(percent, 100, areas[place] if areas else None)
    return found.as_dict()


def record(split="val", with_crf=None, snapshot="ckpts/a", **changes):
    results = {WITHOUT_CRF: scores(55, 95)}
    if with_crf:
        results[WITH_CRF] = scores(*with_crf)
    found = {"data_set": "mine", "split": split, "snapshot": snapshot}
    found.update(model="CMPC_model", options={}, results=results)
    return dict(found, **changes)


def build(*records):
    return results_table.build([(f"{n}.json", one) for n, one in enumerate(records)])


def markdown(*records):
    """Return the cells of the table in Markdown, and the notes."""
    lines = results_table.markdown(build(*records)).splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("|")]
    assert set(rows.pop(1)) == {"---", "---:"}
    return rows, [line for line in lines if line and not line.startswith("|")]


def test_splits_of_a_model_are_side_by_side():
    other = record("testB", snapshot="b", options={"refine": "score"})
    head, first, second = markdown(
        record("testB", data_set="mine"), other, record("testA")
    )[0]
    figures = ["oIoU", "mIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9"]
    splits = [f"{split} {name}" for split in ("testB", "testA") for name in figures]
    assert head == ["model", "snapshot", "masks", *splits]
    cells = ["75.00", "75.00", "100.00"] + ["50.00"] * 4
    assert first == ["CMPC_model", "ckpts/a", "without DenseCRF", *cells, *cells]
    names = ["CMPC_model --refine score", "b", "without DenseCRF"]
    assert second == [*names, *cells, *[NONE] * 7]


def test_splits_of_a_known_data_set_have_its_order():
    some = [record(split, data_set="unc") for split in ("testB", "val", "testA")]
    assert list(build(*some).columns) == ["val", "testA", "testB"]
    _, notes = markdown(*some)
    assert notes[1:] == [
        "0.json: 2 of the 5095 sentences of this split.",
        "1.json: 2 of the 10834 sentences of this split.",
        "2.json: 2 of the 5657 sentences of this split.",
    ]
    assert "oIoU (cIoU): overall IoU" in notes[0] and notes[0].startswith("unc, ")


def test_kinds_of_masks_are_not_mixed():
    based = record("testA")
    based["results"][BASE] = scores(0, 10)
    rows, _ = markdown(record(with_crf=(60, 60)), record("b", model="m"), based)
    oious = [place for place, head in enumerate(rows[0]) if head.endswith(" oIoU")]
    assert [[cells[place] for place in (0, 2, *oious)] for cells in rows[1:]] == [
        ["CMPC_model", "without DenseCRF", "75.00", NONE, "75.00"],
        ["CMPC_model", "with DenseCRF", "60.00", NONE, NONE],
        ["CMPC_model", "base score, without DenseCRF", NONE, NONE, "5.00"],
        ["m", "without DenseCRF", NONE, "75.00", NONE],
    ]


def test_snapshots_of_the_same_weights_share_a_row():
    best = record("testA", snapshot="best", weights="f00")
    older = record("testB")  # of a time when tests did not write the weights
    table = build(record(weights="f00"), best, older)
    assert len(table.lines) == 1 and table.lines[0].heads[1] == "ckpts/a"
    assert len(build(record(), best).lines) == 2


def test_empty_below_is_another_row():
    lines = build(record(), record("testA", empty_below=50)).lines
    assert [line.heads[0] for line in lines] == [
        "CMPC_model",
        "CMPC_model --empty-below 50",
    ]


@pytest.mark.parametrize(
    "other, error",
    [
        (record(), "0.json and 1.json are both of CMPC_model, ckpts/a, on val"),
        (record("testA", data_set="unc"), "0.json is of mine, 1.json of unc"),
        (
            record(results={WITHOUT_CRF: scores(1)}, snapshot="b"),
            "0.json is of 2 sentences of val, 1.json of 1",
        ),
        (record("testA", weights="bad"), "of other weights, though both of ckpts/a"),
    ],
)
def test_doubtful_mixtures_are_refused(other, error):
    with pytest.raises(UserError, match=error):
        build(record(weights="f00"), other)


def test_figures_of_grefcoco():
    results = {WITHOUT_CRF: scores(0, 75, 95, areas=(0, 100, 100))}
    without = {WITHOUT_CRF: scores(50, 50, 50)}
    head, first, second = markdown(
        record(results=results), record(results=without, snapshot="b")
    )[0]
    assert head[3:] == [
        f"val {name}" for name in "gIoU cIoU N-acc T-acc P@0.7 P@0.8 P@0.9".split()
    ]
    wanted = "56.67 56.67 0.00 100.00 100.00 50.00 50.00".split()
    assert first[3:] == wanted
    assert second[3:] == ["50.00", "50.00"] + [NONE] * 5
    results = {WITHOUT_CRF: scores(0, 0, areas=(0, 0))}  # no target at all
    assert markdown(record(results=results))[0][1][6:] == [NONE] * 4


def test_latex():
    text = results_table.latex(build(record("a_b", with_crf=(60, 60)), record("c")))
    comment, *lines = text.splitlines()
    assert comment.startswith("% mine, in per cent; oIoU")
    assert lines == [
        r"\begin{tabular}{lll rrrrrrr rrrrrrr}",
        r"\hline",
        r" &  &  & \multicolumn{7}{c}{a\_b} & \multicolumn{7}{c}{c} \\",
        "model & snapshot & masks" + 2 * (
            " & oIoU & mIoU & P@0.5 & P@0.6 & P@0.7 & P@0.8 & P@0.9") + r" \\",
        r"\hline",
        r"CMPC\_model & ckpts/a & without DenseCRF" + 2 * (
            " & 75.00 & 75.00 & 100.00" + " & 50.00" * 4) + r" \\",
        r"CMPC\_model & ckpts/a & with DenseCRF" + (
            " & 60.00" * 2 + " & 100.00" * 2 + " & 0.00" * 3 + " & --" * 7) + r" \\",
        r"\hline",
        r"\end{tabular}",
    ]  # fmt: skip


HOSTILE = "a|b\n\\input{x} __c__ <b> $x$ & % # ~^ --- \u202e`*[y](z)"


def test_hostile_names_are_shown_as_they_are():
    cell = r"a\|b \\input{x} \_\_c\_\_ \<b\> \$x\$ \& % # \~^ --- \`\*\[y\](z)"
    assert results_table.in_markdown(HOSTILE) == cell
    assert results_table.in_latex(HOSTILE) == (
        r"a\textbar{}b \textbackslash{}input\{x\} \_\_c\_\_ \textless{}b\textgreater{} "
        r"\$x\$ \& \% \# \textasciitilde{}\textasciicircum{} -{}-{}- `*[y](z)"
    )
    table = build(record(HOSTILE, data_set=HOSTILE, snapshot=HOSTILE, model=HOSTILE))
    assert len(results_table.markdown(table).splitlines()) == 5
    assert len(results_table.latex(table).splitlines()) == 9


# --- Command


def write(path, content):
    path.write_text(json.dumps(as_written(content)))
    return str(path)


def test_command_prints_the_table_without_tensorflow(tmp_path):
    paths = [write(tmp_path / f"{split}.json", record(split)) for split in "ab"]
    code = (
        "import sys, trainval_model\n"
        "assert trainval_model.main(sys.argv[1:]) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "-m", "report", "--table", *paths]
    top = Path(__file__).resolve().parents[2]
    out = subprocess.run(command, cwd=str(top), check=True, stdout=subprocess.PIPE)
    lines = out.stdout.decode("utf-8").splitlines()
    assert lines[2].startswith("| CMPC_model | ckpts/a | without DenseCRF | 75.00 |")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_command_prints_what_a_test_wrote(tmp_path, capsys):
    rows = [row(0, iou=(1, 4)), row(1, iou=(3, 4))]
    results = {WITHOUT_CRF: breakdown.scores(rows, WITHOUT_CRF).as_dict()}
    path = write(tmp_path / "x.json", record(results=results, samples=rows))
    command = ["-m", "report", "--table", path, "--latex"]
    assert trainval_model.main(command) == 0
    assert " & 50.00 & 50.00 & 50.00 & " in capsys.readouterr().out
    assert trainval_model.main([*command[:-1], path]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "leave one of them out" in error


def test_half_a_letter_is_printed(tmp_path, capsys):
    path = write(tmp_path / "x.json", record(snapshot="left \ud800"))
    assert trainval_model.main(["-m", "report", "--table", path]) == 0
    assert "| left |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, error",
    [
        ("--latex --compare a.json b.json", "--latex is for --table"),
        ("--table a.json --compare a.json b.json", "no --compare"),
        ("--table a.json --output x.html", "> FILE"),
        ("--table", "expected at least one argument"),
    ],
)
def test_wrong_command_lines(capsys, options, error):
    with pytest.raises(SystemExit) as end:
        trainval_model.main(["-m", "report", *options.split()])
    assert end.value.code == 2 and error in capsys.readouterr().err
