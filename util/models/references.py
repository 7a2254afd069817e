"""What papers and releases say of the models: scores, and how much they compute.

It is data alone, so that reports and the benchmark need no TensorFlow for it.
"""

from typing import Dict, List, NamedTuple, Optional, Tuple

FIGURES = ("overall_iou", "mean_iou", "precision@0.5", "precision@0.7", "precision@0.9")
Pair = Tuple[Optional[float], Optional[float]]

AUTHORS = "the authors' later release; the paper has 61.36 on unc val"
ATTEMPT = "a public attempt to improve CMPC (2021): one training each"
SURVEY = "second-hand, from a survey of 2025"
PAPER_OF_STEP = "of a paper whose code was never published, ours is our own realisation"
READMES = f"{PAPER_OF_STEP}; second-hand, from the READMEs of CMPC and LSCM"
SITE = f"{PAPER_OF_STEP}; second-hand, from paperswithcode"

CHANCE = (
    "Two trainings of the same network differ by up to 0.6: a difference of less than "
    "one point on one split says nothing."
)


class Run(NamedTuple):
    """A training whose scores are known.

    Attributes:
      name: what it is called where people read it.
      model: its name in `models.MODELS`; "": it is none of ours.
      options: those of `models.OPTIONS` that make another model of it.
      source: who says so, and where it was seen.
      step: of the snapshot that was tested; None: unknown.
      scores: (data set, split) -> name, of FIGURES -> (without, with DenseCRF) in per
        cent, None where it is unknown.
    """

    name: str
    model: str
    options: Dict[str, object]
    source: str
    step: Optional[int]
    scores: Dict[Tuple[str, str], Dict[str, Pair]]


class Reference(NamedTuple):
    """How much the published implementation of a model computes, where it is known.

    Attributes:
      gflop: a sentence: "test", "train" -> GFLOP.
      rates: its GFLOP a second for each GFLOP a second of the machine's float32
        product, on two cores where that reached 187: "test", "crf", "train". It sees
        one sentence at a time, however many there are; with DenseCRF one took 2.33 s.
      peak_mb: most memory it held: case of a part, such as "train 1" -> 10^6 bytes.
    """

    gflop: Dict[str, float] = {}  # noqa: RUF012
    rates: Dict[str, float] = {}  # noqa: RUF012
    peak_mb: Dict[str, int] = {}  # noqa: RUF012


REFERENCES = {
    "CMPC_model": Reference(
        gflop={"test": 253, "train": 490},
        rates={"test": 0.70, "crf": 253 / 2.33 / 187, "train": 0.62},
        peak_mb={"train 1": 4400},
    ),
    "RRN_model": Reference(gflop={"test": 179}),  # counted from its sizes
}


def of(model: str) -> Reference:
    """Return what is known of a model's cost, by its name in `models.MODELS`.

    Example:
      >>> of("CMPC_model").gflop["test"]
      253
    """
    return REFERENCES.get(model, Reference())


def runs_of(
    model: str, options: Dict[str, object], dataset: str, split: str
) -> List[Run]:
    """Return the runs of a model with the same options on a split, best known first.

    Example:
      >>> [run.name for run in runs_of("CMPC_model", {}, "unc", "val")]
      ['CMPC, published', 'CMPC, trained again']
      >>> runs_of("CMPC_model", {}, "unc", "val")[0].scores["unc", "val"]["overall_iou"]
      (None, 62.47)
    """
    return [
        run
        for run in RUNS
        if (run.model, run.options) == (model, options)
        and (dataset, split) in run.scores
    ]


def _read(text):
    """Read scores: a split a line, FIGURES in order, "without/with"; "-" is unknown."""
    scores = {}
    for line in text.strip().splitlines():
        dataset, split, *pairs = line.split()
        values = [tuple(map(_number, pair.split("/"))) for pair in pairs]
        scores[dataset, split] = dict(zip(FIGURES, values))
    return scores


def _number(text):
    return None if text == "-" else float(text)


RUNS = (
    Run(
        "CMPC, published",
        "CMPC_model",
        {},
        AUTHORS,
        700000,
        _read(
            """
            unc val -/62.47
            unc testA -/65.08
            unc testB -/60.82
            unc+ val -/50.25
            unc+ testA -/54.04
            unc+ testB -/43.47
            Gref val -/49.89
            referit test -/65.58
            """
        ),
    ),
    Run(
        "CMPC, trained again",
        "CMPC_model",
        {},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 61.50/61.87 61.55/61.83 72.6/72.4 55.3/56.2 10.2/13.4
            unc testA 64.41/64.76 64.25/64.53 77.0/76.3 59.4/60.5 9.5/12.7
            unc testB 60.21/60.64 60.29/60.55 69.8/70.0 51.8/53.0 13.0/15.5
            unc+ val 49.68/49.92 49.75/49.67 57.6/57.3 43.1/44.2 7.6/9.6
            unc+ testA 54.20/54.40 55.04/54.98 65.6/65.3 50.1/50.7 7.4/10.1
            unc+ testB 43.11/43.30 43.65/43.50 48.8/48.8 34.3/35.7 7.4/9.4
            Gref val 49.66/49.90 49.54/49.58 56.1/56.1 39.9/41.7 7.0/9.3
            """
        ),
    ),
    Run(
        "--loss iou30",
        "CMPC_model",
        {"loss": "iou30"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 62.52/62.80 62.71/62.86 74.5/73.9 57.6/58.4 10.9/14.0
            unc testA 64.93/65.31 64.92/65.19 78.4/77.7 61.8/62.1 10.4/13.4
            unc testB 60.53/60.92 60.91/61.11 70.1/70.3 53.6/54.5 13.8/16.4
            unc+ val 48.56/48.73 49.32/49.23 56.5/56.3 41.7/42.7 7.2/9.7
            unc+ testA 53.04/53.36 53.85/53.91 63.1/63.1 47.5/48.6 7.8/10.2
            unc+ testB 42.77/43.03 43.07/42.91 46.9/47.3 32.9/33.8 7.4/9.5
            Gref val 49.54/49.79 49.48/49.54 56.0/56.0 39.9/41.4 7.2/9.7
            """
        ),
    ),
    Run(
        "--loss iou50",
        "CMPC_model",
        {"loss": "iou50"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 61.52/61.87 61.71/61.85 72.2/71.9 55.4/56.1 10.8/13.1
            unc testA 64.15/64.54 64.15/64.41 76.5/76.5 59.2/59.9 10.5/13.0
            unc testB 60.48/60.91 60.55/60.85 69.6/70.0 51.4/53.0 12.6/15.4
            """
        ),
    ),
    Run(
        "--loss iou70",
        "CMPC_model",
        {"loss": "iou70"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 61.62/61.92 61.43/61.47 72.2/71.8 55.3/56.1 10.5/13.3
            unc testA 64.40/64.69 63.92/63.99 76.6/75.9 59.0/59.9 9.9/13.1
            unc testB 59.56/59.94 59.52/59.60 68.4/68.5 50.3/51.3 13.0/15.9
            """
        ),
    ),
    Run(
        "--refine score",
        "CMPC_model",
        {"refine": "score"},
        ATTEMPT,
        800000,
        _read(
            """
            unc val 62.55/62.67 63.04/63.00 74.1/73.7 58.9/58.9 12.9/14.9
            unc testA 64.98/65.13 65.47/65.51 78.8/77.9 63.1/63.4 12.3/14.8
            unc testB 60.67/60.85 61.24/61.26 71.0/70.8 54.2/54.4 15.5/17.6
            unc+ val 50.11/50.30 51.16/51.13 59.7/59.4 45.5/46.0 9.1/10.7
            unc+ testA 54.47/54.61 56.21/56.27 66.7/66.3 52.4/53.0 8.9/11.1
            unc+ testB 43.75/43.84 44.85/44.71 49.7/49.8 36.0/36.8 8.3/9.6
            Gref val 48.93/49.13 49.58/49.69 56.5/56.2 41.4/42.8 8.3/10.4
            """
        ),
    ),
    Run(
        "--refine image",
        "CMPC_model",
        {"refine": "image"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 62.68/62.70 63.72/63.51 74.5/74.0 58.8/58.7 13.8/15.1
            """
        ),
    ),
    Run(
        "--refine edges",
        "CMPC_model",
        {"refine": "edges"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 62.57/62.55 63.06/62.71 74.1/73.4 58.8/58.5 13.3/14.9
            """
        ),
    ),
    Run(
        "--second-pass score",
        "CMPC_model",
        {"second_pass": "score"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 61.90/62.23 62.32/62.51 74.1/73.7 57.4/57.9 10.6/13.7
            unc testA 65.13/65.46 65.22/65.49 78.6/78.0 61.8/62.2 10.2/13.2
            unc testB 60.07/60.40 60.30/60.41 69.4/69.4 52.7/53.7 13.5/16.1
            unc+ val 49.93/50.05 50.31/50.22 58.2/57.9 43.8/44.4 7.9/10.2
            unc+ testA 54.01/54.21 54.86/54.86 65.3/65.1 50.0/50.5 8.3/10.7
            unc+ testB 42.60/42.67 43.30/43.13 48.0/47.7 34.0/34.8 7.5/9.1
            Gref val 48.35/48.53 48.45/48.49 54.1/54.2 38.2/39.6 7.2/9.4
            """
        ),
    ),
    Run(
        "--second-pass affinity",
        "CMPC_model",
        {"second_pass": "affinity"},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 61.77/61.99 62.16/62.30 73.7/73.5 56.8/57.0 10.8/13.0
            unc testA 64.53/64.83 64.74/64.95 77.6/77.1 61.6/62.0 10.4/13.2
            unc testB 59.73/60.01 60.38/60.57 69.7/69.9 53.1/54.0 13.7/16.3
            unc+ val 49.14/49.39 49.09/49.04 56.6/56.4 41.2/42.2 6.8/8.9
            unc+ testA 53.52/53.67 53.98/53.90 64.0/63.7 47.0/47.9 7.3/9.8
            unc+ testB 42.57/42.65 42.81/42.53 47.0/46.9 32.3/33.0 6.7/8.6
            Gref val 48.24/48.46 48.24/48.25 54.1/54.0 37.5/38.9 6.7/8.9
            """
        ),
    ),
    Run(
        "a second graph",
        "",
        {},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 61.54/62.07 62.02/62.49 73.3/73.2 55.6/56.9 9.4/12.7
            """
        ),
    ),
    Run(
        "a graph on the fused levels",
        "",
        {},
        ATTEMPT,
        800000,
        _read(
            """
            unc val 61.08/61.45 61.40/61.60 72.4/71.9 55.2/56.0 10.1/13.2
            unc testA 64.21/64.65 64.14/64.48 76.9/76.4 59.5/60.7 10.1/12.7
            unc testB 59.81/60.22 60.06/60.36 68.5/68.7 51.6/52.7 13.3/15.8
            """
        ),
    ),
    Run(
        "second pass and refinement",
        "",
        {},
        ATTEMPT,
        700000,
        _read(
            """
            unc val 60.69/60.81 60.76/60.67 71.9/71.3 53.8/54.4 10.5/12.6
            unc testA 63.08/63.14 63.13/63.08 75.6/74.9 58.4/58.3 10.1/12.9
            unc testB 59.59/59.76 59.37/59.34 68.8/68.6 50.3/51.0 13.4/15.1
            """
        ),
    ),
    Run(
        "RRN, published",
        "RRN_model",
        {},
        SURVEY,
        None,
        _read(
            """
            unc val -/55.33
            unc testA -/57.26
            unc testB -/53.93
            unc+ val -/39.75
            unc+ testA -/42.15
            unc+ testB -/36.11
            Gref val -/36.45
            """
        ),
    ),
    Run(
        "STEP, 5 folds, published",
        "STEP_model",
        {"folds": 5},
        READMES,
        None,
        _read(
            """
            unc val 60.04/-
            unc testA 63.46/-
            unc testB 57.97/-
            unc+ val 48.19/-
            unc+ testA 52.33/-
            unc+ testB 40.41/-
            Gref val 46.40/-
            referit test 64.13/-
            """
        ),
    ),
    Run(
        "STEP, 1 fold, published",
        "STEP_model",
        {"folds": 1},
        SITE,
        None,
        _read(
            """
            unc val 56.58/-
            unc testA 58.70/-
            unc testB 55.39/-
            """
        ),
    ),
    Run(
        "RMI, published",
        "",
        {},
        SURVEY,
        None,
        _read(
            """
            unc val -/45.18
            unc testA -/45.69
            unc testB -/45.57
            unc+ val -/29.86
            unc+ testA -/30.48
            unc+ testB -/29.50
            Gref val -/34.52
            """
        ),
    ),
)
