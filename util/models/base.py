"""What all models share; a model file holds what its paper has a formula for.

A model derives from `Model`, names its variables and its scores, and writes its paper
as `head`. Placeholders, backbone, upsampling, losses and the training step are here.

Axes: B batch of sentences, P images, T words, H rows and W columns of the image, h and
w of the grid of features, C channels.
"""

import inspect
import re
import warnings
from collections import namedtuple
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import deeplab_resnet
from deeplab_resnet import LEVELS, UNITS, WIDTH
from util.core.errors import UserError
from util.data.im_processing import STRIDE
from util.graph import checkpoint, losses, optimizer
from util.graph.algebra import Share
from util.graph.compat import only_graphs, tf
from util.graph.layers import dropout_mask, resize_scores
from util.graph.towers import spread
from util.models.options import OPTIONS

SCOPE = "text_objseg"  # of all variables of a head
SMALL = 4 * 10**6  # numbers trained, at most, where threads share operations badly
OF_ADAM = re.compile(r".*/Adam(_1)?|(.*/)?beta[12]_power")
TRAINED_BLOCKS = ("res3", "res4", "res5")  # with conv5


class Arguments(NamedTuple):
    """The arguments of a model, in the order of the published class.

    Attributes:
      batch_size: int, B, sentences at once; None: any number.
      num_steps: int, T, positions of a sentence.
      vf_h, vf_w: int, size of the feature grid in cells: H / 8, W / 8.
      H, W: int, size of image and mask in pixels.
      vf_dim: int, accepted for older callers and not used.
      vocab_size: int, rows of the word table.
      v_emb_dim: int, channels of words and cells.
      mlp_dim: int, channels after fusion.
      start_lr: float, first learning rate.
      lr_decay_step: int, steps until the learning rate ends at 1e-5.
      rnn_size: int, channels of the sentence LSTM.
      keep_prob_rnn, keep_prob_emb: float in (0, 1], share of LSTM outputs and of word
        vector entries that dropout keeps; only in mode "train".
      optimizer: str, "adam".
      weight_decay: float, see `losses.l2_regularization_loss`.
      mode: str, "eval", or "train" for losses and a training step.
      conv5: bool, train the convolutions of res3 to res5 as well.
      glove_dim: int, length of a word vector.
      glove: float32 [vocab_size, glove_dim], initial word vectors; None: random.
      units, width: of the backbone, see `deeplab_resnet.features`.
      warm_up: int, steps in which the learning rate grows to what it is.
      num_images: 1: all sentences are about one image; None: each about its own.
      grouped: bool, in place of num_images: as many images as are fed, and
        `image_of` tells which one each sentence is about.
      towers: list of `towers.Tower`, devices that share a batch; none: one device.
      staged: bool, in mode "train": what is large of a step's inputs is put on the
        device before the step, see `Model.stage`.
      inputs: dict, "words" and "im" -> tensors in place of the placeholders, of the
        same dtypes and static shapes; None: placeholders.
    """

    batch_size: Any = 1
    num_steps: int = 20
    vf_h: int = 40
    vf_w: int = 40
    H: int = 320
    W: int = 320
    vf_dim: int = 2048
    vocab_size: int = 12112
    v_emb_dim: int = 1000
    mlp_dim: int = 500
    start_lr: float = 0.00025
    lr_decay_step: int = 800000
    rnn_size: int = 1000
    keep_prob_rnn: float = 1.0
    keep_prob_emb: float = 1.0
    optimizer: str = "adam"
    weight_decay: float = 0.0005
    mode: str = "eval"
    conv5: bool = False
    glove_dim: int = 300
    glove: Any = None
    units: Any = UNITS
    width: int = WIDTH
    warm_up: int = 0
    num_images: Any = None
    grouped: bool = False
    towers: Any = ()
    staged: bool = False
    inputs: Any = None


def arguments(more: Dict[str, Dict[str, Any]], without: Sequence[str] = ()):
    """Return `Arguments` with others among them: a NamedTuple has no subclasses.

    Args:
      more: name of an argument -> those that come after it, name -> default.
      without: names of arguments that it has no use for.

    Returns:
      A class as `Arguments` is.

    Example:
      >>> other = arguments({"inputs": {"folds": 5}}, without=["glove_dim", "glove"])
      >>> other(4).batch_size, other(4).folds, other._fields[-4:]
      (4, 5, ('towers', 'staged', 'inputs', 'folds'))
    """
    defaults = {}
    for name, value in Arguments._field_defaults.items():
        if name not in without:
            defaults[name] = value
        defaults.update(more.get(name, {}))
    return namedtuple("Arguments", defaults, defaults=defaults.values())


class Answer(NamedTuple):
    """What a head gives.

    Attributes:
      logits: name -> float32 [B, h, w, 1]: "pred", the answer, of any size; "base",
        the score that it refines, where it refines one; and auxiliary ones.
      image_parts: float32 [P, ...] each: all that the answer takes from the image. Fed
        with what they were for an image they spare a sentence all work on it.
      outputs: name -> [B, ...]: what else there is to show. The model has each as an
        attribute.
    """

    logits: Dict[str, Any]
    image_parts: List[Any]
    outputs: Dict[str, Any]


class Model:
    """A network in the default graph; an instance holds its tensors.

    Args:
      see `Arguments`.

    Class attributes:
      NAME: str, its name in `models.MODELS`.
      Arguments: what it takes, see `arguments`.
      SIGNATURE: name of a variable that no other model has.
      WORD_TABLE: name of the variable of the word vectors, [vocab_size, size].
      STEP_COUNTER: name of the variable that counts the steps.
      LOSS_WEIGHTS: name of each score -> weight of its loss. "pred", the answer, is
        first; the others are auxiliary. With options see `loss_weights`.
      OPTIONS: those of `models.OPTIONS` that it can be made with.
      WORD_CLASSES: what `words_parse` tells apart; none: the model does not.
      SHOWN: what `shown` is, for people.

    Attributes:
      options: the Arguments.
      words: int32 [B, T] placeholder, ids padded in front with 0.
      im: float32 [P, H, W, 3] placeholder, BGR minus the mean.
      target_fine: float32 [B, H, W, 1] placeholder, the mask, 1 on the object.
      valid_idx: int32 [B, 1] placeholder; may be fed, is not read: the ids tell where
        a sentence begins.
      image_of: int32 [B] placeholder, where grouped: the number of each sentence's
        image, among those of its device.
      image_counts: int32 [number of devices] placeholder, where grouped: how many of
        the images each device has.
      stage, clear_stage: where staged, the op that puts one step's values of `waiting`
        on the device, from where the training step takes them in the same order; and
        the op that drops those that wait. Whoever runs anything else feeds `im` and
        `target_fine`, as where it is not staged.
      waiting: dict, where staged: `im` and `target_fine` -> the placeholder of `stage`;
        empty otherwise.
      noise_seed: int64 [2] placeholder, may be fed: what dropout draws from; another
        one each time otherwise.
      visual_feat_c3, _c4, _c5: float32 [P, h, w, 512 / 1024 / 2048], the taps; may be
        fed in place of `im`.
      image_parts: list of float32 [P, ...], see `Answer`; on one device they may be
        fed in place of `im`.
      words_parse: float32 [B, T, number of WORD_CLASSES], meaningless at padding; None
        where there are none.
      attention: float32 [B, K, T], how much each word counts in each of K rounds, zeros
        at padding; None where the model has no rounds.
      shown: name -> float32 [B, H, W], see `to_show`.
      logits, ups: name -> float32 [B, h, w, 1] and [B, H, W, 1], see `Answer`; "pred"
        is first.
      pred, up, up_NAME: the same, one by one; `pred` and `up` are the answer's.
      pred_base: "base" of the logits, where there is one.
      printed: float32 [B, h, w, 1], what the printed figures are of: `pred_base`, or
        `pred`.
      sigm: float32 [B, H, W, 1], sigmoid of `up`.
      reads_image: bool, whether the head reads `im` itself, besides the taps.
      In mode "train" also target: float32 [B, h, w, 1], the mask on the grid; losses:
        name -> scalar float32, see `loss_terms`; the same as cls_loss, the printed one,
        cls_loss_NAME and, where a name has "loss" in it, NAME; scalars
        cls_loss_all, reg_loss, cost, learning_rate; train_step: the op; is_small: bool,
        whether at most SMALL numbers are trained.

    Raises:
      ValueError: arguments that do not go together.
    """

    NAME = SIGNATURE = WORD_TABLE = STEP_COUNTER = ""
    Arguments = Arguments
    LOSS_WEIGHTS: Dict[str, float] = {"pred": 1.0}  # noqa: RUF012
    WORD_CLASSES = ()
    SHOWN = "What each level of features alone finds"
    OPTIONS: Tuple[str, ...] = ()
    words_parse = attention = None
    reads_image = is_small = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.__signature__ = inspect.signature(cls.Arguments)

    def __init__(self, *arguments, **options):
        self.options = self.Arguments(*arguments, **options)
        self.check(self.options)
        require_graph()
        with published_variables():
            self._make_inputs()
            taps = self._compute_taps()
            with tf.variable_scope(SCOPE):
                self._answer(taps)
                if self.options.mode == "train":
                    self._learn()

    # --- What a model says

    @classmethod
    def check(cls, options):
        """Refuse arguments that do not go together.

        Raises:
          ValueError: says which.
        """
        if options.mode not in ("train", "eval"):
            raise ValueError(f"mode {options.mode!r} is neither 'train' nor 'eval'")
        for name, values in OPTIONS.items():
            value = getattr(options, name, None)
            if value is not None and (name not in cls.OPTIONS or value not in values):
                raise ValueError(f"{cls.NAME} has no {name} {value!r}")
        if options.optimizer != "adam":
            raise ValueError(f"optimizer {options.optimizer!r}: only 'adam' is known")
        rows, columns = options.vf_h, options.vf_w
        if (options.H, options.W) != (STRIDE * rows, STRIDE * columns):
            raise ValueError(
                f"H x W {options.H}x{options.W} is not {STRIDE} x vf_h x vf_w "
                f"{rows}x{columns}"
            )

    @classmethod
    def sizes(cls, shapes):
        """Read from a checkpoint's variables how large its network is.

        Args:
          shapes: variable name -> shape.

        Returns:
          The arguments that say so. One that they leave open is a tuple of its possible
          values; the snapshot's state says which.

        Raises:
          UserError: a variable that tells is missing or of another rank.
        """
        raise NotImplementedError

    @classmethod
    def stored_shape(cls, shapes, name, rank):
        """Return the shape of a variable of the head, for `sizes`.

        Args:
          name: without the scope.
          rank: int, number of its axes.
        """
        name = f"{SCOPE}/{name}"
        shape = shapes.get(name)
        if shape is None or len(shape) != rank:
            state = "missing" if shape is None else shape
            raise UserError(f"not a checkpoint of {cls.NAME}: {name} is {state}")
        return shape

    @classmethod
    def is_weight(cls, name):
        """Tell by its op name whether a variable is one of the network.

        The others are of its training: Adam's slots and counts, the number of steps.
        """
        return not (name == cls.STEP_COUNTER or OF_ADAM.fullmatch(name))

    @classmethod
    def load(cls, session, snapshot):
        """Load all variables of the graph from a snapshot of this very network.

        Args:
          session: of the graph.
          snapshot: path of a checkpoint.

        Raises:
          UserError: as `checkpoint.load`; or the snapshot has more weights in its head,
            without which it would answer something else.
        """
        made = session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        made = {variable.op.name for variable in made}
        left = [
            name
            for name in sorted(checkpoint.shapes(snapshot))
            if name.startswith(SCOPE + "/") and cls.is_weight(name) and name not in made
        ]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UserError(
                f"{snapshot} is of another network: this one has no {left[0]}{more}"
            )
        checkpoint.load(session, snapshot)

    @classmethod
    def stored_name(cls, name, shapes):
        """Return what a snapshot that a run starts from calls a variable.

        Args:
          name: of a variable of the network.
          shapes: variable name -> shape, of the snapshot.

        Returns:
          A name, which may be missing there; None: the variable is drawn.
        """
        return name

    @classmethod
    def defaults(cls, dataset):
        """Return the channels for a data set: v_emb_dim and mlp_dim."""
        return {"v_emb_dim": dataset.v_emb_dim, "mlp_dim": dataset.mlp_dim}

    @classmethod
    def channels(cls, v_emb_dim, mlp_dim):
        """Return the arguments for the channels that a user chooses."""
        return {"v_emb_dim": v_emb_dim, "mlp_dim": mlp_dim}

    def dropout_channels(self):
        """Return what dropout applies to: name -> channels, of "emb" and "rnn"."""
        return {}

    def head(self, ids, taps, dropout, share):
        """Write the paper down: from the features to the logits.

        Variables are made with tf.get_variable, in the order of the checkpoints.

        Args:
          ids: int32 [B, T], 0 is padding.
          taps: level, of LEVELS -> float32 [P, h, w, C]; and "im" -> float32
            [P, H, W, 3], the image, see `Model.im`.
          dropout: name, of `dropout_channels` -> float32 [B, T, C] to multiply with;
            only of those that drop.
          share: algebra.Share, a function of float32 [P, ...]; gives [B, ...], what
            each sentence has of its image. What is the same for all sentences may stay
            [1, ...].

        Returns:
          Answer.
        """
        raise NotImplementedError

    def to_show(self):
        """Return what there is to see besides the answer, as SHOWN says.

        Returns:
          name -> float32 [B, H, W], 0..1.
        """
        return {
            name: tf.sigmoid(up[..., 0])
            for name, up in self.ups.items()
            if name != "pred"
        }

    @classmethod
    def default_options(cls):
        """Return those of `models.OPTIONS` that it is made with where none are given.

        Returns:
          name -> value.
        """
        defaults = cls.Arguments._field_defaults
        return {name: defaults[name] for name in cls.OPTIONS if defaults[name]}

    @property
    def chosen(self):
        """Those of `models.OPTIONS` that it was made with, name -> value."""
        values = {name: getattr(self.options, name) for name in self.OPTIONS}
        return {name: value for name, value in values.items() if value is not None}

    def loss_weights(self):
        """Return name -> weight of each loss that is minimised."""
        return self.LOSS_WEIGHTS

    def loss_terms(self):
        """Compute the losses; the first one is printed, others may be for the log only.

        Returns:
          name -> scalar float32; a cross entropy has the name of its score.
        """
        return {
            name: losses.segmentation_loss(up, self.target_fine)
            for name, up in self.ups.items()
        }

    # --- What is the same for all

    def _make_inputs(self):
        options = self.options
        batch, size = options.batch_size, [options.H, options.W]
        num_images = None if options.grouped else options.num_images or batch
        self.image_of = self.image_counts = None
        if options.grouped:
            self.image_of = tf.placeholder(tf.int32, [batch])
            self.image_counts = tf.placeholder(tf.int32, [len(options.towers) or 1])
        inputs = options.inputs or {
            "words": tf.placeholder(tf.int32, [batch, options.num_steps]),
            "im": tf.placeholder(tf.float32, [num_images, *size, 3]),
        }
        self.words, self.im = inputs["words"], inputs["im"]
        self.target_fine = tf.placeholder(tf.float32, [batch, *size, 1])
        self.stage = self.clear_stage = None
        self.waiting = {}
        if options.staged:
            self._stage_inputs()
        self.valid_idx = tf.placeholder(tf.int32, [batch, 1])
        chance = tf.random_uniform([2], maxval=2**31, dtype=tf.int64)
        self.noise_seed = tf.placeholder_with_default(chance, [2])

    def _stage_inputs(self):
        """Give a step a queue of inputs that lie on the device, see `stage`."""
        puts = [self.im, self.target_fine]
        name = tf.get_default_graph().unique_name("staged")
        self.stage = tf.raw_ops.Stage(values=puts, shared_name=name)
        how = {"dtypes": [x.dtype for x in puts], "shared_name": name}
        with tf.colocate_with(self.stage):
            taken = tf.raw_ops.Unstage(**how)
            self.clear_stage = tf.raw_ops.StageClear(**how)
        self.im, self.target_fine = (
            tf.placeholder_with_default(x, put.shape) for x, put in zip(taken, puts)
        )
        self.waiting = dict(zip([self.im, self.target_fine], puts))

    def _compute_taps(self):
        """Return the taps, which gradients pass only with conv5."""
        backbone = {"units": self.options.units, "width": self.options.width}

        def features(inputs):
            return deeplab_resnet.features(inputs["im"], **backbone)

        taps = self._spread(features, {}, {"im": self.im})
        for level, tap in taps.items():
            setattr(self, "visual_feat_" + level, tap)
        if self.options.conv5:
            return taps
        return {level: tf.stop_gradient(tap) for level, tap in taps.items()}

    def _spread(self, function, inputs, images):
        """Apply a function to what the devices have of sentences and images."""
        towers, counts = self.options.towers, self.image_counts
        return spread(function, towers, inputs, images, counts)

    def _dropout_masks(self):
        """Return what dropout multiplies with; nothing where it keeps all."""
        if self.options.mode != "train":
            return {}
        batch_size, steps = self.words.shape.as_list()
        batch_size = batch_size or tf.shape(self.words)[0]
        masks = {}
        for name, channels in self.dropout_channels().items():
            keep = getattr(self.options, "keep_prob_" + name)
            if keep < 1:
                seed = self.noise_seed if name == "emb" else -self.noise_seed
                shape = [batch_size, steps, channels]
                masks[name] = dropout_mask(shape, keep, seed)
        return masks

    def _answer(self, taps):
        """Apply the head and bring its scores to the size of the image."""
        masks = self._dropout_masks()

        def answer(inputs):
            return self.head(
                inputs["words"],
                {name: inputs[name] for name in (*LEVELS, "im")},
                {name: inputs[name] for name in masks},
                Share(inputs.get("image_of")),
            )

        inputs = dict(masks, words=self.words)
        if self.options.grouped:
            inputs["image_of"] = self.image_of
        found = self._spread(answer, inputs, dict(taps, im=self.im))
        self.image_parts = found.image_parts
        for name, output in found.outputs.items():
            setattr(self, name, output)
        first = [name for name in ("pred", "base") if name in found.logits]
        self.logits = {name: found.logits[name] for name in first}
        self.logits.update(found.logits)
        self.ups = {
            name: resize_scores(score, self.options.H, self.options.W)
            for name, score in self.logits.items()
        }
        self.pred, self.sigm = self.logits["pred"], tf.sigmoid(self.ups["pred"])
        self.shown = self.to_show()
        for name, up in self.ups.items():
            setattr(self, "up" if name == "pred" else f"up_{name}", up)
        if "base" in self.logits:
            self.pred_base = self.logits["base"]
        self.printed = self.logits.get("base", self.pred)

    def _learn(self):
        """Add losses and the training step.

        Variables:
          STEP_COUNTER and Adam's: see `optimizer.adam`
        """
        options = self.options
        grid = self.printed.shape.as_list()[1:3]
        self.target = tf.image.resize_bilinear(self.target_fine, grid)
        self.losses = self.loss_terms()
        self.cls_loss = next(iter(self.losses.values()))
        for name, loss in list(self.losses.items())[1:]:
            setattr(self, name if "loss" in name else f"cls_loss_{name}", loss)
        self.cls_loss_all = sum(
            weight * self.losses[name] for name, weight in self.loss_weights().items()
        )
        trained = [
            v for v in tf.trainable_variables() if is_trained(v.op.name, options.conv5)
        ]
        self.is_small = sum(v.shape.num_elements() for v in trained) <= SMALL
        decayed = [v for v in trained if v.op.name.endswith(("/DW", "/weights"))]
        self.reg_loss = losses.l2_regularization_loss(decayed, options.weight_decay)
        self.cost = self.cls_loss_all + self.reg_loss
        self.learning_rate, self.train_step = optimizer.adam(
            self.cls_loss_all,
            trained,
            decayed,
            options.weight_decay,
            options.start_lr,
            options.lr_decay_step,
            step_counter=self.STEP_COUNTER[len(SCOPE) + 1 :],
            warm_up=options.warm_up,
            spread=bool(options.towers),
        )


def require_graph():
    """See to it that there is a graph to build in, also outside of `as_default`.

    A program that has none is one of TensorFlow 1, as users of the published class
    write it: its process is switched to that, and told so.
    """
    if tf.executing_eagerly():
        warnings.warn(
            "TensorFlow 2's eager mode is off from here on: the network is built in "
            "the default graph. Build it inside `with tf.Graph().as_default():` to "
            "keep both",
            stacklevel=3,
        )
        only_graphs()


def published_variables():
    """Return a context in which variables are what TensorFlow 1 makes, unless told.

    TensorFlow 2 would make all of them resources.
    """
    scope = tf.get_variable_scope()
    return tf.variable_scope(
        scope, use_resource=bool(scope.use_resource), auxiliary_name_scope=False
    )


def grid_sizes(rows: int, columns: int) -> Dict[str, int]:
    """Return the arguments for images of a size in pixels, a multiple of STRIDE.

    Example:
      >>> grid_sizes(64, 96)
      {'H': 64, 'W': 96, 'vf_h': 8, 'vf_w': 12}
    """
    return {
        "H": rows,
        "W": columns,
        "vf_h": rows // STRIDE,
        "vf_w": columns // STRIDE,
    }


def is_trained(name: str, conv5: bool) -> bool:
    """Tell whether a trainable variable is trained, by its op name.

    Args:
      name: op name.
      conv5: also train the convolutions (not the normalisations) of res3 to res5.

    Example:
      >>> is_trained("text_objseg/score/DW", False), is_trained("res3a/weights", False)
      (True, False)
    """
    return name.startswith(SCOPE + "/") or (conv5 and name.startswith(TRAINED_BLOCKS))
