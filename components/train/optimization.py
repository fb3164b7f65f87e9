"""How the head's loss is lowered: optimisers, schedules of the learning rate, penalties and weights of examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from components.train.settings import Schedule

v1 = tf.compat.v1

SGD, MOMENTUM, ADAM, ADAMW = "sgd", "momentum", "adam", "adamw"
CONSTANT, EXPONENTIAL, COSINE = "constant", "exponential", "cosine"


@dataclass(frozen=True)
class Optimisation:
    """How a training of so many steps goes; l2 weighs the penalty of the output layer, class_weights the examples.

    backbone_rate is the first learning rate of variables outside the head, where some are trained; loss_scale keeps the
    gradients of half precision above its smallest number.
    """

    steps: int
    learning_rate: float
    l2: float
    optimizer: str = ADAM
    momentum: float = 0.9
    schedule: Schedule = Schedule()
    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None
    backbone_rate: float = 0.0
    loss_scale: float = 1.0


def add_train_step(
    logits: tf.Tensor, label: tf.Tensor, output_weights: tf.Variable, optimisation: Optimisation
) -> tuple[tf.Tensor, tf.Operation]:
    """Map logits float32[N, C] and int64[N] to (loss with its penalties, the operation that lowers it)."""
    with tf.name_scope("train"):
        step = v1.train.get_or_create_global_step()
        share = schedule_rate(optimisation.schedule, optimisation.steps, step)
        v1.summary.scalar("learning_rate", optimisation.learning_rate * share)
        loss = weigh_examples(logits, label, optimisation.label_smoothing, optimisation.class_weights)
        penalties = v1.losses.get_regularization_losses()
        if optimisation.optimizer != ADAMW:
            penalties = [*penalties, optimisation.l2 * tf.nn.l2_loss(output_weights)]
        loss = tf.add_n([loss, *penalties])
        v1.summary.scalar("loss", loss)
        head, backbone = _split_variables(output_weights)
        scaled = tf.gradients(loss * optimisation.loss_scale, [*head, *backbone])
        gradients = [gradient / optimisation.loss_scale for gradient in scaled]
        updates = [
            make_optimizer(optimisation, rate * share).apply_gradients(zip(part, variables, strict=True), name=name)
            for name, rate, part, variables in (
                ("head", optimisation.learning_rate, gradients[: len(head)], head),
                ("backbone", optimisation.backbone_rate, gradients[len(head) :], backbone),
            )
            if variables
        ]
        if optimisation.optimizer == ADAMW:
            with tf.control_dependencies(updates):
                decay = optimisation.learning_rate * share * optimisation.l2
                updates = [*updates, output_weights.assign_sub(decay * output_weights)]
        with tf.control_dependencies(updates):
            return loss, step.assign_add(1).op


def _split_variables(output_weights: tf.Variable) -> tuple[list[tf.Variable], list[tf.Variable]]:
    scope = output_weights.name.split("/")[0]
    variables = v1.trainable_variables()
    head = [variable for variable in variables if variable.name.startswith(f"{scope}/")]
    return head, [variable for variable in variables if not variable.name.startswith(f"{scope}/")]


def schedule_rate(schedule: Schedule, steps: int, step: tf.Tensor) -> tf.Tensor:
    """Return the share of the first learning rate, float32[] in [0, 1], that a step of so many has."""
    done = tf.cast(step, tf.float32)
    falling = tf.maximum(done - schedule.warmup, 0)
    if schedule.kind == CONSTANT:
        share = tf.ones([])
    elif schedule.kind == EXPONENTIAL:
        share = tf.pow(schedule.decay, falling / schedule.decay_steps)
    else:
        fallen = tf.minimum(falling / max(steps - schedule.warmup, 1), 1)
        share = 0.5 * (1 + tf.cos(3.141592653589793 * fallen))
    return share * tf.minimum((done + 1) / schedule.warmup, 1) if schedule.warmup else share


def weigh_examples(
    logits: tf.Tensor, label: tf.Tensor, smoothing: float, class_weights: Sequence[float] | None
) -> tf.Tensor:
    """Return the mean cross entropy float32[] with smoothed labels (Szegedy et al. 2016), each weighed by its class."""
    each = v1.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
    if smoothing:
        uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
        each = (1 - smoothing) * each + smoothing * uniform
    if class_weights is not None:
        each *= tf.gather(tf.constant(class_weights, tf.float32), label)
    return tf.reduce_mean(each)


def make_optimizer(optimisation: Optimisation, rate: tf.Tensor) -> tf.compat.v1.train.Optimizer:
    """Return the optimiser; AdamW (Loshchilov and Hutter 2019) is Adam here, its decay is applied by the caller."""
    makers: dict[str, Callable[[], tf.compat.v1.train.Optimizer]] = {
        SGD: lambda: v1.train.GradientDescentOptimizer(rate),
        MOMENTUM: lambda: v1.train.MomentumOptimizer(rate, optimisation.momentum),
        ADAM: lambda: v1.train.AdamOptimizer(rate),
        ADAMW: lambda: v1.train.AdamOptimizer(rate),
    }
    return makers[optimisation.optimizer]()
