"""The models by name: `-n` chooses one, a snapshot tells which one it is of.

A model is a module with a class `LSTM_model` that derives from `base.Model`. It is
imported when asked for, so that the names cost nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Type

from util.core.errors import UserError
from util.models.options import OPTIONS, option_name

if TYPE_CHECKING:  # TensorFlow: the names do without it
    from util.models.base import Model

MODELS = {  # name -> module; the first one is the default
    "CMPC_model": "CMPC_model",
    "RRN_model": "util.models.RRN_model",
    "STEP_model": "util.models.STEP_model",
}

SHOWN = 3  # variables of a checkpoint that is of no model


def load(name: str) -> "Type[Model]":
    """Return the class `LSTM_model` of a model.

    Args:
      name: one of MODELS.

    Raises:
      UserError: there is no such model.

    Example:
      >>> load("CMPC_model").LOSS_WEIGHTS
      {'pred': 0.7, 'c5': 0.1, 'c4': 0.1, 'c3': 0.1}
    """
    if name not in MODELS:
        raise UserError(
            f"there is no model {name!r}; choose one from {', '.join(MODELS)}"
        )
    return importlib.import_module(MODELS[name]).LSTM_model


def of_checkpoint(shapes: Dict[str, List[int]]) -> "Type[Model]":
    """Return the class whose variables a checkpoint holds.

    Args:
      shapes: variable name -> shape, see `checkpoint.shapes`.

    Raises:
      UserError: it is of no model; says what it looks like.
    """
    for name in MODELS:
        model_class = load(name)
        if model_class.SIGNATURE in shapes:
            return model_class
    raise UserError(f"not a checkpoint of {' or '.join(MODELS)}: {_looks_like(shapes)}")


def _looks_like(shapes):
    first = sorted(shapes)[:SHOWN] + ["..."] * (len(shapes) > SHOWN)
    return f"it has {len(shapes)} variables" + ": " * bool(first) + ", ".join(first)


def of_snapshot(
    snapshot: str, name: Optional[str] = None
) -> "Tuple[Type[Model], Dict[str, Any]]":
    """Return the class of a snapshot's model, and the sizes of its network.

    Args:
      snapshot: path of a checkpoint.
      name: one of MODELS that it must be; None: any.

    Returns:
      (class, arguments of it, see `base.Model.sizes`, and its options).

    Raises:
      UserError: the file cannot be read, is of no model or of another one.
    """
    from util.graph import checkpoint  # TensorFlow loads here

    model_class, sizes = _shown(snapshot, name)
    told = checkpoint.read_options(snapshot)
    return model_class, _with_options(snapshot, sizes, told)


def to_start_from(
    snapshot: str, name: Optional[str] = None
) -> "Tuple[Type[Model], Dict[str, Any]]":
    """Return the same of a snapshot that another run starts from, but no options.

    The run has options of its own, so that the snapshot needs no state.

    Args:
      as for `of_snapshot`.

    Raises:
      UserError: the file cannot be read, is of no model or of another one.
    """
    model_class, sizes = _shown(snapshot, name)
    return model_class, {key: sizes[key] for key in sizes if key not in OPTIONS}


def _shown(snapshot, name):
    """Return the class and what the shapes tell of its arguments."""
    from deeplab_resnet import stored_sizes
    from util.graph import checkpoint

    shapes = checkpoint.shapes(snapshot)
    try:
        model_class = of_checkpoint(shapes)
        sizes = model_class.sizes(shapes)
    except UserError as error:
        raise UserError(f"{snapshot} is {error}") from error
    sizes.update(stored_sizes(shapes))
    if name not in (None, model_class.NAME):
        raise UserError(
            f"{snapshot} is a checkpoint of {model_class.NAME}, not of {name}: choose "
            f"-n {model_class.NAME}"
        )
    return model_class, sizes


def _with_options(snapshot, sizes, told):
    """Add the options that the state tells to what the shapes show."""
    possible = {"loss": OPTIONS["loss"], **sizes}  # a loss has no variables
    for name, value in told.items():
        seen = possible.get(name, ())
        if value not in (seen if isinstance(seen, tuple) else (seen,)):
            raise UserError(
                f"the state of {snapshot} says {option_name(name)} {value}, which its "
                "weights are not of: copy the .state.json that belongs to it"
            )
    sizes = {**sizes, **told}
    for name, value in sizes.items():
        if isinstance(value, tuple):
            *others, last = map(str, value)
            values = f"{', '.join(others)} or {last}"
            raise UserError(
                f"{snapshot} does not tell {option_name(name)}, {values}: "
                "copy its .state.json, which does, next to it"
            )
    return sizes
