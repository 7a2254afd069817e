"""Many clients at once on the page's call, for `util.benchmark --serve`.

The server is another process, as users start it, with a small network drawn at random.
 Each answer is compared with that of a Predictor alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from pycocotools import mask as coco_mask

from util import models
from util.bench import scaling
from util.core import parallel
from util.core.errors import UserError
from util.core.files import whole_file
from util.data import im_processing, shapes, shapes_scenes, text_processing
from util.inference import visualize

CLIENTS = 8
SECONDS = 120
SETTLED = 0.5  # share of the time after which memory must not grow any more
SIDE, V_EMB_DIM, MLP_DIM = 64, 16, 8  # of the network
IMAGES, SENTENCES = 6, 5  # more images than a server remembers
START_S = 120

Question = Tuple[str, str]  # path of an image, sentence


def measure(model: str, seconds: float = SECONDS) -> Dict[str, Any]:
    """Ask for a while with CLIENTS clients at once.

    Args:
      model: one of `models.MODELS`.
      seconds: how long.

    Returns:
      calls, wrong: numbers of answers and of those that were wrong or failed;
      calls_per_s; p50_s, p95_s: of the time of a call; settled_mb, end_mb: the
      server's memory after the first half and at the end, 10^6 bytes; growth: by
      which share it grew.

    Raises:
      UserError: Gradio is not there, or the server did not start.
    """
    from util.deploy import server

    server.import_gradio()
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        questions = draw_questions(draw_images(folder))
        snapshot = draw_network(models.load(model), folder, questions)
        answers = right_answers(snapshot, questions)
        with running_server(snapshot) as (url, process):
            return _ask(url, process, answers, seconds)


def draw_images(folder: str) -> List[str]:
    """Draw a few images of `shapes` and return their paths."""
    rng = np.random.RandomState(5)
    paths = []
    for number in range(IMAGES):
        kind = shapes_scenes.KINDS[number % len(shapes_scenes.KINDS)]
        scene = shapes_scenes.make_scene(rng, kind)
        paths.append(os.path.join(folder, f"{number}.png"))
        visualize.save_png(paths[-1], shapes.render(rng, scene))
    return paths


def draw_questions(images: Sequence[str]) -> List[Question]:
    """Return SENTENCES questions for each image, of words of `shapes`."""
    words = shapes_scenes.vocabulary()[4:]
    return [
        (path, f"the {words[(3 * number + n) % len(words)]} {words[n]}")
        for number, path in enumerate(images)
        for n in range(SENTENCES)
    ]


def draw_network(
    model_class, folder: str, questions: Sequence[Question], **options: Any
) -> str:
    """Save a small network drawn at random whose masks cover half of the images.

    Args:
      model_class: see `models.load`.
      folder: gets the snapshot of step 1 and its vocabulary, that of `shapes`.
      questions: which it is fitted to: half of all their pixels lie in the masks.
      **options: of `models.OPTIONS`.

    Returns:
      The path of the snapshot.
    """
    from util.graph.compat import temporary_graph, tf
    from util.graph.session import new_session
    from util.models.base import grid_sizes
    from util.training import start
    from util.training.snapshots import Snapshots

    words = shapes_scenes.vocabulary()
    vocabulary = {word: number for number, word in enumerate(words)}
    ids = [
        text_processing.preprocess_sentence(sentence, vocabulary)
        for _, sentence in questions
    ]
    fitted = [
        im_processing.fit_image(im_processing.read_image(path), SIDE, SIDE)
        for path, _ in questions
    ]
    with whole_file(os.path.join(folder, text_processing.VOCABULARY), "w") as file:
        file.writelines(word + "\n" for word in words)
    with temporary_graph():
        tf.set_random_seed(1)
        model = model_class(
            batch_size=len(fitted),
            vocab_size=len(words),
            **grid_sizes(SIDE, SIDE),
            **model_class.channels(V_EMB_DIM, MLP_DIM),
            **options,
        )
        with new_session() as session:
            session.run(tf.global_variables_initializer())
            start.calibrate(session, fitted)
            inputs = im_processing.to_network_input(np.stack(fitted))
            up = session.run(model.up, {model.im: inputs, model.words: ids})
            session.run(tf.assign_sub(_bias(model), [np.median(up)]))
            state = {"step": 1, "options": model.chosen}
            return Snapshots(folder, "shapes").save(session, 1, state)


def _bias(model):
    """Return the variable [1] that is added last to the score of every cell."""
    from util.graph.compat import tf

    numbers = [v for v in tf.trainable_variables() if v.shape.as_list() == [1]]
    used = [v for v in numbers if tf.gradients(model.pred, v)[0] is not None]
    return used[-1]


def right_answers(snapshot: str, questions: Sequence[Question]):
    """Return question -> bool [H, W], the mask that a Predictor alone finds."""
    from util.inference.predictor import Predictor

    answers = {}
    with Predictor(snapshot) as predictor:
        for path, sentence in questions:
            predictor.set_image(path)
            answers[path, sentence] = predictor.segment(sentence).mask
    return answers


@contextlib.contextmanager
def running_server(snapshot: str):
    """Serve a snapshot of step 1 in another process while the `with` lasts.

    Yields:
      (URL of the page, the process).

    Raises:
      UserError: it did not start.
    """
    (port,) = scaling.free_ports(1)
    script = scaling.command_line()
    command = [sys.executable, "-u", script, *"-m serve -d shapes -i 1 -g -1".split()]
    command += ["-f", os.path.dirname(snapshot), "--port", str(port)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
        preexec_fn=lambda: parallel.end_with_parent(signal.SIGTERM),
    ) as process:
        alarm = threading.Timer(START_S, process.kill)
        alarm.start()
        try:
            line = process.stdout.readline()
            alarm.cancel()
            if not line.startswith("the page: "):
                raise UserError("the server did not start; try -m serve by itself")
            yield line.split()[2], process
        finally:
            alarm.cancel()
            process.terminate()


def _ask(url, process, answers, seconds):
    """Return the figures of `measure`."""
    begin, times, wrong, memory = time.time(), [], [], []
    end = begin + seconds
    clients = [
        threading.Thread(target=_client, args=(url, n, answers, end, times, wrong))
        for n in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        memory.append((time.time() - begin, memory_mb(process.pid)))
        time.sleep(0.5)
    took = time.time() - begin
    settled = [mb for at, mb in memory if at <= SETTLED * seconds]
    settled_mb, end_mb = settled[-1], max(mb for _, mb in memory[-4:])
    p50, p95 = np.percentile(times or [np.nan], [50, 95])
    return {
        "calls": len(times),
        "wrong": len(wrong),
        "calls_per_s": len(times) / took,
        "p50_s": float(p50),
        "p95_s": float(p95),
        "settled_mb": settled_mb,
        "end_mb": end_mb,
        "growth": end_mb / settled_mb - 1,
    }


def _client(url, seed, answers, end, times, wrong):
    """Ask until the end, each client in another order."""
    from gradio_client import Client, handle_file

    questions = list(answers)
    rng = np.random.RandomState(seed)
    try:
        client = Client(url, verbose=False)
        while time.time() < end:
            question = questions[rng.randint(len(questions))]
            path, sentence = question
            begin = time.time()
            found = client.predict(
                handle_file(path), sentence, False, api_name="/segment"
            )
            times.append(time.time() - begin)
            if not is_same(coco_mask.decode(found["mask"]) > 0, answers[question]):
                wrong.append(question)
    except Exception as error:  # whatever a client raises is a wrong answer
        wrong.append(repr(error))


def is_same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Tell whether two masks agree up to pixels that rounding may turn."""
    if found.shape != wanted.shape:
        return False
    return (found & wanted).sum() >= 0.999 * (found | wanted).sum()


def memory_mb(pid: int) -> float:
    """Return the memory that a process holds now, in 10^6 bytes (Linux)."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def describe(figures: Dict[str, Any]) -> str:
    """Return the figures of `measure` as a line."""
    return (
        f"{CLIENTS} clients at once: {figures['calls']} calls, {figures['wrong']} "
        f"wrong; {figures['calls_per_s']:.1f} a second, half of them within "
        f"{figures['p50_s']:.2f} s, 95 % within {figures['p95_s']:.2f} s; memory "
        f"{figures['settled_mb']:.0f} MB after the first half, "
        f"{figures['end_mb']:.0f} MB at the end ({figures['growth']:+.1%})"
    )
