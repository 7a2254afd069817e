"""Models with their options: those that are compared with each other."""

from typing import Any, Dict, List, NamedTuple, Sequence

from util.core.errors import UserError
from util.models import MODELS, load
from util.models.options import OPTIONS, option_name
from util.models.references import runs_of

SPLIT = "unc", "val"  # of the published scores


class Case(NamedTuple):
    """A model and the options that make another network or another loss of it.

    Attributes:
      model: its name, of `models.MODELS`.
      options: of `models.OPTIONS`, name -> value.

    Example:
      >>> str(Case("STEP_model", {"folds": 3}))
      'STEP_model --folds 3'
    """

    model: str
    options: Dict[str, Any]

    def __str__(self) -> str:
        options = (
            f" {option_name(name)} {value}" for name, value in self.options.items()
        )
        return self.model + "".join(options)

    @property
    def published(self) -> str:
        """The best known overall IoU on SPLIT in per cent, without / with DenseCRF.

        Example:
          >>> Case("RRN_model", {}).published
          '– / 55.33'
          >>> Case("STEP_model", {"folds": 3}).published
          'not published'
        """
        runs = runs_of(self.model, self.options, *SPLIT)
        if not runs:
            return "not published"
        pair = runs[0].scores[SPLIT]["overall_iou"]
        return " / ".join("–" if value is None else f"{value:.2f}" for value in pair)


def every(without: Sequence[str] = ()) -> List[Case]:
    """Return each model as it is, and with each value of each of its options.

    Args:
      without: options to leave out.

    Example:
      >>> [str(case) for case in every(without=["loss", "refine", "second_pass"])][:4]
      ['CMPC_model', 'RRN_model', 'STEP_model', 'STEP_model --folds 1']
    """
    found = []
    for model in MODELS:
        model_class = load(model)
        defaults = model_class.default_options()
        found.append(Case(model, {}))
        found += [
            Case(model, {name: value})
            for name in model_class.OPTIONS
            if name not in without
            for value in OPTIONS[name]
            if value != defaults.get(name)
        ]
    return found


def parse(text: str) -> Case:
    """Read NAME[:OPTION=VALUE...]; an option with the value it has anyway is dropped.

    Raises:
      UserError: there is no such model, option or value, or they do not go together.

    Example:
      >>> parse("CMPC_model:second-pass=score").options
      {'second_pass': 'score'}
      >>> str(parse("STEP_model:folds=5"))
      'STEP_model'
    """
    model, *texts = text.split(":")
    model_class, options = load(model), {}
    for each in texts:
        name, _, told = each.partition("=")
        name = name.replace("-", "_")
        if name not in model_class.OPTIONS:
            known = ", ".join(model_class.OPTIONS) or "none"
            raise UserError(f"{text}: {model} has no option {name!r}, only: {known}")
        values = {str(value): value for value in OPTIONS[name]}
        if name in options:
            raise UserError(f"{text}: {name} is there twice")
        if told not in values:
            raise UserError(f"{text}: {name} is one of {', '.join(values)}")
        options[name] = values[told]
    try:
        model_class.check(model_class.Arguments(**options))
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error
    defaults = model_class.default_options()
    return Case(model, {n: v for n, v in options.items() if v != defaults.get(n)})
