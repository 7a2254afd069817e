"""util.evaluation.html_report: numbers, two tests side by side, mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pages import HOSTILE, Page
from test_breakdown import as_written, record, row

import trainval_model
from util.core.errors import UserError
from util.evaluation import breakdown, html_report
from util.evaluation.breakdown import COUNTS, FIGURES
from util.evaluation.eval_tools import BASE, TITLES, WITH_CRF, WITHOUT_CRF

NONE = "\u2013"
DIFFERENCE = "B \u2212 A"


def refined(number=0, sentence="the man", words=2, before=(1, 4), after=(1, 2)):
    counts = dict(zip(("intersection", "union"), after))
    return row(number, sentence, words, iou=before, **{WITH_CRF: counts})


def result_of(rows, **changes):
    """Return the record of a test with these rows."""
    kinds = [kind for kind in TITLES if kind in rows[0]]
    results = {kind: breakdown.scores(rows, kind).as_dict() for kind in kinds}
    return dict(record(rows, kinds), results=results, **changes)


BOTH = [TITLES[WITHOUT_CRF], TITLES[WITH_CRF]]
ROWS = [
    refined(0, "the man", 2, (1, 4), (1, 2)),
    refined(1, "man left of it", 4, (2, 4), (1, 10)),
]


def figures_of(record):
    """Return the rows of the table of figures, and what stands below it."""
    page = Page(html_report.report(record, ""))
    page.check_harmless()
    rows = {name: cells for name, *cells in page.table("Figures of all sentences")}
    notes = [text for _, text in page.all("p") if "one point on one split" in text]
    return rows, "".join(notes)


def test_figures_stand_beside_the_published_ones():
    rows, note = figures_of(result_of(ROWS))
    assert rows["in %"] == [
        *BOTH,
        "CMPC, published, with DenseCRF",
        "CMPC, trained again, without DenseCRF",
        "CMPC, trained again, with DenseCRF",
    ]
    assert rows["published"] == ["difference"] + ["published", "difference"] * 2
    again = ["61.50", "\u221224.00", "61.87", "\u221245.20"]
    wanted = ["37.50", "16.67", "62.47", "\u221245.80", *again]
    assert rows["overall IoU (oIoU, cIoU)"] == wanted
    again = ["61.55", "\u221224.05", "61.83", "\u221231.83"]
    assert rows["mean IoU (mIoU, gIoU)"] == ["37.50", "30.00", NONE, NONE, *again]
    assert rows["precision@0.5"][:6] == [
        "50.00",
        "50.00",
        NONE,
        NONE,
        "72.6",
        "\u221222.60",
    ]
    assert rows["precision@0.6"] == ["0.00", "0.00"] + [NONE] * 6
    assert rows["sentences"] == ["2", "2"] + [NONE] * 6
    assert note.startswith("CMPC, published: the authors' later release")
    assert "They are of 10834 sentences, this test of 2." in note


def test_base_score_has_a_column_of_its_own():
    scored = [dict(one, base=dict(intersection=1, union=4)) for one in ROWS]
    record = result_of(scored, options={"refine": "score"})
    rows, _ = figures_of(record)
    assert rows["in %"][:3] == [*BOTH, TITLES[BASE]]
    # The published figures are of the last score, as the first two columns are.
    published = ["62.55", "\u221225.05", "62.67", "\u221246.00"]
    assert rows["overall IoU (oIoU, cIoU)"] == ["37.50", "16.67", "25.00", *published]
    page = Page(html_report.report(record, ""))
    assert any("snapshot" in t and "--refine score" in t for _, t in page.all("p"))


def test_without_dense_crf_there_is_no_difference_to_a_figure_with_it():
    rows, _ = figures_of(result_of([row()]))
    again = ["61.50", "\u221211.50", "61.87", NONE]
    assert rows["overall IoU (oIoU, cIoU)"] == ["50.00", "62.47", NONE, *again]


@pytest.mark.parametrize(
    "what, name, figures",
    [
        (dict(model="CMPC_model", options={"refine": "image"}), "image", [62.68, 62.7]),
        (dict(model="RRN_model"), "RRN, published, with DenseCRF", [55.33]),
        (dict(model="STEP_model", options={"folds": 1}), "STEP, 1 fold", [56.58]),
    ],
)
def test_published_figures_are_of_the_same_model_and_options(what, name, figures):
    rows, note = figures_of(result_of(ROWS, **what))
    assert name in rows["in %"][2] and len(rows["in %"]) == 2 + len(figures)
    assert list(map(float, rows["overall IoU (oIoU, cIoU)"][2::2])) == figures
    assert ("our own realisation" in note) == (what["model"] == "STEP_model")


@pytest.mark.parametrize(
    "other",
    [
        dict(data_set="shapes"),
        dict(model="toy_model"),
        dict(options={"refine": "x"}),
        dict(split="test"),
    ],
)
def test_nothing_is_published(other):
    rows, note = figures_of(result_of(ROWS, **other))
    assert rows["in %"] == BOTH and not note


def test_groups_of_a_test():
    page = Page(html_report.report(result_of(ROWS), ""))
    assert page.table("By length of the sentence: IoU in %") == [
        ["group", "sentences", *BOTH],
        ["oIoU", "mIoU", "oIoU", "mIoU"],
        ["1 to 2 words", "1", "25.00", "25.00", "50.00", "50.00"],
        ["4 to 5 words", "1", "50.00", "50.00", "10.00", "10.00"],
    ]
    titles = [text for _, text in page.all("h2")]
    assert titles == [
        "Figures",
        "IoU of the sentences",
        "By length of the sentence",
        "By length of the sentence, grouped as in the papers",
        "By size of the object, as a share of the image",
        "By relation words in the sentence",
        "Examples",
    ]
    assert "No group has 10 sentences." in [text for _, text in page.all("p")]
    # Two of all sentences, one of each way to divide them that has groups.
    assert len(page.all("img", **{"class": "plot"})) == 5


def test_examples_stand_at_the_end():
    page = Page(html_report.report(result_of(ROWS), "no <snapshot>"))
    ((_, told),) = page.all("main")
    assert told.rstrip().endswith("Examples\nno <snapshot>")


def test_hostile_records_are_shown():
    rows = [refined(0, HOSTILE), refined(1, HOSTILE, after=(0, 9))]
    names = {"data_set": HOSTILE, "split": HOSTILE, "snapshot": HOSTILE}
    one = result_of(rows, versions={HOSTILE: HOSTILE}, **names)
    changed = [refined(0, HOSTILE, after=(0, 9)), refined(1, HOSTILE)]
    other = result_of(changed, **names)
    for text in (
        html_report.report(one, HOSTILE),
        html_report.comparison(one, other, [HOSTILE, HOSTILE]),
    ):
        Page(text).check_harmless()
    assert HOSTILE in [text for _, text in Page(text).all("th", scope="row")]


def test_half_a_letter_becomes_a_question_mark(tmp_path):
    """JSON may hold the half of a letter, and UTF-8 may not."""
    path = tmp_path / "report.html"
    html_report._write(
        str(path), html_report.report(result_of(ROWS), "left \ud800 box")
    )
    assert "left ? box" in path.read_text(encoding="utf-8")


# --- Two tests


def test_figures_of_two_tests_and_their_differences():
    one, other = result_of(ROWS), result_of([row(5, iou=(3, 4))])
    page = Page(html_report.comparison(one, other, ["first.json", "second.json"]))
    table = page.table("Figures of A and B")
    assert table[:2] == [["in %", *BOTH], ["A", "B", DIFFERENCE] * 2]
    assert table[2] == [
        "overall IoU (oIoU, cIoU)", "37.50", "75.00", "+37.50", "16.67", NONE, NONE,
    ]  # fmt: skip
    assert [cells[0] for cells in table[2:]] == [
        html_report.NAMES.get(name, name) for name in FIGURES + COUNTS
    ]
    assert table[-2] == ["sentences", "2", "1", NONE, "2", NONE, NONE]
    assert page.all("p")[0][1] == "A: first.json: unc val, snapshot s"


def test_groups_of_two_tests():
    one, other = (
        result_of(ROWS),
        result_of(ROWS[:1] + [refined(1, "of it", 8, after=(1, 2))]),
    )
    page = Page(html_report.comparison(one, other))
    assert page.table("By length of the sentence: IoU in %") == [
        ["group", "A", "B", DIFFERENCE],
        ["sentences", "oIoU", "mIoU"] * 2 + ["oIoU", "mIoU"],
        ["1 to 2 words", "1", "50.00", "50.00", "1", "50.00", "50.00"] + ["+0.00"] * 2,
        ["4 to 5 words", "1", "10.00", "10.00"] + [NONE] * 5,
        ["8 to 20 words"] + [NONE] * 3 + ["1", "50.00", "50.00"] + [NONE] * 2,
    ]


def many(after, images=20):
    """Return the rows of a test with a sentence an image; half of each is found."""
    return [refined(n, f"s {n}", 2, (n, 100), after(n)) for n in range(images)]


def with_images(rows):
    return [dict(one, image=f"{one['number']}.jpg") for one in rows]


def test_intervals_over_the_images():
    rows = with_images(many(lambda n: (1, 2)))
    page = Page(html_report.report(result_of(rows), ""))
    title = "95 % interval (bootstrap over 20 images, 1000 draws, seed 0)"
    head, overall, mean = page.table(title)
    assert head == ["in %", *BOTH]
    assert overall[0] == "overall IoU (oIoU, cIoU)"
    assert mean[0] == "mean IoU (mIoU, gIoU)"
    # The mean is 9.5; its deviation over the images 5.77, of their mean 1.29.
    low, high = map(float, mean[1].split(" to "))
    assert low == pytest.approx(7, abs=0.2) and high == pytest.approx(12, abs=0.2)
    assert overall[1] == mean[1] and overall[2] == mean[2] == "50.00 to 50.00"
    told = [text for _, text in Page(html_report.report(result_of(ROWS), "")).all("p")]
    assert html_report.NO_INTERVAL in told


def test_intervals_of_differences_say_what_is_not_decided():
    one = result_of(with_images(many(lambda n: (50, 100))))
    # Without DenseCRF the same; with it every other sentence is better.
    other = result_of(with_images(many(lambda n: (50 + 30 * (n % 2), 100))))
    page = Page(html_report.comparison(one, other))
    title = (
        f"{DIFFERENCE}: 95 % interval (bootstrap over 20 images, 1000 draws, seed 0)"
    )
    _, overall, mean = page.table(title)
    assert overall[1] == mean[1] == "+0.00 to +0.00"
    low, high = map(float, mean[2].split(" to "))
    # The mean is 15, its deviation 15 / sqrt(20).
    assert low == pytest.approx(8.4, abs=1) and high == pytest.approx(21.6, abs=1)
    (told,) = [text for _, text in page.all("p") if "its own chance" in text]
    assert told.startswith(
        "Not decided, as 0 is in the interval: overall IoU (oIoU, cIoU) without "
        "DenseCRF; mean IoU (mIoU, gIoU) without DenseCRF. Training has"
    )
    better = result_of([row(n, image=str(n), iou=(3, 4)) for n in range(20)])
    worse = result_of([row(n, image=str(n), iou=(1, 4)) for n in range(20)])
    assert "None of these intervals contains 0" in html_report.comparison(worse, better)
    other = html_report.comparison(one, dict(other, split="testA"))
    assert "95 % interval" not in other


def test_sentences_that_changed():
    one = result_of([refined(n, f"s {n}", after=(50, 100)) for n in range(30)])
    after = [50 + n for n in range(20)] + [40 - n for n in range(10)]
    other = result_of(
        [refined(n, f"s {n}", after=(a, 100)) for n, a in enumerate(after)]
    )
    page = Page(html_report.comparison(one, other))
    better = page.table("Better in B: the largest changes of the IoU")
    assert len(better) == len(page.table("Worse in B: the largest changes of the IoU"))
    assert len(better) == 11
    assert better[0] == ["sentence", "number", "A", "B", DIFFERENCE]
    assert better[1] == ["s 19", "19", "50.00", "69.00", "+19.00"]
    told = [text for _, text in page.all("p")]
    assert (
        "IoU higher in B by more than 0.05: 14 sentences; lower: 10; about the same: 6."
    ) in told
    assert "All that follows is of the masks with DenseCRF." in told


def headings(*records):
    return [text for _, text in Page(html_report.comparison(*records)).all("h2")]


def test_changes_need_the_same_split_and_sentences():
    changed = "Sentences that changed"
    assert changed in headings(result_of(ROWS), result_of(ROWS))
    other = headings(result_of(ROWS), result_of(ROWS, split="testA"))
    assert changed not in other and "By length of the sentence" in other
    text = html_report.comparison(result_of(ROWS), result_of(ROWS[:1]))
    assert "the two tests are about different sentences" in text
    papers = "By length of the sentence, grouped as in the papers"
    assert papers in headings(result_of(ROWS), result_of(ROWS))
    assert papers not in headings(result_of(ROWS), result_of(ROWS, data_set="Gref"))


def test_records_without_samples_give_the_figures_only():
    one = result_of(ROWS)
    del one["samples"]
    assert headings(one, result_of(ROWS)) == ["Figures"]


def test_masks_without_dense_crf_are_compared_where_one_test_has_no_others():
    text = html_report.comparison(result_of(ROWS), result_of([row(0), row(1)]))
    assert "All that follows is of the masks without DenseCRF." in text


# --- Commands


def write(path, content):
    path.write_text(json.dumps(as_written(content)))
    return str(path)


def test_compare_writes_the_page_beside_the_first_record(tmp_path, capsys):
    one = write(tmp_path / "one.json", result_of(ROWS))
    other = write(tmp_path / "other.json", result_of(ROWS))
    command = ["-m", "report", "--compare", one, other]
    assert trainval_model.main(command) == 0
    written = tmp_path / "compare.html"
    assert capsys.readouterr().out == f"report: {written}\n"
    Page(written.read_text(encoding="utf-8")).check_harmless()
    output = tmp_path / "new" / "x.html"
    assert trainval_model.main([*command, "--output", str(output)]) == 0
    assert output.read_bytes() == written.read_bytes()


def test_compare_needs_no_tensorflow(tmp_path):
    one = write(tmp_path / "one.json", result_of(ROWS))
    code = (
        "import sys, trainval_model\n"
        "assert trainval_model.main(sys.argv[1:]) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, "-m", "report", "--compare", one, one]
    top = Path(__file__).resolve().parents[2]
    subprocess.run(command, cwd=str(top), check=True)


def test_compare_tells_what_cannot_be_read(tmp_path, capsys):
    one = write(tmp_path / "one.json", result_of(ROWS))
    command = ["-m", "report", "--compare", one, str(tmp_path / "no.json")]
    assert trainval_model.main(command) == 2
    assert "cannot read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def report_command(tmp_path):
    return f"-m report -d unc -t val -i 7 -f {tmp_path}".split()


def test_a_missing_record_names_the_test(tmp_path, capsys):
    assert trainval_model.main(report_command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "there is no" in error and error.count("\n") == 1
    assert f"-m test -d unc -t val -f {tmp_path} -i 7 --report" in error


def test_a_record_without_samples_names_the_test(tmp_path, capsys):
    old = dict(result_of(ROWS), samples=[{"number": 0}])
    write(tmp_path / "unc_iter_7.tfmodel.val.json", old)
    assert trainval_model.main(report_command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"-m test -d unc -t val -f {tmp_path} -i 7 -c --report" in error
    assert len(list(tmp_path.iterdir())) == 1


def test_without_the_snapshot_the_report_has_no_examples(tmp_path, capsys):
    write(tmp_path / "unc_iter_7.tfmodel.val.json", result_of(ROWS))
    assert trainval_model.main(report_command(tmp_path)) == 0
    page = Page((tmp_path / "unc_iter_7.tfmodel.val.html").read_text(encoding="utf-8"))
    assert not page.all("article") and len(page.all("img")) == 5
    assert "a report without examples: there is no snapshot" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["test", "report"])
def test_missing_matplotlib_is_told_before_any_work(
    tmp_path, capsys, monkeypatch, mode
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["-m", mode, *report_command(tmp_path)[2:]]
    command += ["--report"] * (mode == "test")
    assert trainval_model.main(command) == 2
    assert "pip install -e '.[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, error",
    [
        ("-m report -d unc", "needs -t SPLIT and -f DIR"),
        ("-m report --compare a.json", "--compare"),
        ("-m report --compare a.json b.json --output a.json", ".html"),
        ("-m test -d unc -t val -f x --compare a.json b.json", "-m report"),
    ],
)
def test_wrong_command_lines(capsys, options, error):
    with pytest.raises(SystemExit) as end:
        trainval_model.main(options.split())
    assert end.value.code == 2 and error in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    one = write(tmp_path / "one.json", result_of(ROWS))
    with pytest.raises(UserError, match="cannot write"):
        html_report.compare([one, one], f"{one}/x.html")
