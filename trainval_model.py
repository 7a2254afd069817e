"""Train or test a referring image segmentation model, or see it work (-m demo)."""

import argparse
import sys
from typing import Any, Callable, Dict, NamedTuple, Sequence

from util import models
from util.core.cli import (
    PRECISIONS,
    OneLineParser,
    count,
    decay,
    exit_code,
    gpus,
    pixels,
    port,
    rate,
    seed,
    share,
    step,
)
from util.core.errors import UserError
from util.core.surroundings import choose_gpus, cores
from util.data import datasets

MOST_STEPS = 800000  # of -m train where -i says nothing else
EXAMPLES = """examples:
  python %(prog)s -m demo
  python %(prog)s -m train -d unc -t train -n CMPC_model -emb -f ckpts/unc/cmpc_model
  python %(prog)s -m test -d unc -t val -n CMPC_model -i 700000 -c -emb -f ckpts/unc/cmpc_model
  python %(prog)s -m predict -d unc -f ckpts/unc/cmpc_model --image a.jpg --text "the man on the left" --output found
  python %(prog)s -m report --compare first.json second.json
  python %(prog)s -m report --table val.json testA.json testB.json
  python %(prog)s -m serve -d unc -f ckpts/unc/cmpc_model
"""  # noqa: E501


# --- Modes. TensorFlow and NumPy load when one runs, not for -h.


def train(args):
    """Train on a split and leave snapshots."""
    from util.training import train

    train.run(model_class(args), args)


def test(args):
    """Test a snapshot on a split."""
    from util.evaluation import evaluate, html_report

    if args.report:
        html_report.require_matplotlib()
    evaluate.run(args)
    if args.report:
        html_report.run(args)


def report(args):
    """Write the report of a test, or of two side by side, or a table of several."""
    from util.evaluation import html_report, results_table

    if args.table:
        results_table.run(args.table, args.latex)
    elif args.compare:
        html_report.compare(args.compare, args.output)
    else:
        html_report.run(args)


def demo(args):
    """Draw, build, train and test the embedded data set."""
    from util.training import demo

    demo.run(model_class(args), args)


def predict(args):
    """Segment your own images."""
    from util.inference import predict

    return predict.run(args)


def export(args):
    """Write a snapshot's network for other programs."""
    from util.deploy import export

    export.run(args)


def serve(args):
    """Show a web page for images and sentences."""
    from util.deploy import server

    return server.run(args)


MODES = {
    "train": train,
    "test": test,
    "report": report,
    "predict": predict,
    "export": export,
    "serve": serve,
    "demo": demo,
}


def own_process(args):
    """Set TensorFlow up, unless records of tests are all there is to read."""
    if not (args.mode == "report" and (args.compare or args.table)):
        from util.graph import process

        process.own_process()


def model_class(args):
    """Return the class of the model that -n names; outside training a snapshot does."""
    return models.load(args.model or next(iter(models.MODELS)))


# --- Options


class Option(NamedTuple):
    """An option: its name, its default, and the modes that accept it."""

    name: str
    default: Any
    modes: Sequence[str]


class ModeParser(OneLineParser):
    """A parser that refuses options which the mode does not use."""

    def __init__(self, **settings: Any) -> None:
        self._options: Dict[str, Option] = {}
        super().__init__(**settings)

    def group(self, title: str, modes: Sequence[str]) -> Callable[..., None]:
        """Return a function that adds an option to a new group of the help.

        It takes the arguments of `add_argument`, and the modes of a single option
        where they are others than those of the group. "{default}" in a help text is
        the default.
        """
        add_argument = self.add_argument_group(title).add_argument

        def add(name, help="", default=None, modes=modes, **settings):
            # What is not given must not be in the result of argparse: see parse_args.
            settings.update(
                help=help.format(default=default), default=argparse.SUPPRESS
            )
            option = add_argument(name, **settings)
            self._options[option.dest] = Option(name, default, modes)

        return add

    def parse_args(self, argv=None, namespace=None):
        """Parse, refuse what the mode does not use, and fill in the defaults."""
        args = super().parse_args(argv, namespace)
        for key in vars(args):
            option = self._options[key]
            if args.mode not in option.modes:
                users = ", ".join(f"-m {mode}" for mode in option.modes)
                self.error(
                    f"{option.name} is not used by -m {args.mode}, only by {users}"
                )
        for key, option in self._options.items():
            setattr(args, key, getattr(args, key, option.default))
        return args


def build_parser():
    """Return the parser; apart from main() so that tests can use it."""
    parser = ModeParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common_options(parser)
    add_training_options(parser)
    add_variant_options(parser)
    add_start_options(parser)
    add_evaluation_options(parser)
    add_cache_options(parser)
    add_testing_options(parser)
    add_prediction_options(parser)
    add_export_options(parser)
    add_serving_options(parser)
    return parser


TRAINS = ("train", "demo")
SNAPSHOT_MODES = ("test", "report", "predict", "export", "serve")  # use a trained one


def add_common_options(parser):
    """Add what several modes share: model, data, snapshots, devices."""
    add = parser.group("common", tuple(MODES))
    sample_modes = ("train", "test", "report")
    add("-m", dest="mode", choices=list(MODES), required=True)
    add(
        "-d",
        dest="dataset",
        default="referit",
        metavar="NAME",
        modes=("train", *SNAPSHOT_MODES),
        help="data set (default: {default})",
    )
    add(
        "-t",
        dest="split",
        metavar="SPLIT",
        modes=sample_modes,
        help="train, val, testA, ...",
    )
    add(
        "-n",
        dest="model",
        choices=list(models.MODELS),
        help=f"model (default: {next(iter(models.MODELS))}; where there is a snapshot, "
        "that of it)",
    )
    add(
        "-f",
        dest="folder",
        metavar="DIR",
        help="snapshots (default for -m demo: ckpts/shapes/demo)",
    )
    add(
        "-i",
        dest="iteration",
        type=step,
        metavar="N",
        modes=("train", *SNAPSHOT_MODES),
        help=f"train: most steps (default: {MOST_STEPS}); otherwise which snapshot, a "
        "step or best (default: the newest)",
    )
    add(
        "-g",
        dest="gpus",
        type=gpus,
        metavar="LIST",
        help="GPUs to use: 0, or 0,1 to share each training step or a test (other "
        "modes use the first); -1: none; counted within CUDA_VISIBLE_DEVICES where "
        "that is set (default: what it says, or 0)",
    )
    add(
        "-emb",
        dest="embedding",
        action="store_true",
        default=False,
        modes=("train", *SNAPSHOT_MODES),
        help="train: start from the pretrained word vectors of the data set (otherwise "
        "accepted: the snapshot has its vectors)",
    )
    add("--data", default="data", metavar="DIR", help="(default: {default})")
    add(
        "--batches",
        metavar="DIR",
        modes=(*sample_modes, "demo"),
        help="where the samples are (default: --data)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        modes=("train", "test", "report", "predict", "serve"),
        help="of products, where device and TensorFlow have it (default: {default})",
    )
    add(
        "--xla",
        action="store_true",
        default=False,
        modes=("train", "test"),
        help="compile the network with XLA for a GPU, which takes more than a minute",
    )


def add_training_options(parser):
    """Add what a training run does."""
    add = parser.group("training", ["train"])
    add(
        "-bs",
        dest="batch_size",
        type=count,
        default=1,
        metavar="N",
        help="sentences a step (default: {default})",
    )
    add(
        "--sentences-per-image",
        type=count,
        default=1,
        metavar="K",
        help="a step takes up to K sentences of an image together and computes once "
        "what they share (default: {default})",
    )
    add(
        "-st",
        dest="stop",
        type=count,
        default=700000,
        metavar="N",
        help="stop after this many steps (default: {default})",
    )
    add(
        "-s",
        dest="snapshot",
        type=count,
        default=100000,
        metavar="N",
        help="steps between snapshots (default: {default})",
    )
    add(
        "--save-minutes",
        type=rate,
        metavar="N",
        help="most minutes between snapshots (default: no limit)",
    )
    add(
        "-lr",
        dest="learning_rate",
        type=rate,
        default=0.00025,
        metavar="RATE",
        help="first learning rate (default: {default})",
    )
    add(
        "--decay-steps",
        type=count,
        default=800000,
        metavar="N",
        help="until the learning rate has fallen to 0.00001 (default: {default})",
    )
    add(
        "--warm-up",
        type=count,
        default=0,
        metavar="N",
        help="first steps, in which the learning rate grows to what it is",
    )
    add(
        "--weight-decay",
        type=decay,
        default=0.0005,
        metavar="X",
        help="factor of the regularisation (default: {default})",
    )
    add(
        "--keep-prob-rnn",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="of LSTM outputs that dropout keeps (default: {default})",
    )
    add(
        "--keep-prob-emb",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="of word vectors that dropout keeps (default: {default})",
    )
    add(
        "-conv5",
        dest="conv5",
        action="store_true",
        default=False,
        help="also train res3 to res5",
    )
    add(
        "--v-emb-dim",
        type=count,
        metavar="N",
        help="channels of words and cells (default: 1000; shapes: fewer)",
    )
    add(
        "--mlp-dim",
        type=count,
        metavar="N",
        help="channels after fusion (default: 500; shapes: fewer)",
    )
    add(
        "--skip-damaged",
        action="store_true",
        default=False,
        help="leave out samples that cannot be read, and count them",
    )
    add(
        "--seed",
        type=seed,
        metavar="N",
        modes=TRAINS,
        help="of everything drawn at random (default for -m demo: 0)",
    )
    add(
        "--threads",
        type=count,
        metavar="N",
        help="of the CPU; with 1 a run repeats exactly (default: the cores)",
    )


def add_variant_options(parser):
    """Add what makes another model of one, see `models.OPTIONS`."""
    add = parser.group("variants, at most one; kept with the snapshots", TRAINS)
    about = {
        "loss": "CMPC: a loss of the region besides that of the pixels: iou30, iou50 "
        "and iou70 as published, without effect; region: one that acts",
        "refine": "CMPC: a small network that sharpens the score: it reads the score, "
        "also the image, or the edges of the image",
        "second_pass": "CMPC: a second relation graph that knows the first score, or "
        "which cells agree in it",
        "folds": "STEP: how often it looks (default: 5)",
    }
    for name, text in about.items():
        values = models.OPTIONS[name]
        kind = type(values[0])
        add(models.option_name(name), type=kind, choices=values, help=text)


def add_start_options(parser):
    """Add what a training run starts from."""
    add = parser.group("start of training", ["train"])
    add(
        "--resume",
        action="store_true",
        default=False,
        help="continue from the newest snapshot in -f; start where there is none",
    )
    add(
        "--backbone",
        choices=("file", "random"),
        help="start from the published weights or draw (default: random for shapes)",
    )
    add(
        "--init-from",
        metavar="SNAPSHOT",
        help="start from the weights of another run",
    )
    add(
        "--init-vocabulary",
        metavar="FILE",
        help="words that SNAPSHOT knows (default: vocabulary.txt next to it, or those "
        "of the data set)",
    )


def add_evaluation_options(parser):
    """Add what a training run shows of itself on the way."""
    add = parser.group("evaluation during training", ["train"])
    add(
        "--eval-steps",
        type=count,
        metavar="N",
        help="test every so many steps and keep the best snapshot (default: never)",
    )
    add("--eval-set", default="val", metavar="SPLIT", help="(default: {default})")
    add(
        "--eval-samples",
        type=count,
        metavar="N",
        help="sentences of each such test (default: all)",
    )
    add(
        "--image-steps",
        type=count,
        metavar="N",
        help="draw the masks of a step every so many (default: never)",
    )


def add_cache_options(parser):
    """Add what keeps the features of a frozen backbone."""
    add = parser.group("cached features in training", ["train"])
    add(
        "--cache-features",
        metavar="DIR",
        help="keep the features of each image, 23 MB each, and do not run the frozen "
        "backbone on it again",
    )
    add(
        "--cache-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="float16: half the space, not exact (default: {default})",
    )
    add(
        "--cache-size",
        type=rate,
        metavar="GB",
        help="of --cache-features at most (default: what the disk has, less 10 GB)",
    )


def add_testing_options(parser):
    """Add DenseCRF, which several modes refine with, and what tests write."""
    add = parser.group("testing", ["test"])
    add(
        "-c",
        dest="dense_crf",
        action="store_true",
        default=False,
        modes=("test", "predict"),
        help="test: also report the masks refined by DenseCRF; predict: refine",
    )
    add(
        "--crf-backend",
        choices=("own", "pydensecrf"),
        default="own",
        modes=("test", "report", "predict", "serve", "demo"),
        help="implementation of DenseCRF (default: {default})",
    )
    add(
        "--crf-jobs",
        type=count,
        default=cores(),
        metavar="N",
        help="processes for DenseCRF (default: the cores)",
    )
    add(
        "-v",
        dest="visualize",
        action="store_true",
        default=False,
        help="write an image of each result",
    )
    add(
        "--per-sample",
        action="store_true",
        default=False,
        help="list each sentence with its figures in the JSON",
    )
    add(
        "--empty-below",
        type=pixels,
        default=0,
        metavar="N",
        help="a mask of fewer pixels says that nothing is meant (default: {default})",
    )
    add(
        "--report",
        action="store_true",
        default=False,
        help="also write the test's report, an HTML file; -m report does it later",
    )
    add(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        modes=["report"],
        help="-m report: two JSON files of tests side by side",
    )
    add(
        "--table",
        nargs="+",
        metavar="FILE",
        modes=["report"],
        help="-m report: print the figures in JSON files of tests as one table, a row "
        "a model, in Markdown",
    )
    add(
        "--latex",
        action="store_true",
        default=False,
        modes=["report"],
        help="--table in LaTeX",
    )


def add_prediction_options(parser):
    """Add what -m predict segments."""
    add = parser.group("prediction", ["predict"])
    add("--image", nargs="+", metavar="FILE", help="images; all get each --text")
    add("--text", nargs="+", metavar="TEXT", help="sentences")
    add(
        "--queries",
        metavar="FILE",
        help=".csv or .jsonl of image and sentence, in place of --image and --text",
    )
    add(
        "--coco",
        action="store_true",
        default=False,
        help="also write COCO's file of results, and a COCO file for label tools",
    )
    add(
        "--coco-images",
        metavar="FILE",
        help="--coco with the images' ids of this ground truth (default: those in "
        "COCO's own file names, otherwise invented)",
    )
    add(
        "--output",
        metavar="PATH",
        modes=("predict", "export", "test", "report"),
        help="new folder for masks, overlays and JSON, or for the exported model; of a "
        "report: the HTML file (default: next to the JSON)",
    )
    add(
        "--vocabulary",
        metavar="FILE",
        modes=("predict", "export", "serve"),
        help="words that the snapshot knows (default: vocabulary.txt next to it, or "
        "those of the data set)",
    )


def add_export_options(parser):
    """Add the form of an exported model."""
    add = parser.group("export", ["export"])
    add(
        "--format",
        choices=("savedmodel", "onnx"),
        default="savedmodel",
        help="TensorFlow's SavedModel, or ONNX (default: {default})",
    )
    add(
        "--max-pixels",
        type=count,
        default=25000000,
        metavar="N",
        help="a SavedModel refuses larger images (default: {default})",
    )


def add_serving_options(parser):
    """Add the address of the page."""
    add = parser.group("serving", ["serve"])
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="to listen at (default: {default}, this machine only)",
    )
    add(
        "--port",
        type=port,
        default=7860,
        metavar="N",
        help="(default: {default})",
    )


# --- What goes together


def parse(argv):
    """Parse a command line and fill in what depends on other options."""
    parser = build_parser()
    args = parser.parse_args(argv)
    check = {
        "train": check_training,
        "test": check_testing,
        "report": check_report,
        "predict": check_prediction,
        "export": check_export,
        "serve": check_serving,
        "demo": check_demo,
    }
    check[args.mode](parser, args)
    return args


def check_variant(parser, args):
    """Refuse more than one variant."""
    given = [models.option_name(n) for n in models.OPTIONS if getattr(args, n)]
    if len(given) > 1:
        parser.error(f"{' and '.join(given)} cannot be combined: choose one of them")


def check_training(parser, args):
    """Refuse options of -m train that do not go together."""
    check_variant(parser, args)
    check_split(parser, args)
    if args.iteration == "best":
        parser.error("-i best is for -m test")
    if args.cache_features and args.conv5:
        parser.error(
            "--cache-features cannot be combined with -conv5: the features of a "
            "backbone that is trained change"
        )
    dataset = datasets.get(args.dataset, args.data)
    if args.eval_steps and args.eval_set not in dataset.splits:
        parser.error(
            f"{args.dataset} has no split {args.eval_set!r}; choose another --eval-set "
            f"from {', '.join(dataset.splits)}"
        )
    if args.init_vocabulary and not args.init_from:
        parser.error("--init-vocabulary says what the snapshot of --init-from knows")
    if args.iteration is None:
        args.iteration = MOST_STEPS
    if args.backbone is None:
        args.backbone = "file" if dataset.has_backbone else "random"


def check_testing(parser, args):
    """Refuse options of -m test that do not go together."""
    check_html(parser, args)
    check_split(parser, args)
    args.per_sample = args.per_sample or args.report


def check_report(parser, args):
    """Refuse options of -m report that do not go together."""
    check_html(parser, args)
    if args.table and (args.compare or args.output):
        parser.error("--table is printed, alone: no --compare, and > FILE for --output")
    if args.latex and not args.table:
        parser.error("--latex is for --table")
    if not (args.compare or args.table):
        check_split(parser, args)


def check_html(parser, args):
    """Refuse a name that is not one of an HTML file."""
    if args.output and not args.output.lower().endswith((".html", ".htm")):
        parser.error("--output of a report must be the name of an .html file")


def check_split(parser, args):
    """Refuse a split that the data set does not have."""
    if not args.split or not args.folder:
        parser.error(f"-m {args.mode} needs -t SPLIT and -f DIR")
    try:
        datasets.get(args.dataset, args.data).check_split(args.split)
    except UserError as error:
        parser.error(str(error))


def check_prediction(parser, args):
    """Refuse options of -m predict that do not go together."""
    check_export(parser, args)
    if bool(args.queries) == bool(args.image or args.text):
        parser.error("-m predict needs --image and --text, or --queries")
    if not args.queries and not (args.image and args.text):
        parser.error("--image and --text go together")


def check_export(parser, args):
    """Refuse a command without its folders."""
    if not args.folder or not args.output:
        parser.error(f"-m {args.mode} needs -f DIR and --output DIR")


def check_serving(parser, args):
    """Refuse a command without a snapshot."""
    if not args.folder:
        parser.error("-m serve needs -f DIR")


def check_demo(parser, args):
    """Name the data set and the folder of the demo."""
    check_variant(parser, args)
    args.dataset, args.folder = "shapes", args.folder or "ckpts/shapes/demo"


def main(argv=None):
    """Run the command line and return its exit code."""
    args = parse(argv)

    def run():
        choose_gpus(args.gpus)
        own_process(args)
        return MODES[args.mode](args) or 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
