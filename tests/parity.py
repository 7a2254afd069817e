"""A model against numbers of its reference implementation (golden/README.md)."""

import re

import networks
import numpy as np

from util.graph.compat import tf

# Asked for; float32 in another order of operations stays within 5e-6.
FORWARD = 5e-5
LOSS = 1e-5
# Of a variable's length after the last step; 2.5e-4 was seen, over two processors and
# both stacks.
LENGTH = 1e-3
# With the backbone trained, Adam's first step (almost the sign of each gradient, noise
# or not) moves every pixel's features, and the second gradient with them: 5e-3 seen.
SLOTS_WITH_CONV5 = (r"/Adam(_1)?$", 3e-2)
TAPS = {"res3b3_relu": "c3", "res4b22_relu": "c4", "res5c_relu": "c5"}
SENTENCES = ((1, 5), (2, 1), (3, 20))  # (seed, words)


def made_variables():
    """Return name, shape and whether it is trained, of the graph's variables."""
    trainable = {v.op.name for v in tf.trainable_variables()}
    return [
        [v.op.name, v.shape.as_list(), v.op.name in trainable]
        for v in tf.global_variables()
    ]


def check_variables(wanted, sizes, scope=""):
    """Compare names, which are trained, the order of creation, and shapes.

    Of a network that is not FULL it is their length only. Adam's slots must always have
    the shape of their variable.

    `wanted`: lists of name, shape and whether it is trained; `scope`: what the names of
    those to compare begin with.
    """
    made, seen = made_variables(), list if sizes is networks.FULL else len
    found, right = (
        [(n, seen(shape), trained) for n, shape, trained in some if n.startswith(scope)]
        for some in (made, wanted)
    )
    assert found == right
    shapes = {name: shape for name, shape, _ in made}
    for name, shape in shapes.items():
        own = re.sub(r"/Adam(_1)?$", "", name)
        if own not in shapes:  # a slot of the backbone's
            own = own.replace("text_objseg/", "", 1)
        assert shapes[own] == shape, name


def check_forward(model_class, name, variables, sizes, sample, number):
    """Compare the variables, and `number` tensors of each sentence.

    `sample` cuts ours like the golden ones.
    """
    golden = networks.read_golden(name)
    with tf.Graph().as_default(), tf.Session() as session:
        model = model_class(**sizes)
        check_variables(variables, sizes)
        networks.load_recipe(session, model)
        for seed, n in SENTENCES:
            prefix = f"s{seed}_n{n}_"
            keys = [key[len(prefix) :] for key in golden if key.startswith(prefix)]
            assert len(keys) == number
            tensors = {
                key: getattr(model, f"visual_feat_{TAPS[key]}" if key in TAPS else key)
                for key in keys
            }
            found = session.run(tensors, networks.feed(model, [(seed, n)], sizes))
            for key, value in found.items():
                wanted = golden[prefix + key]
                value = sample(key, value[0], n).reshape(wanted.shape)
                error = np.abs(value - wanted).max() / np.abs(wanted).max()
                assert error <= FORWARD, (prefix, key)


def cut(key, value, n):
    """Cut one sentence's tensor like `forward_small.npz` does."""
    if key == "words_parse":
        return value[-n:]
    if key in TAPS:
        step = max(1, len(value) // 4)
        return value[::step, ::step, :32]
    return value


def cut_full(key, value, n):
    """Cut one sentence's tensor like `forward_full.npz` does."""
    return value[::16, ::16] if key.startswith(("up", "sigm")) else cut(key, value, n)


def check_training(
    model_class, name, variables, sizes, columns, slot_lengths=(), **options
):
    """Compare the variables, the losses of all steps, and lengths after the last.

    Args:
      slot_lengths: pairs of a pattern and what is allowed in place of LENGTH.
    """
    golden = networks.read_golden(name)
    assert golden["columns"] == columns
    with tf.Graph().as_default(), tf.Session() as session:
        model = model_class(mode="train", **dict(sizes, **options))
        check_variables(variables, sizes)
        networks.load_recipe(session, model)
        for case, wanted in zip(golden["cases"], golden["losses"]):
            fed = networks.feed(model, [case], sizes)
            found = take_step(session, model, columns, fed)
            np.testing.assert_allclose(found, wanted, rtol=LOSS)
        values = session.run({v.op.name: v for v in tf.global_variables()})
    after = golden["variables_after"]
    assert set(values) == set(after)
    for key, (_, length, *_first) in after.items():
        found = np.linalg.norm(values[key].astype(np.float64))
        assert abs(found - length) <= allowed_length(key, slot_lengths) * length, key


def take_step(session, model, columns, fed):
    """Take a training step and return its losses, in the order of `columns`.

    The regularisation is read before: beside the step it is a sum over variables of
    which some have changed (off by 9e-5 was seen).
    """
    regularisation = session.run(model.reg_loss)
    losses = {column: getattr(model, column) for column in columns}
    found, _ = session.run((losses, model.train_step), fed)
    found["reg_loss"] = regularisation
    return [found[column] for column in columns]


def allowed_length(name, slot_lengths):
    """Return how far the length of a variable may be off, relative to itself."""
    allowed = [length for pattern, length in slot_lengths if re.search(pattern, name)]
    return allowed[0] if allowed else LENGTH
