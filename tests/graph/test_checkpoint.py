"""util.graph.checkpoint, with graphs of a few variables."""

import contextlib
import os
import resource

import numpy as np
import pytest
from variables import load, make, save

from deeplab_resnet import weights
from util.core.errors import UserError
from util.graph import checkpoint
from util.graph.compat import tf
from util.inference.predictor import vocabulary_of
from util.training.snapshots import Snapshots

TWO = {"text_objseg/a": [2, 3], "text_objseg/b": []}


def test_path_is_that_of_the_reference():
    path = checkpoint.path(os.path.join("ckpts", "unc"), "unc+", 700000)
    assert path == os.path.join("ckpts", "unc", "unc+_iter_700000.tfmodel")


def test_steps_are_those_of_one_data_set_in_order(tmp_path):
    for step in (100, 20):
        save(tmp_path, TWO, step)
    for name in (
        "unc+_iter_5.tfmodel.index",
        "unc_iter_6.tfmodel.json",
        "unc_iter_x.tfmodel.index",
        "my_unc_iter_8.tfmodel.index",
        "checkpoint",
    ):
        (tmp_path / name).write_text("")
    assert checkpoint.steps(str(tmp_path), "unc") == [20, 100]
    assert checkpoint.steps(str(tmp_path), "unc+") == [5]
    assert checkpoint.steps(str(tmp_path), "Gref") == []
    assert checkpoint.steps(str(tmp_path / "none"), "unc") == []


def test_fingerprint_tells_weights_apart(tmp_path):
    values = [{"w": np.float32([value])} for value in (1, 1, 2)]
    paths = [save(tmp_path, value, step) for step, value in enumerate(values)]
    first, same, other = map(checkpoint.fingerprint, paths)
    assert first == same != other and len(first) == 64
    assert checkpoint.fingerprint(str(tmp_path / "no")) is None


def test_find_lists_what_is_there(tmp_path):
    path = save(tmp_path, TWO, 20)
    save(tmp_path, TWO, 100)
    assert checkpoint.find(str(tmp_path), "unc", 20) == path
    with pytest.raises(UserError, match=r"unc_iter_30\.tfmodel.* with -i: 20, 100$"):
        checkpoint.find(str(tmp_path), "unc", 30)
    with pytest.raises(UserError, match="there is no snapshot .*train first"):
        checkpoint.find(str(tmp_path / "none"), "unc", 30)


def test_find_takes_the_newest_where_no_step_is_named(tmp_path):
    with pytest.raises(UserError, match="unc_iter_N.*train first"):
        checkpoint.find(str(tmp_path), "unc", None)
    best = save(tmp_path, TWO, "best")
    assert checkpoint.find(str(tmp_path), "unc", None) == best
    save(tmp_path, TWO, 20)
    newest = save(tmp_path, TWO, 100)
    assert checkpoint.find(str(tmp_path), "unc", None) == newest


def test_names_of_the_older_release_of_rrn_are_found(tmp_path):
    folder = str(tmp_path)
    for name in ("unc_deeplab_LSTM_iter_7", "unc_resnet_RMI_iter_30", "unc_x_iter_50"):
        (tmp_path / f"{name}.tfmodel.index").write_text("")
    ours = save(tmp_path, TWO, 7)
    assert checkpoint.find(folder, "unc", 7) == ours
    old = checkpoint.find(folder, "unc", None)
    assert old == str(tmp_path / "unc_resnet_RMI_iter_30.tfmodel")
    assert checkpoint.steps(folder, "unc") == [7]
    with pytest.raises(UserError, match="with -i: 7, 30$"):
        checkpoint.find(folder, "unc", 50)
    assert vocabulary_of(old, "d") == os.path.join("d", "vocabulary_Gref.txt")
    (tmp_path / "vocabulary.txt").write_text("")
    assert vocabulary_of(old) == str(tmp_path / "vocabulary.txt")


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_load_takes_the_variables_of_the_graph(tmp_path, version):
    more = dict(TWO, **{"text_objseg/text_objseg/a/Adam": [2, 3]})
    version = getattr(tf.train.SaverDef, version)
    path = save(tmp_path, more, write_version=version)
    assert checkpoint.find(str(tmp_path), "unc", 7) == path
    _, values = load(checkpoint.load, path, TWO)
    np.testing.assert_array_equal(values["text_objseg/a"], np.full([2, 3], 1))
    assert values["text_objseg/b"] == 2


def test_snapshot_that_does_not_fit_is_refused_with_what_differs(tmp_path):
    path = save(tmp_path, TWO)
    wanted = {"text_objseg/a": [3, 2], "text_objseg/b": [], "text_objseg/c": [4]}
    with pytest.raises(UserError) as caught:
        load(checkpoint.load, path, wanted)
    told = str(caught.value)
    assert told.startswith(path + " does not fit")
    assert "text_objseg/a is [2, 3], not [3, 2]" in told
    assert "text_objseg/c [4] is missing" in told
    assert "text_objseg/b" not in told and "more" not in told


def test_many_differences_are_counted(tmp_path):
    path = save(tmp_path, TWO)
    wanted = {f"v{n}": [n] for n in range(checkpoint.NAMED + 3)}
    with pytest.raises(UserError) as caught:
        load(checkpoint.load, path, wanted)
    told = str(caught.value)
    assert told.count("is missing") == checkpoint.NAMED
    assert told.endswith("; and 3 more")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, bad):
    value = np.ones([2, 3], np.float32)
    value[1, 2] = bad
    names = {"text_objseg/b": [], "res1/a": value}
    path = save(tmp_path, names)
    wanted = {"text_objseg/b": [], "res1/a": [2, 3]}
    told = "1 of 6 values of res1/a are NaN or infinite"
    for function in (checkpoint.load, weights.load):
        with pytest.raises(UserError, match=told):
            load(function, path, wanted)
    with pytest.raises(UserError, match=told):
        weights.check(path)
    load(checkpoint.load, path, {"text_objseg/b": []})


def data_file(path):
    return path + ".data-00000-of-00001"


def truncate(path):
    os.truncate(data_file(path), 8)


def lose_data(path):
    os.remove(data_file(path))


def change_data(path):
    with open(data_file(path), "r+b") as file:
        file.write(b"\xff" * 8)


def garble_index(path):
    with open(path + ".index", "wb") as file:
        file.write(b"<html>404 not found</html>" * 9)


def empty_index(path):
    with open(path + ".index", "wb"):
        pass


def lose_all(path):
    lose_data(path)
    os.remove(path + ".index")


@pytest.mark.parametrize(
    "damage",
    [truncate, lose_data, change_data, garble_index, empty_index, lose_all],
)
@pytest.mark.parametrize("function", [checkpoint.load, weights.load])
def test_damaged_file_is_named_in_one_line(tmp_path, damage, function):
    values = {"res2a_branch1/weights": [2, 3], "conv1/weights": [4]}
    path = save(tmp_path, values)
    damage(path)
    with pytest.raises(UserError) as caught:
        load(function, path, values)
    assert str(caught.value) == (
        f"cannot read the checkpoint {path}: it is missing, damaged or incomplete; "
        "copy or "
        "download all its files again (.index and .data-...)"
    )


def test_the_last_four_snapshots_are_kept(tmp_path):
    folder = tmp_path / "new" / "folder"
    with tf.Graph().as_default(), tf.Session() as session:
        make(TWO)
        session.run(tf.global_variables_initializer())
        snapshots = Snapshots(str(folder), "unc")
        for step in range(1, 7):
            path = snapshots.save(session, step)
            assert path == checkpoint.path(str(folder), "unc", step)
    assert checkpoint.steps(str(folder), "unc") == [3, 4, 5, 6]
    names = {name.split(".tfmodel")[-1] for name in os.listdir(str(folder))}
    assert names == {"checkpoint", ".index", ".data-00000-of-00001", ".state.json"}
    # The folder can be moved: what lists the snapshots holds no folder.
    assert str(tmp_path) not in (folder / "checkpoint").read_text()
    _, values = load(checkpoint.load, path, TWO)
    assert (values["text_objseg/a"] == 1).all()


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with tf.Graph().as_default():
        make(TWO)
        with pytest.raises(UserError, match="cannot write snapshots to .*file"):
            Snapshots(str(tmp_path / "file" / "x"), "unc")


def test_snapshot_that_cannot_be_written_is_named(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        make(TWO)
        session.run(tf.global_variables_initializer())
        snapshots = Snapshots(str(tmp_path / "f"), "unc")
        (tmp_path / "f").rmdir()
        (tmp_path / "f").write_text("")
        with pytest.raises(UserError, match="cannot write the snapshot .*_7.tfmodel"):
            snapshots.save(session, 7)


@contextlib.contextmanager
def full_disk(size):
    """Let no file grow beyond `size` bytes, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100000])
def test_full_disk_leaves_the_older_snapshots(tmp_path, size):
    large = {"text_objseg/a": [100, 1000]}
    with tf.Graph().as_default(), tf.Session() as session:
        make(large)
        session.run(tf.global_variables_initializer())
        snapshots = Snapshots(str(tmp_path), "unc")
        paths = [snapshots.save(session, step, {"step": step}) for step in range(4)]
        before = sorted(os.listdir(str(tmp_path)))
        with full_disk(size):
            with pytest.raises(UserError, match="cannot write .*is the disk full"):
                snapshots.save(session, 4, {"step": 4})
        assert sorted(os.listdir(str(tmp_path))) == before
        paths.append(snapshots.save(session, 4, {"step": 4}))
    for path in paths[1:]:
        _, values = load(checkpoint.load, path, large)
        assert (values["text_objseg/a"] == 1).all()


def test_newest_whole_snapshot_is_the_one_to_go_on_from(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        make(TWO)
        session.run(tf.global_variables_initializer())
        snapshots = Snapshots(str(tmp_path), "unc")
        assert checkpoint.newest(str(tmp_path), "unc") is None
        for step in (8, 9, 10):
            snapshots.save(session, step, {"step": step, "seed": 3})
    (tmp_path / "unc_iter_10.tfmodel.index").unlink()
    (tmp_path / "unc_iter_9.tfmodel.state.json").unlink()
    path = checkpoint.newest(str(tmp_path), "unc")
    assert path == checkpoint.path(str(tmp_path), "unc", 8)
    assert checkpoint.read_state(path) == {"step": 8, "seed": 3}
    (tmp_path / "unc_iter_8.tfmodel.state.json").write_text("{")
    with pytest.raises(UserError, match="cannot read .*_8.tfmodel.state.json"):
        checkpoint.read_state(path)


@pytest.mark.parametrize(
    "name", ["run[1]", "a*", "a?", "{a}", "a\nb", "a\\b", "a\udc80"]
)
def test_name_that_tensorflow_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot use the name"):
        checkpoint.find(str(tmp_path / name), "unc", 1)
    with pytest.raises(UserError, match="cannot use the name"):
        checkpoint.shapes(os.path.join(name, "unc_iter_1.tfmodel"))
    with pytest.raises(UserError, match="cannot use the name 'file://a'"):
        checkpoint.find("file://a", "unc", 1)


@pytest.mark.parametrize("name", ["a b", "-a", "a,b(c)'d", "caf\u00e9", "a:b", "a%20"])
def test_any_other_name_works(tmp_path, name):
    path = save(tmp_path / name, TWO)
    checkpoint.require_whole(path)
    _, values = load(checkpoint.load, path, TWO)
    assert (values["text_objseg/a"] == 1).all()


def test_best_snapshot_stays_when_older_ones_go(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        make(TWO)
        session.run(tf.global_variables_initializer())
        snapshots = Snapshots(str(tmp_path), "unc")
        snapshots.save(session, 1)
        best = snapshots.keep_best(1)
        tf.global_variables()[1].load(9, session)
        for step in range(2, 8):
            snapshots.save(session, step)
    assert checkpoint.steps(str(tmp_path), "unc") == [4, 5, 6, 7]
    assert checkpoint.find(str(tmp_path), "unc", "best") == best
    _, values = load(checkpoint.load, best, TWO)
    assert values["text_objseg/b"] == 2


def test_values_that_are_no_numbers_are_noticed(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        make(TWO)
        session.run(tf.global_variables_initializer())
        snapshots = Snapshots(str(tmp_path), "unc")
        assert snapshots.are_finite(session)
        for value in (np.nan, np.inf):
            tf.global_variables()[1].load(value, session)
            assert not snapshots.are_finite(session)


def test_vocabulary_lies_beside_a_snapshot_or_is_that_of_its_data_set(tmp_path):
    unc, mine = (str(tmp_path / name) + "_iter_9.tfmodel" for name in ("unc", "mine"))
    wanted = os.path.join("elsewhere", "vocabulary_Gref.txt")
    assert vocabulary_of(unc, "elsewhere") == wanted
    with pytest.raises(UserError, match="tells no data set: say which vocabulary"):
        vocabulary_of(mine, "elsewhere")
    (tmp_path / "vocabulary.txt").write_text("<pad>")
    for snapshot in (unc, mine):
        found = vocabulary_of(snapshot, "elsewhere")
        assert found == str(tmp_path / "vocabulary.txt")


def test_index_of_more_values_than_bytes_is_refused(tmp_path):
    """Networks are as large as checkpoints say: none is built for such a one."""
    path = save(tmp_path, {"text_objseg/embedding": [300, 100]})
    assert checkpoint.shapes(path) == {"text_objseg/embedding": [300, 100]}
    with open(path + ".data-00000-of-00001", "r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match="cannot read the checkpoint .*incomplete"):
        checkpoint.shapes(path)
