"""All models and their options side by side: how large, how much work, how fast."""

from typing import Any, Callable, Dict, List

import numpy as np

from util.bench import measurements
from util.bench.measurements import Setup, Sizes
from util.models import load
from util.models.cases import SPLIT, Case

PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
SENTENCES = 7  # of an image


CASES = (
    Case("CMPC_model", {}),
    Case("CMPC_model", {"refine": "score"}),
    Case("CMPC_model", {"refine": "image"}),
    Case("CMPC_model", {"second_pass": "score"}),
    Case("CMPC_model", {"second_pass": "affinity"}),
    Case("RRN_model", {}),
    Case("STEP_model", {"folds": 1}),
    Case("STEP_model", {"folds": 3}),
    Case("STEP_model", {"folds": 5}),
)


def size_of(setup: Setup) -> Dict[str, float]:
    """Build the network and count.

    Args:
      setup: its model, and the arguments of it in `sizes.network`.

    Returns:
      parameters: numbers in the variables of the network.
      gflop, more_gflop: products and convolutions of the first sentence on an image,
        and of each further one, in 10^9 additions and multiplications.
    """
    from util.graph.compat import temporary_graph, tf

    model_class, work = load(setup.model), []
    for sentences in (1, 2):
        with temporary_graph() as graph:
            model_class(batch_size=sentences, num_images=1, **setup.sizes.network)
            work.append(sum(map(_work, graph.get_operations())) / 1e9)
            shapes = [v.shape.as_list() for v in tf.global_variables()]
    first, both = work
    return {
        "parameters": int(sum(map(np.prod, shapes))),
        "gflop": first,
        "more_gflop": both - first,
    }


def _work(operation):
    """Return the additions and multiplications of an operation of a known size."""
    if operation.type in PRODUCTS:
        turned = "transpose_a" if operation.type == "MatMul" else "adj_x"
        inner = operation.inputs[0].shape.as_list()
        inner = inner[-2] if operation.get_attr(turned) else inner[-1]
    elif operation.type in CONVOLUTIONS:
        kernel = operation.inputs[1].shape.as_list()
        inner = np.prod(kernel[:3] if operation.type == "Conv2D" else kernel[:2])
    else:
        return 0
    return 2 * inner * np.prod(operation.outputs[0].shape.as_list())


def measure_tests(setup: Setup, folder: str) -> Dict[str, float]:
    """Measure tests with random weights.

    Args:
      setup: what is measured.
      folder: of the snapshot; made where missing.

    Returns:
      What `size_of` gives, and per_s, more_per_s: sentences a second with one and with
      SENTENCES an image.
    """
    snapshot = measurements.make_snapshot(setup, folder)
    found = size_of(setup)
    for key, sentences in (("per_s", 1), ("more_per_s", SENTENCES)):
        tested = measurements.testing(setup, snapshot, sentences, False)
        found[key] = tested["sentences_per_s"]
    return found


def measure(
    alone: Callable, sizes: Sizes, precision: str, folder: str
) -> List[Dict[str, Any]]:
    """Measure all CASES; tests and training each in a process of its own.

    Args:
      alone: `benchmark.alone`, without the figures.
      sizes, precision: of `Setup`.
      folder: for snapshots.

    Returns:
      A dict for each of CASES: name; published, see `Case`; what `measure_tests` gives;
      step_s, seconds of a training step of one sentence.
    """
    found = []
    for number, case in enumerate(CASES):
        network = dict(sizes.network, **case.options)
        setup = Setup(case.model, precision, sizes=sizes._replace(network=network))
        place = f"{folder}/{number}"
        tested = alone(f"{case}, test", measure_tests, setup, place)
        step = measurements.training_steps, setup, place, 1, False
        step_s = 1 / alone(f"{case}, training", *step)["sentences_per_s"]
        about = {"name": str(case), "published": case.published}
        found.append({**about, **tested, "step_s": step_s})
    return found


def table(found: List[Dict[str, Any]]) -> str:
    """Return the figures of `measure` as a table in Markdown, a row for each case."""
    lines = [
        "| model | million parameters | GFLOP, first sentence | further ones | seconds "
        f"a step | sentences a second, 1 an image | {SENTENCES} an image | published, "
        f"`{SPLIT[0]}` {SPLIT[1]} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = (
            f"`-n {one['name']}`",
            f"{one['parameters'] / 1e6:.1f}",
            f"{one['gflop']:.0f}",
            f"{one['more_gflop']:.0f}",
            f"{one['step_s']:.2f}",
            f"{one['per_s']:.2f}",
            f"{one['more_per_s']:.2f}",
            one["published"],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
