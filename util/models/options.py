"""What makes another model of one: data alone, which needs no TensorFlow."""

# Arguments that make another model of one, and their values: options of -m train, kept
# with the snapshots. `base.Model.OPTIONS` says which of them a model has.
OPTIONS = {
    "loss": ("iou30", "iou50", "iou70", "region"),
    "refine": ("score", "image", "edges"),
    "second_pass": ("score", "affinity"),
    "folds": (1, 2, 3, 4, 5),
}


def option_name(argument: str) -> str:
    """Return the command line's name of an argument.

    Example:
      >>> option_name("second_pass")
      '--second-pass'
    """
    return "--" + argument.replace("_", "-")
