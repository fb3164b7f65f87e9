"""Minimization of the head's loss: optimizers, learning rate schedules, penalties and weights of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from components.train.settings import ADAMW, Schedule

v1 = tf.compat.v1

SGD, MOMENTUM, ADAM = "sgd", "momentum", "adam"
CONSTANT, EXPONENTIAL, COSINE = "constant", "exponential", "cosine"


@dataclass(frozen=True)
class Optimization:
    """Settings of one training; l2 is the weight of the output layer's penalty, class_weights that of each class.

    backbone_rate is the first learning rate of trained variables outside the head; loss_scale keeps the gradients of
    half precision above its smallest number.
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
    logits: tf.Tensor, label: tf.Tensor, output_weights: tf.Variable, optimization: Optimization
) -> tuple[tf.Tensor, tf.Operation]:
    """Map logits float32[N, C] and int64[N] to (loss with its penalties, the operation of one training step)."""
    with tf.name_scope("train"):
        step = v1.train.get_or_create_global_step()
        factor = schedule_rate(optimization.schedule, optimization.steps, step)
        v1.summary.scalar("learning_rate", optimization.learning_rate * factor)
        loss = weigh_examples(logits, label, optimization.label_smoothing, optimization.class_weights)
        penalties = v1.losses.get_regularization_losses()
        if optimization.optimizer != ADAMW:
            penalties = [*penalties, optimization.l2 * tf.nn.l2_loss(output_weights)]
        loss = tf.add_n([loss, *penalties])
        v1.summary.scalar("loss", loss)
        scope, variables = output_weights.name.split("/")[0], v1.trainable_variables()
        head = [variable for variable in variables if variable.name.startswith(f"{scope}/")]
        backbone = [variable for variable in variables if not variable.name.startswith(f"{scope}/")]
        scaled = tf.gradients(loss * optimization.loss_scale, [*head, *backbone])
        gradients = [gradient / optimization.loss_scale for gradient in scaled]
        updates = [
            make_optimizer(optimization, rate * factor).apply_gradients(zip(part, trained, strict=True), name=name)
            for name, rate, part, trained in (
                ("head", optimization.learning_rate, gradients[: len(head)], head),
                ("backbone", optimization.backbone_rate, gradients[len(head) :], backbone),
            )
            if trained
        ]
        if optimization.optimizer == ADAMW:
            with tf.control_dependencies(updates):
                decay = optimization.learning_rate * factor * optimization.l2
                updates = [*updates, output_weights.assign_sub(decay * output_weights)]
        with tf.control_dependencies(updates):
            return loss, step.assign_add(1).op


def schedule_rate(schedule: Schedule, steps: int, step: tf.Tensor) -> tf.Tensor:
    """Return the factor of the first learning rate at a step, float32[] in [0, 1]."""
    done = tf.cast(step, tf.float32)
    falling = tf.maximum(done - schedule.warmup, 0)
    if schedule.kind == CONSTANT:
        factor = tf.ones([])
    elif schedule.kind == EXPONENTIAL:
        factor = tf.pow(schedule.decay, falling / schedule.decay_steps)
    else:
        factor = 0.5 * (1 + tf.cos(np.pi * tf.minimum(falling / max(steps - schedule.warmup, 1), 1)))
    return factor * tf.minimum((done + 1) / schedule.warmup, 1) if schedule.warmup else factor


def weigh_examples(
    logits: tf.Tensor, label: tf.Tensor, smoothing: float, class_weights: Sequence[float] | None
) -> tf.Tensor:
    """Return the mean cross entropy float32[], with smoothed labels (Szegedy et al. 2016), weighted by class."""
    each = v1.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
    if smoothing:
        uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
        each = (1 - smoothing) * each + smoothing * uniform
    if class_weights is not None:
        each *= tf.gather(tf.constant(class_weights, tf.float32), label)
    return tf.reduce_mean(each)


def make_optimizer(optimization: Optimization, rate: tf.Tensor) -> tf.compat.v1.train.Optimizer:
    """Return the optimizer; AdamW (Loshchilov and Hutter 2019) is Adam here, its decay is applied by the caller."""
    if optimization.optimizer == SGD:
        return v1.train.GradientDescentOptimizer(rate)
    if optimization.optimizer == MOMENTUM:
        return v1.train.MomentumOptimizer(rate, optimization.momentum)
    return v1.train.AdamOptimizer(rate)
