"""Train or test a referring image segmentation model, or see it work (-m demo)."""

import argparse
import importlib
import os
import sys

from util.core.cli import (
    PRECISIONS,
    OneLineParser,
    count,
    decay,
    exit_code,
    gpus,
    port,
    rate,
    seed,
    share,
    step,
)
from util.core.errors import UserError
from util.data import datasets

MODELS = ("CMPC_model",)  # modules with a class LSTM_model
EXAMPLES = """examples:
  python %(prog)s -m demo
  python %(prog)s -m train -d unc -t train -n CMPC_model -emb -f ckpts/unc/cmpc_model
  python %(prog)s -m test -d unc -t val -n CMPC_model -i 700000 -c -emb -f ckpts/unc/cmpc_model
  python %(prog)s -m predict -d unc -i 700000 -f ckpts/unc/cmpc_model --image a.jpg --text "the man on the left" --output found
  python %(prog)s -m report --compare first.json second.json
  python %(prog)s -m serve -d unc -i 700000 -f ckpts/unc/cmpc_model
"""  # noqa: E501


def train(args):
    """Train on a split and leave snapshots."""
    from util.training import train  # TensorFlow loads here, not for -h

    train.run(model_class(args), args)


def test(args):
    """Test a snapshot on a split."""
    from util.evaluation import evaluate, html_report

    if args.report:
        html_report.require_matplotlib()
    evaluate.run(model_class(args), args)
    if args.report:
        html_report.run(model_class(args), args)


def report(args):
    """Write the report of a test, or of two side by side."""
    from util.evaluation import html_report

    if args.compare:
        html_report.compare(args)
    else:
        html_report.run(model_class(args), args)


def demo(args):
    """Draw, build, train and test the embedded data set."""
    from util.training import demo

    demo.run(model_class(args), args)


def predict(args):
    """Segment images of one's own."""
    from util.inference import predict

    return predict.run(model_class(args), args)


def export(args):
    """Write a snapshot's network for programs that are not ours."""
    from util.deploy import export

    export.run(model_class(args), args)


def serve(args):
    """Show a web page for images and sentences."""
    from util.deploy import server

    return server.run(model_class(args), args)


MODES = {
    "train": train,
    "test": test,
    "report": report,
    "predict": predict,
    "export": export,
    "serve": serve,
    "demo": demo,
}


def model_class(args):
    """Return the class LSTM_model of the module that -n names."""
    return importlib.import_module(args.model).LSTM_model


def build_parser():
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-m", dest="mode", choices=list(MODES), required=True)
    add("-d", dest="dataset", default="referit", metavar="NAME",
        help="data set (default: %(default)s)")  # fmt: skip
    add("-t", dest="split", metavar="SPLIT", help="train, val, testA, ...")
    add("-n", dest="model", choices=MODELS, default=MODELS[0],
        help="(default: %(default)s)")  # fmt: skip
    add("-f", dest="folder", metavar="DIR", help="snapshots (default for -m demo: "
        "ckpts/shapes/demo)")  # fmt: skip
    add("-g", dest="gpus", type=gpus, default="0", metavar="LIST",
        help="GPUs to use: 0, or 0,1 to share each step; -1: none (default: "
        "%(default)s)")  # fmt: skip
    add("-i", dest="iteration", type=step, default=800000, metavar="N",
        help="train: most steps; test: snapshot, a step or best (default: "
        "%(default)s)")  # fmt: skip
    add("-emb", dest="embedding", action="store_true",
        help="start from the pretrained word vectors of the data set")  # fmt: skip
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--batches", metavar="DIR", help="where the samples are (default: --data)")
    add("--threads", type=count, metavar="N", help="of the CPU; with 1 a run repeats "
        "exactly (default: the cores)")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="float32", help="of products, where "
        "device and TensorFlow have it (default: %(default)s)")  # fmt: skip

    add = parser.add_argument_group("training").add_argument
    add("-s", dest="snapshot", type=count, default=100000, metavar="N",
        help="steps between snapshots (default: %(default)s)")  # fmt: skip
    add("--save-minutes", type=rate, metavar="N",
        help="most minutes between snapshots (default: no limit)")  # fmt: skip
    add("--resume", action="store_true", help="go on from the newest snapshot in -f; "
        "begin where there is none")  # fmt: skip
    add("--init-from", metavar="SNAPSHOT", help="begin with the weights of another run")
    add("--init-vocabulary", metavar="FILE", help="words that SNAPSHOT knows (default: "
        "vocabulary.txt beside it, or those of the data set)")  # fmt: skip
    add("-st", dest="stop", type=count, default=700000, metavar="N",
        help="stop after this many steps (default: %(default)s)")  # fmt: skip
    add("-lr", dest="learning_rate", type=rate, default=0.00025, metavar="RATE",
        help="first learning rate (default: %(default)s)")  # fmt: skip
    add("--decay-steps", type=count, default=800000, metavar="N", help="until the "
        "learning rate has fallen to 0.00001 (default: %(default)s)")  # fmt: skip
    add("--weight-decay", type=decay, default=0.0005, metavar="X",
        help="factor of the regularisation (default: %(default)s)")  # fmt: skip
    add("--optimizer", choices=["adam"], default="adam", help="(default: %(default)s)")
    add("-bs", dest="batch_size", type=count, default=1, metavar="N",
        help="sentences a step (default: %(default)s)")  # fmt: skip
    add("-conv5", dest="conv5", action="store_true", help="also train res3 to res5")
    add("--backbone", choices=("file", "random"), help="start from the published "
        "weights or draw (default: random for shapes)")  # fmt: skip
    add("--v-emb-dim", type=count, metavar="N",
        help="channels of words and cells (default: 1000; shapes: fewer)")  # fmt: skip
    add("--mlp-dim", type=count, metavar="N",
        help="channels after fusion (default: 500; shapes: fewer)")  # fmt: skip
    add("--keep-prob-rnn", type=share, default=1.0, metavar="SHARE",
        help="of LSTM outputs that dropout keeps (default: %(default)s)")  # fmt: skip
    add("--keep-prob-emb", type=share, default=1.0, metavar="SHARE",
        help="of word vectors that dropout keeps (default: %(default)s)")  # fmt: skip
    add("--image-steps", type=count, metavar="N", help="draw the masks of a step every "
        "so many (default: never)")  # fmt: skip
    add("--eval-steps", type=count, metavar="N", help="test on the way every so many "
        "steps and keep the best snapshot (default: never)")  # fmt: skip
    add("--eval-set", default="val", metavar="SPLIT", help="(default: %(default)s)")
    add("--eval-samples", type=count, metavar="N", help="sentences to test on the way "
        "(default: all)")  # fmt: skip
    add("--skip-damaged", action="store_true",
        help="leave out samples that cannot be read, and count them")  # fmt: skip
    add("--seed", type=seed, metavar="N", help="of all that is drawn at random")
    add("--cache-features", metavar="DIR", help="keep what the frozen backbone sees in "
        "each image, 23 MB each, and do not run it again")  # fmt: skip
    add("--cache-dtype", choices=("float32", "float16"), default="float32",
        help="float16: half the space, not exact (default: %(default)s)")  # fmt: skip
    add("--cache-size", type=rate, metavar="GB", help="of --cache-features at most "
        "(default: what the disk has, less 10 GB)")  # fmt: skip

    add = parser.add_argument_group("testing").add_argument
    add("-c", dest="dense_crf", action="store_true",
        help="also report the masks refined by DenseCRF")  # fmt: skip
    add("--crf-jobs", type=count, default=os.cpu_count(), metavar="N",
        help="processes for DenseCRF (default: the cores)")  # fmt: skip
    add("-v", dest="visualize", action="store_true",
        help="write an image of each result")  # fmt: skip
    add("--per-sample", action="store_true",
        help="list each sentence with its figures in the JSON")  # fmt: skip
    add("--report", action="store_true", help="also write the test's report, an HTML "
        "file; -m report does it later")  # fmt: skip
    add("--compare", nargs=2, metavar=("A", "B"), help="-m report: two JSON files of "
        "tests side by side")  # fmt: skip

    add = parser.add_argument_group("prediction (also -c)").add_argument
    add("--image", nargs="+", metavar="FILE", help="images; all get each --text")
    add("--text", nargs="+", metavar="TEXT", help="sentences")
    add("--queries", metavar="FILE", help=".csv or .jsonl of image and sentence, in "
        "place of --image and --text")  # fmt: skip
    add("--coco", action="store_true", help="also write COCO's file of results")

    add = parser.add_argument_group("export").add_argument
    add("--format", choices=("savedmodel", "onnx"), default="savedmodel",
        help="TensorFlow's SavedModel, or ONNX (default: %(default)s)")  # fmt: skip
    add("--max-pixels", type=count, default=25000000, metavar="N",
        help="a SavedModel refuses larger images (default: %(default)s)")  # fmt: skip

    add = parser.add_argument_group("prediction and export").add_argument
    add("--output", metavar="PATH", help="new folder for masks, overlays, JSON or the "
        "model; of a report: the HTML file (default: beside the JSON)")  # fmt: skip
    add("--vocabulary", metavar="FILE", help="words that the snapshot knows (default: "
        "vocabulary.txt beside it, or those of the data set)")  # fmt: skip

    add = parser.add_argument_group("serving (also --vocabulary)").add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default: "
        "%(default)s, this machine only)")  # fmt: skip
    add("--port", type=port, default=7860, metavar="N", help="(default: %(default)s)")
    return parser


def parse(argv):
    """Parse a command line and fill in what depends on other options."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.mode == "demo":
        args.dataset, args.folder = "shapes", args.folder or "ckpts/shapes/demo"
        return args
    if args.mode in ("predict", "export"):
        check_output(parser, args)
        return args
    if args.mode in ("test", "report"):
        check_report(parser, args)
    if args.mode == "report" and args.compare:
        return args
    if args.mode == "serve":
        if not args.folder:
            parser.error("-m serve needs -f DIR")
        return args
    if not args.split or not args.folder:
        parser.error(f"-m {args.mode} needs -t SPLIT and -f DIR")
    try:
        datasets.check_split(args.dataset, args.split, args.data)
    except UserError as error:
        parser.error(str(error))
    if args.cache_features and args.conv5:
        parser.error(
            "--cache-features cannot be combined with -conv5: a backbone that is "
            "trained never sees the same twice"
        )
    if args.mode == "train":
        check_training(parser, args, datasets.get(args.dataset, args.data))
    return args


def check_output(parser, args):
    """Refuse options of -m predict and -m export that do not go together."""
    if not args.folder or not args.output:
        parser.error(f"-m {args.mode} needs -f DIR and --output DIR")
    if args.mode == "export":
        return
    if bool(args.queries) == bool(args.image or args.text):
        parser.error("-m predict needs --image and --text, or --queries")
    if not args.queries and not (args.image and args.text):
        parser.error("--image and --text go together")


def check_report(parser, args):
    """Refuse options of a report that do not go together."""
    if args.output and not args.output.lower().endswith((".html", ".htm")):
        parser.error("--output of a report must be the name of an .html file")
    if args.compare and args.mode != "report":
        parser.error("--compare is for -m report")
    args.per_sample = args.per_sample or args.report


def check_training(parser, args, dataset):
    """Refuse options of -m train that do not go together."""
    if args.iteration == "best":
        parser.error("-i best is for -m test")
    if args.eval_steps and args.eval_set not in dataset.splits:
        parser.error("{} has no split {!r}; choose another --eval-set from {}".format(
            args.dataset, args.eval_set, ", ".join(dataset.splits)))  # fmt: skip
    if args.init_vocabulary and not args.init_from:
        parser.error("--init-vocabulary says what the snapshot of --init-from knows")
    if args.backbone is None:
        args.backbone = "file" if dataset.backbone else "random"


def main(argv=None):
    """Run the command line and return its exit code."""
    args = parse(argv)
    os.environ["CUDA_VISIBLE_DEVICES"] = args.gpus

    def run():
        return MODES[args.mode](args) or 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
