"""Training runs of a tiny network as users start them, for the tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import recipe
from networks import LSTM_model, small_backbone

from util.data import datasets, shapes, text_processing
from util.data.build import build_samples
from util.graph.compat import tf
from util.training.snapshots import Snapshots
from util.training.start import calibrate

HERE = Path(__file__).resolve().parent
TINY = "-d shapes -t train --v-emb-dim 16 --mlp-dim 8 --seed 3 -g -1".split()
OF_THE_MOMENT = ("sentences_per_s", "memory_mb")


def build(root, **options):
    """Draw and build `shapes` below `root`, small; return options to train on it."""
    data = str(root / "data")
    shapes.draw(data, num_scenes={"train": 6, "val": 1, "test": 1})
    for split in ("train", "val"):
        build_samples(datasets.get("shapes", data), split, size=64, **options)
    return ["--data", data]


def draw_weights(folder, data):
    """Save a network of the size of TINY with random weights; return the path."""
    words = text_processing.vocabulary_size(
        datasets.get("shapes", data[1]).vocabulary_file
    )
    sizes = dict(H=64, W=64, vf_h=8, vf_w=8, v_emb_dim=16, rnn_size=16, mlp_dim=8)
    with small_backbone(), tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        LSTM_model(vocab_size=words, **sizes)
        session.run(tf.global_variables_initializer())
        images = [recipe.image(seed, 64, 64) for seed in range(4)]
        calibrate(session, images)
        return Snapshots(str(folder), "shapes").save(session, 1)


def start(every, options, **environment):
    """Start a run that logs every so many steps; return the process."""
    environment = dict(os.environ, **environment)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # what users have
    return subprocess.Popen(
        [sys.executable, "-u", str(HERE / "quick_train.py"), str(every), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def finish(process, code=0):
    """Wait for a process; return what it printed, and what it told on stderr."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return out, err


def read_log(folder, name="log.jsonl"):
    """Return the lines of a log as dicts."""
    text = (Path(str(folder)) / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def of_the_run(lines):
    """Return log lines without what depends on the machine's mood."""
    return [
        {key: value for key, value in line.items() if key not in OF_THE_MOMENT}
        for line in lines
    ]


def values(folder, step):
    """Return the variables of a snapshot by name."""
    reader = tf.train.NewCheckpointReader(
        str(Path(str(folder)) / f"shapes_iter_{step}.tfmodel")
    )
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
    }


def distance(found, wanted):
    """Return the relative l2 distance of two sets of trained weights."""
    names = [n for n in wanted if n.startswith("text_objseg/") and "Adam" not in n]
    square = sum(np.sum((found[n] - wanted[n]) ** 2.0) for n in names)
    return float(np.sqrt(square / sum(np.sum(wanted[n] ** 2.0) for n in names)))
