"""Models and options side by side on `shapes`: trained alike, tested alike, one table.

What a folder of a comparison has:

backbone-seed-0.ckpt...    the backbone of each seed; one that is there already is used
CMPC_model-seed-0/         a run: what training leaves, and RECORD when it is complete
compare.json               the records of all complete runs
"""

import collections
import glob
import json
import os
import statistics
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from util import models
from util.core import files
from util.core.errors import UserError
from util.core.surroundings import cores
from util.data import build_info, datasets
from util.data.build import build_samples
from util.data.datasets import Dataset
from util.evaluation import breakdown
from util.evaluation.eval_tools import TITLES, WITH_CRF, WITHOUT_CRF
from util.evaluation.evaluate import ROUND, Result, Results
from util.graph import checkpoint
from util.graph.session import versions
from util.inference import dense_crf
from util.inference.predictor import Predictor
from util.models.cases import Case, every, parse
from util.training import demo, run_log

SLOW = ("refine",)  # options that are not compared unless they are asked for
RECORD, RECORDS = "scores.json", "compare.json"
SCORES = {  # of `Scores.as_dict` -> heading
    "overall_iou": "oIoU",
    "mean_iou": "mIoU",
    "precision@0.5": "P@0.5",
    "precision@0.9": "P@0.9",
}
FIGURES = {  # of a record -> heading
    "pair_accuracy": "pairs",
    "blind_iou": "blind",
    "seconds_per_step": "seconds a step",
}

Record = Dict[str, Any]
Values = Tuple[float, ...]  # of a cell: without DenseCRF, and with it where it counts


class Plan(NamedTuple):
    """What all runs of a comparison have in common.

    Attributes:
      folder: of all runs.
      dataset: `shapes`, with its samples.
      steps: of a run.
      threads: see `session.new_session`.
      init_from: path of a snapshot to start from; None: a run starts with a backbone.
    """

    folder: str
    dataset: Dataset
    steps: int
    threads: int = 1
    init_from: Optional[str] = None

    def settings(self) -> Dict[str, Any]:
        """Return what a record must agree in, as JSON can hold it."""
        splits = ("train", "test")
        built = {one: build_info.read(self.dataset.sample_dir(one)) for one in splits}
        keys = ("sentences", "annotations", "vocabulary")
        data = {
            one: [info and info[key] for key in keys] for one, info in built.items()
        }
        return {
            "steps": self.steps,
            "threads": self.threads,
            "init_from": self.init_from and checkpoint.fingerprint(self.init_from),
            "data": data,
        }

    def backbone(self, seed: int) -> str:
        """Return the path of the backbone of a seed."""
        return os.path.join(self.folder, f"backbone-seed-{seed}.ckpt")

    def run_folder(self, case: Case, seed: int) -> str:
        """Return the folder of a run.

        Example:
          >>> shapes = datasets.get("shapes")
          >>> case = Case("CMPC_model", {"second_pass": "score"})
          >>> Plan("compare", shapes, 2000).run_folder(case, 1)
          'compare/CMPC_model-second_pass-score-seed-1'
        """
        options = (f"-{name}-{value}" for name, value in case.options.items())
        return os.path.join(self.folder, f"{case.model}{''.join(options)}-seed-{seed}")


def run(args) -> None:
    """Train and test what is missing, then print and write all of it.

    Args:
      args: options of `python -m util.compare_models`.

    Raises:
      UserError: a network that there is not, a folder of another comparison, or files
        that are missing or do not fit.
      Stopped: a signal came while a network was trained.
    """
    checkpoint.require_usable_name(args.folder)
    cases = list(map(parse, args.networks)) if args.networks else every(without=SLOW)
    init_from = args.init_from and checkpoint.without_ending(args.init_from)
    if init_from:
        _check_can_start(cases, init_from)
    dataset = datasets.get(demo.DATASET, args.data, args.batches)
    for split in ("train", "test"):
        build_samples(dataset, split, jobs=cores())
    plan = Plan(args.folder, dataset, args.steps, args.threads, init_from)
    read_records(plan)
    todo = [(case, seed) for seed in args.seeds for case in cases]
    todo = list({plan.run_folder(*each): each for each in todo}.values())
    for number, (case, seed) in enumerate(todo, 1):
        state = "complete" if _is_complete(plan, case, seed) else "training"
        print(f"{number} of {len(todo)}: {case}, seed {seed}: {state}", flush=True)
        complete(plan, case, seed)
    records = read_records(plan)
    path = os.path.join(plan.folder, RECORDS)
    files.write_json(path, records)
    print(f"\n{report(records)}\n\nrecords: {path}")


def _check_can_start(cases, snapshot):
    model_class, _ = models.to_start_from(snapshot)
    for case in cases:
        if case.model != model_class.NAME:
            raise UserError(
                f"{case} cannot start from {snapshot}, which is of {model_class.NAME}: "
                "say with --networks what does"
            )


# --- One run


def complete(plan: Plan, case: Case, seed: int) -> None:
    """Train and test a network, unless that was done before.

    Args:
      plan: what is the same for all.
      case: the network.
      seed: of everything that is drawn.

    Raises:
      UserError: another process is at it, or a file does not fit.
      Stopped: a signal came.
    """
    folder, backbone, dataset = plan.run_folder(case, seed), None, plan.dataset
    with files.locked(folder):
        if _is_complete(plan, case, seed):
            return
        if plan.init_from is None:
            backbone = _backbone(plan, seed)
        model_class = models.load(case.model)
        snapshot = demo.train_small(
            model_class,
            dataset,
            folder,
            plan.steps,
            seed,
            {**model_class.default_options(), **case.options},
            backbone=backbone,
            init_from=plan.init_from,
            threads=plan.threads,
        )
        record = {
            "network": str(case),
            "model": case.model,
            "options": case.options,
            "seed": seed,
            "settings": plan.settings(),
            "backbone": backbone and checkpoint.fingerprint(backbone),
            "seconds_per_step": seconds_per_step(folder),
            **test(snapshot, list(demo.read_samples(dataset, "test"))),
            "versions": versions(),
            "revision": run_log.git_revision(),
        }
        files.write_json(os.path.join(folder, RECORD), record)


def _is_complete(plan, case, seed):
    return os.path.isfile(os.path.join(plan.run_folder(case, seed), RECORD))


def _backbone(plan, seed):
    """Return the path of a seed's backbone, which is trained where it is missing."""
    path = plan.backbone(seed)
    with files.locked(plan.folder, waits=True):
        if checkpoint.fingerprint(path) is None:
            demo.train_backbone(plan.dataset, path, seed, plan.threads)
    checkpoint.require_whole(path)
    return path


def seconds_per_step(folder: str) -> float:
    """Return the median of what a run's log says that a step took, in seconds."""
    with open(os.path.join(folder, run_log.LOG), encoding="utf-8") as file:
        rates = [json.loads(line)["sentences_per_s"] for line in file]
    return demo.SCENES * demo.SENTENCES / statistics.median(rates)


def test(snapshot: str, samples: demo.Samples) -> Dict[str, Any]:
    """Test a snapshot without and with DenseCRF, and with the sentences shuffled.

    Args:
      snapshot: its path.
      samples: of the split test.

    Returns:
      What `scores_of` gives; pair_accuracy, see `demo.pair_accuracy`; and blind_iou,
      the overall IoU with the sentences shuffled.
    """
    with Predictor(snapshot) as predictor:
        with dense_crf.Workers(1, "own") as workers:
            found = demo.find_all(predictor, samples, "testing", workers)
        shuffled = demo.shuffle_sentences(samples)
        blind = demo.find_all(predictor, shuffled, "blind")
    return {
        **scores_of(found),
        "pair_accuracy": demo.pair_accuracy(found),
        "blind_iou": Results.of(blind).scores[WITHOUT_CRF].overall_iou,
    }


def scores_of(results: Sequence[Result]) -> Dict[str, Any]:
    """Compute the scores of all sentences and of those about relations.

    Args:
      results: of `demo.find_all`.

    Returns:
      scores, relations: title of the masks, of `eval_tools.TITLES` -> what
      `Scores.as_dict` gives; and rounds: overall IoU of each round, in order, without
      DenseCRF, where there are several.
    """
    rows = Results.of(results).samples
    rounds = sorted(
        filter(ROUND.fullmatch, rows[0]), key=lambda n: int(n.split("_")[1])
    )
    rounds = [*rounds, WITHOUT_CRF] if rounds else []
    return {
        "scores": _by_title(rows),
        "relations": _by_title(demo.about_relations(rows)),
        "rounds": [breakdown.scores(rows, one).overall_iou for one in rounds],
    }


def _by_title(rows):
    return {
        title: breakdown.scores(rows, kind).as_dict()
        for kind, title in TITLES.items()
        if kind in rows[0]
    }


# --- All runs


def read_records(plan: Plan) -> List[Record]:
    """Return the records of the complete runs of a folder, in the order of the table.

    Raises:
      UserError: one is damaged, or was made with other settings or another backbone.
    """
    paths = glob.glob(os.path.join(glob.escape(plan.folder), "*", RECORD))
    records, settings = [], plan.settings()
    for path in sorted(paths):
        record = files.read_json(path)
        try:
            _figures(record)
            differ = [
                key for key in settings if settings[key] != record["settings"][key]
            ]
            own = checkpoint.fingerprint(plan.backbone(record["seed"]))
            if None not in (own, record["backbone"]) and own != record["backbone"]:
                differ.append("backbone")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no record of a run: delete it") from error
        if differ:
            raise UserError(
                f"{path} was made with other {', '.join(differ)}: name another folder "
                "with -f"
            )
        records.append(record)
    order = {str(case): place for place, case in enumerate(every())}

    def place(record):
        name = record["network"]
        return order.get(name, len(order)), name, record["seed"]

    return sorted(records, key=place)


def _figures(record: Record) -> Dict[str, Values]:
    """Return heading -> values of a record's row."""
    titles = TITLES[WITHOUT_CRF], TITLES[WITH_CRF]
    found = {
        heading: tuple(float(record["scores"][title][name]) for title in titles)
        for name, heading in SCORES.items()
    }
    found["oIoU of relations"] = tuple(
        float(record["relations"][title]["overall_iou"]) for title in titles
    )
    for name, heading in FIGURES.items():
        found[heading] = (float(record[name]),)
    return found


def report(records: Sequence[Record]) -> str:
    """Write the tables: a row for each network, with the means over its seeds.

    Args:
      records: at least one, of `read_records`.

    Returns:
      Markdown.
    """
    (scores, *_), (relations, *_) = (
        records[0][key].values() for key in ("scores", "relations")
    )
    lines = [
        f"{records[0]['settings']['steps']} steps of {demo.SCENES * demo.SENTENCES} "
        f"sentences; {scores['count']} test sentences, {relations['count']} of them "
        "about relations. Without / with DenseCRF; pairs and blind without. Mean over "
        "the seeds (least..greatest):",
        "",
        table([(one["network"], one["seed"], _figures(one)) for one in records]),
    ]
    rounds = [
        (one["network"], one["seed"], _by_round(one["rounds"]))
        for one in records
        if one["rounds"]
    ]
    if rounds:
        lines += ["", "oIoU of each round, without DenseCRF:", "", table(rounds)]
    revisions = sorted({str(one.get("revision") or "unknown") for one in records})
    if len(revisions) > 1:
        lines += ["", f"Runs of several revisions of this code: {', '.join(revisions)}"]
    return "\n".join(lines)


def _by_round(values):
    return {f"round {number}": (one,) for number, one in enumerate(values, 1)}


def table(runs: Sequence[Tuple[str, int, Dict[str, Values]]]) -> str:
    """Write a table with a row for each network.

    Args:
      runs: name of the network, seed, heading -> values. What one run has not and
        others have is left empty.

    Returns:
      Lines of Markdown.

    Example:
      >>> print(table([("a", 0, {"oIoU": (0.5, 0.25)}), ("a", 1, {"oIoU": (0.7, 0.25)}),
      ...              ("b", 0, {"oIoU": (0.5, 0.5)})]))
      | network | seeds | oIoU |
      |---|---|---|
      | `-n a` | 2 | 0.600 (0.500..0.700) / 0.250 (0.250..0.250) |
      | `-n b` | 1 | 0.500 / 0.500 |
    """
    rows = collections.OrderedDict()
    for name, _, values in runs:
        rows.setdefault(name, []).append(values)
    headings = list(dict.fromkeys(heading for *_, one in runs for heading in one))
    lines = [["network", "seeds", *headings], ["---"] * (2 + len(headings))]
    for name, found in rows.items():
        cells = [_cell([one[h] for one in found if h in one]) for h in headings]
        lines.append([f"`-n {name}`", str(len(found)), *cells])
    first, rule, *others = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([first, rule.replace(" ", ""), *others])


def _cell(values: Sequence[Values]) -> str:
    """Write one cell; `values` has an entry for each seed."""
    return " / ".join(map(_spread, zip(*values)))


def _spread(values):
    mean = f"{statistics.mean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.3f}..{max(values):.3f})"
