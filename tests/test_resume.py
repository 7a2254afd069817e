"""Training that was interrupted and resumed gives what it would have given."""

import itertools
import json
import random
import signal
import time

import numpy as np
import pytest
import runs

STEPS, EVERY_SNAPSHOT, EVERY_LOG = 30, 4, 3
KILLS = 5


def options(data, folder, *more):
    run = ["-st", str(STEPS), "-s", str(EVERY_SNAPSHOT), "--resume", "--threads", "1"]
    # Dropout and shuffling draw at random, and the seed is all that is said of it.
    chance = ["--keep-prob-rnn", "0.8", "--keep-prob-emb", "0.9"]
    features = ["--cache-features", str(folder.parent / "features")]
    return runs.TINY + data + ["-f", str(folder)] + run + chance + features + list(more)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.build(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("through") / "ckpts"
    out, _ = runs.finish(runs.start(EVERY_LOG, options(data, folder)))
    assert "resumed" not in out
    return folder


def read_lines(process, count):
    """Read lines of a process' output; fewer where it ends."""
    return list(itertools.islice(process.stdout, count))


def end_softly(process, folder):
    """Send SIGTERM after the first log line and check what comes of it."""
    read_lines(process, 5)
    process.send_signal(signal.SIGTERM)
    out, _ = runs.finish(process)
    if "iter = {},".format(STEPS) not in out:
        assert "stopped by a signal: go on with --resume" in out
        assert out.splitlines()[-2].startswith("snapshot: ")
        snapshot = out.splitlines()[-2].split()[1]
        state = json.loads(open(snapshot + ".state.json").read())
        assert snapshot.endswith("_iter_{}.tfmodel".format(state["step"]))


def test_killed_at_any_moment(data, undisturbed, tmp_path):
    folder = tmp_path / "ckpts"
    chance = random.Random()
    resumed = []
    for _ in range(KILLS):
        process = runs.start(EVERY_LOG, options(data, folder))
        # A log step prints four lines, a snapshot one.
        lines = read_lines(process, chance.randrange(1, 16))
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        resumed += [line for line in lines if line.startswith("resumed")]
    end_softly(runs.start(EVERY_LOG, options(data, folder)), folder)
    runs.finish(runs.start(EVERY_LOG, options(data, folder)))
    wanted, found = (runs.values(path, STEPS) for path in (undisturbed, folder))
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)
    logs = [runs.of_the_run(runs.read_log(path)) for path in (undisturbed, folder)]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(
        range(EVERY_LOG, STEPS + 1, EVERY_LOG)
    )
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 3
    # Kills before the first snapshot begin anew, which needs no word of it.
    assert len(record.get("resumed", [])) >= len(resumed)
    assert not list(folder.glob("*.part")) and not (folder / ".saving").exists()
