"""Adam as the published checkpoints were trained with it."""

from util.compat import tf

LAST_LEARNING_RATE = 1e-5
DECAY_POWER = 0.9
BIAS_GRADIENT_SCALE = 2.0


def adam(cost, variables, start_lr, decay_steps):
    """Make one training step; call it inside the model's variable scope.

    The scope is what gives the Adam slots their published names, with the scope twice.

    Args:
      cost: float32 scalar.
      variables: list of the tf.Variable to train.
      start_lr: float, the first learning rate.
      decay_steps: int, steps after which the polynomial decay reaches
        LAST_LEARNING_RATE.

    Returns:
      (learning_rate, train_step): float32 scalar and the op of one step.

    Variables:
      Variable_1                float32 scalar, steps taken
      beta1_power, beta2_power  scalars
      {variable}/Adam, {variable}/Adam_1  for each of `variables`
    """
    step = tf.get_variable(
        "Variable_1", [], initializer=tf.zeros_initializer(), trainable=False
    )
    learning_rate = tf.train.polynomial_decay(
        start_lr,
        step,
        decay_steps,
        end_learning_rate=LAST_LEARNING_RATE,
        power=DECAY_POWER,
    )
    optimizer = tf.train.AdamOptimizer(learning_rate)
    # Gated together, no gradient is computed that nobody asked for; and with a given
    # slope the cost itself need not be, for its shape.
    gradients = optimizer.compute_gradients(
        cost,
        variables,
        gate_gradients=tf.train.Optimizer.GATE_GRAPH,
        grad_loss=tf.ones([]),
    )
    gradients = [
        (gradient * BIAS_GRADIENT_SCALE, variable)
        if variable.op.name.endswith("biases")
        else (gradient, variable)
        for gradient, variable in gradients
    ]
    return learning_rate, optimizer.apply_gradients(gradients, global_step=step)
