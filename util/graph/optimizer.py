"""Adam as the published checkpoints were trained with it."""

from util.graph.compat import tf

LAST_LEARNING_RATE = 1e-5
DECAY_POWER = 0.9
BIAS_GRADIENT_SCALE = 2.0


def adam(
    loss,
    variables,
    decayed,
    weight_decay,
    start_lr,
    decay_steps,
    step_counter,
    warm_up=0,
    spread=False,
):
    """Make one training step; call it inside the model's variable scope.

    The scope is what gives the Adam slots their published names, with the scope twice.

    Args:
      loss: float32 scalar, without the regularisation.
      variables: list of the tf.Variable to train.
      decayed: those of them that `losses.l2_regularization_loss` is about.
      weight_decay: float, its factor.
      start_lr: float, the first learning rate.
      decay_steps: int, steps after which the polynomial decay reaches
        LAST_LEARNING_RATE.
      step_counter: str, name of the variable that counts the steps.
      warm_up: int, steps in which the learning rate grows to what it is.
      spread: bool, compute each gradient on the device of what it is the gradient of.

    Returns:
      (learning_rate, train_step): float32 scalar and the op of one step.

    Variables:
      {step_counter}            float32 scalar, steps taken
      beta1_power, beta2_power  scalars
      {variable}/Adam, {variable}/Adam_1  for each of `variables`
    """
    step = tf.get_variable(
        step_counter, [], initializer=tf.zeros_initializer(), trainable=False
    )
    learning_rate = tf.train.polynomial_decay(
        start_lr,
        step,
        decay_steps,
        end_learning_rate=LAST_LEARNING_RATE,
        power=DECAY_POWER,
    )
    if warm_up:
        learning_rate *= tf.minimum((step + 1) / warm_up, 1.0)
    optimizer = tf.train.AdamOptimizer(learning_rate)
    # With a given slope the loss itself need not be computed, for its shape.
    gradients = optimizer.compute_gradients(
        loss,
        variables,
        gate_gradients=tf.train.Optimizer.GATE_NONE,
        grad_loss=tf.ones([]),
        colocate_gradients_with_ops=spread,
    )
    decayed = {variable.op.name for variable in decayed}
    # One constant serves all variables.
    weight_decay, twice = tf.constant(weight_decay), tf.constant(BIAS_GRADIENT_SCALE)
    gradients = [
        _full_gradient(
            gradient,
            variable,
            weight_decay if variable.op.name in decayed else None,
            twice if variable.op.name.endswith("biases") else None,
        )
        for gradient, variable in gradients
    ]
    # No variable changes before the last gradient is there: it may depend on it.
    computed = [gradient for gradient in gradients if gradient is not None]
    with tf.control_dependencies([tf.group(*computed)]):
        train_step = optimizer.apply_gradients(
            zip(gradients, variables), global_step=step
        )
    return learning_rate, train_step


def _full_gradient(gradient, variable, weight_decay, scale):
    """Add the gradient of the regularisation and scale that of a bias."""
    with tf.colocate_with(variable):
        if isinstance(gradient, tf.IndexedSlices):
            # Adam moves all rows of the word table anyway, of slices in five passes,
            # and looks for equal ones, for which the host would wait for the GPU.
            gradient = tf.convert_to_tensor(gradient)
        if weight_decay is not None:
            # Not before the gradient is there: it would wait as a copy of the variable.
            with tf.control_dependencies([gradient]):
                gradient += weight_decay * variable
        if scale is not None:
            gradient *= scale
    return gradient
