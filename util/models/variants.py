"""CMPC's variants: how a snapshot shows them, and what they minimise."""

from util.core.errors import UserError
from util.graph import losses
from util.graph.compat import tf
from util.models import base, refinement
from util.models.options import OPTIONS

SIDES = {"c5": 0.1, "c4": 0.1, "c3": 0.1}
HALF_SIDES = {"c5": 0.1, "c4": 0.05, "c3": 0.05}
OF_LOSS = {
    "iou30": {"pred": 0.4, **SIDES, "iou_loss": 0.3},
    "iou50": {"pred": 0.2, **SIDES, "iou_loss": 0.5},
    "iou70": {"pred": 0.1, **HALF_SIDES, "iou_loss": 0.7},
    "region": {"pred": 0.4, **SIDES, "region_loss": 0.3},
}
OF_REFINE = {"base": 0.5, **SIDES, "refine": 0.2}
OF_VARIANTS = "b1 b2 b3 b4 b5 l4 l3 l2 l1 predrf pred_adj score_2".split()
OF_SECOND_PASS = {"base": 0.3, **SIDES, "2": 0.2, "iou_loss_2": 0.2}


class Model(base.Model):
    """A model with the variants, none or one of them.

    Args:
      those of `base.Arguments`, and
      loss, refine, second_pass: str, see `options.OPTIONS`; None: none of them.

    Class attributes:
      RNN: scope of the ConvLSTM: without a second pass, and with one.
    """

    OPTIONS = ("loss", "refine", "second_pass")
    Arguments = base.arguments({"inputs": dict.fromkeys(OPTIONS)})
    RNN = ("rnn", "convlstmscope/rnn")

    @classmethod
    def check(cls, options):
        """Refuse arguments that do not go together, see `base.Model.check`."""
        super().check(options)
        given = [name for name in cls.OPTIONS if getattr(options, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} cannot be combined")

    @property
    def rnn_scope(self):
        """The scope of the ConvLSTM."""
        return self.RNN[bool(self.options.second_pass)]

    @property
    def reads_image(self):
        """Whether the head reads the image itself, besides the taps."""
        return self.options.refine in ("image", "edges")

    @classmethod
    def stored_name(cls, name, shapes):
        """Return what a snapshot calls a variable, see `base.Model.stored_name`.

        Any variant starts from a snapshot of any other, save refinements that read
        something else: the ConvLSTM has one of two names, and what only one of them has
        is drawn.
        """
        plain, second = (f"{base.SCOPE}/{scope}/" for scope in cls.RNN)
        other = {plain: second, second: plain}
        for scope in other:
            if name.startswith(scope) and name not in shapes:
                return other[scope] + name[len(scope) :]
        own = name.startswith(tuple(f"{base.SCOPE}/{layer}/" for layer in OF_VARIANTS))
        return None if own and name not in shapes else name

    @classmethod
    def option(cls, shapes):
        """Return the argument that makes the variant of a checkpoint's variables.

        Args:
          shapes: variable name -> shape.

        Returns:
          {}, or the name of the argument -> its value, see `base.Model.sizes`.

        Raises:
          UserError: it has a refinement that is none of ours, or a second pass as well.

        Example:
          >>> Model.option({"text_objseg/b1/DW": [3, 3, 4, 64]})
          {'refine': 'image'}
        """
        name, second_pass = (f"{base.SCOPE}/{layer}/DW" for layer in ("b1", "pred_adj"))
        if {name, second_pass} <= set(shapes):
            raise UserError(
                f"not a checkpoint of {cls.NAME}: it has a second pass and a "
                "refinement, which cannot be combined"
            )
        if second_pass in shapes:
            return {"second_pass": OPTIONS["second_pass"]}
        if name not in shapes:
            return {}
        for kind, channels in refinement.INPUTS.items():
            if list(shapes[name]) == [3, 3, channels, refinement.CHANNELS]:
                return {"refine": kind}
        raise UserError(f"not a checkpoint of {cls.NAME}: {name} is {shapes[name]}")

    def loss_weights(self):
        """Return name -> weight of each loss that is minimised."""
        options = self.options
        if options.refine:
            return OF_REFINE
        if options.second_pass:
            return OF_SECOND_PASS
        return OF_LOSS.get(options.loss, self.LOSS_WEIGHTS)

    def loss_terms(self):
        """Compute the losses, see `base.Model.loss_terms`.

        With a second pass the IoU losses are of sigmoid(up), which takes the sigmoid
        twice: a mistake of the published runs, kept for their numbers. `iou_loss`, of
        the first pass, is only reported there.
        """
        options, ups, target = self.options, self.ups, self.target_fine
        terms = super().loss_terms()
        if "base" in terms:
            last = terms.pop("pred")
            terms["refine" if options.refine else "2"] = last
        if options.second_pass:
            for name, up in (("iou_loss", "base"), ("iou_loss_2", "pred")):
                terms[name] = losses.iou_loss(tf.sigmoid(ups[up]), target)
        if options.loss == "region":
            terms["region_loss"] = losses.region_loss(ups["pred"], target)
        elif options.loss:
            terms["iou_loss"] = losses.iou_loss(ups["pred"], target)
        return terms
