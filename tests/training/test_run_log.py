"""util.training.run_log: what a run leaves, also for TensorBoard's own reader."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from util.core.errors import UserError
from util.graph.compat import tf
from util.training import run_log


@pytest.fixture(autouse=True)
def graph():
    """A run writes its log while its graph is the default one."""
    with tf.Graph().as_default():
        yield


def write(folder, steps, begin=0):
    """Log some steps, the loss their square."""
    with run_log.RunLog(str(folder), begin) as log:
        for step in steps:
            log.log(step, {"loss": float(step**2), "skipped": 0})
            log.evaluation(step, {"overall_iou": step / 100}, split="val")


def read(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def events(folder):
    found = event_accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_every_line_has_its_figures(tmp_path):
    write(tmp_path, [10, 20])
    assert read(tmp_path, "log.jsonl") == [
        {"step": 10, "loss": 100.0, "skipped": 0},
        {"step": 20, "loss": 400.0, "skipped": 0},
    ]
    assert read(tmp_path, "eval.jsonl")[1] == {
        "step": 20, "overall_iou": 0.2, "split": "val"
    }  # fmt: skip


def test_tensorboard_reads_the_same(tmp_path):
    write(tmp_path, [10, 20])
    scalars = events(tmp_path).Scalars("loss")
    assert [(one.step, one.value) for one in scalars] == [(10, 100.0), (20, 400.0)]
    (last,) = events(tmp_path).Scalars("eval_overall_iou")[1:]
    assert last.value == pytest.approx(0.2)


def test_resumed_run_forgets_what_it_takes_again(tmp_path):
    write(tmp_path, [10, 20, 30])
    with open(str(tmp_path / "log.jsonl"), "a") as file:
        file.write('{"step": 4')  # cut off by a kill
    write(tmp_path, [30, 40], begin=25)
    for name in ("log.jsonl", "eval.jsonl"):
        steps = [line["step"] for line in read(tmp_path, name)]
        assert steps == [10, 20, 30, 40]
    steps = [one.step for one in events(tmp_path).Scalars("loss")]
    assert steps == [10, 20, 30, 40]


def test_run_json_tells_the_start_and_every_resumption(tmp_path):
    with run_log.RunLog(str(tmp_path)) as log:
        log.begin({"seed": 7})
        log.begin({"seed": 7, "options": {"resume": True}}, step=30)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["seed"] == 7 and record["started"]
    assert record["revision"] == run_log.git_revision()
    (again,) = record["resumed"]
    assert record["command"] == again["command"] == run_log.command_line()
    assert again["step"] == 30 and again["options"] == {"resume": True}


def test_images_show_image_true_and_found_mask(tmp_path):
    sample = {
        "im_batch": np.full((64, 64, 3), 255, np.uint8),
        "mask_batch": np.zeros((64, 64), bool),
        "sent_batch": ["the box"],
        "number": 4,
    }
    sample["mask_batch"][:32] = True
    scores = np.full((1, 64, 64, 1), -1.0, np.float32)
    scores[:, :, :32] = 1.0
    with run_log.RunLog(str(tmp_path)) as log:
        log.images(50, [sample], scores)
    drawn = np.array(Image.open(str(tmp_path / "images" / "0000050.png")), int)
    # Three panels; the true mask is green and the found one orange, half of each.
    green = (drawn[..., 1] > drawn[..., 0] + 30).mean()
    orange = (drawn[..., 0] > drawn[..., 2] + 30).mean()
    assert 0.05 < green < 0.3 and 0.05 < orange < 0.3
    (image,) = events(tmp_path).Images("masks")
    shown = Image.open(io.BytesIO(image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(shown), drawn)
    assert image.step == 50


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file"):
        run_log.RunLog(str(tmp_path / "file" / "x"))


def test_revision_of_this_code_is_known_in_a_checkout():
    revision = run_log.git_revision()
    assert revision == "" or len(revision.split("-")[0]) == 40


def test_log_of_an_earlier_run_is_kept(tmp_path, capsys):
    for loss in (1, 2, 3):
        write(tmp_path, [loss])
    for number in (1, 2):
        assert read(tmp_path, f"earlier_{number}_log.jsonl")[0]["step"] == number
        assert read(tmp_path, f"earlier_{number}_eval.jsonl")[0]["step"] == number
    assert read(tmp_path, "log.jsonl")[0]["step"] == 3
    assert "is kept: earlier_1_log.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, content",
    [
        ("run.json", '{"data_set": "unc"}'),
        ("unc_iter_7.tfmodel.index", ""),
        ("unc_iter_best.tfmodel.index", ""),
    ],
)
def test_folder_of_another_data_set_is_refused(tmp_path, name, content):
    run_log.require_own(str(tmp_path / "none"), "shapes")
    run_log.require_own(str(tmp_path), "shapes")
    (tmp_path / name).write_text(content)
    run_log.require_own(str(tmp_path), "unc")
    with pytest.raises(UserError, match="belongs to a run on unc: choose another"):
        run_log.require_own(str(tmp_path), "shapes")


@pytest.mark.parametrize("content", ["[1]", '{"resumed": 3}', '"text"', "[[1, 2]]"])
def test_record_of_another_shape_does_not_stop_a_run(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with run_log.RunLog(str(tmp_path), 5) as log:
        log.begin({"seed": 7}, step=5)
    assert json.loads((tmp_path / "run.json").read_text())["resumed"][0]["step"] == 5


def test_damaged_lines_of_a_log_do_not_stop_a_run(tmp_path):
    good = b'{"step": 2}\n'
    damaged = [b"\xff\xfe\n", b"\0" * 9 + b"\n", b"[" * 100000 + b"\n", b"3\n"]
    (tmp_path / "log.jsonl").write_bytes(b"".join([*damaged, good, b'{"step": 9}\n']))
    with run_log.RunLog(str(tmp_path), 5):
        assert (tmp_path / "log.jsonl").read_bytes() == good
