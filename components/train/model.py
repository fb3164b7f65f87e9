"""The head's graph: logits over bottlenecks, training, evaluation and prediction, as the Estimator's model_fn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from components.features import ABSTAINED, AUTO, BOTTLENECK, INDEX, LABEL_NAME, PROBABILITIES, SERVING_SIGNATURE
from components.train.optimization import Optimization, add_train_step
from components.train.settings import SIGMOID, Architecture, HiddenLayer

v1 = tf.compat.v1

TRAINING_SCOPE = "final_training_ops"
EVALUATION_SCOPE = "evaluation"

# Kinds of scaling: values of the config key normalize, which may also be none.
L2, STANDARDIZE, WHITEN = "l2", "standardize", "whiten"


@dataclass(frozen=True)
class HeadParams:
    """Parameters of the model_fn; training needs optimization, prediction labels_file and optionally a threshold."""

    classes: int
    labels_file: str
    architecture: Architecture
    optimization: Optimization | None = None
    abstention_threshold: float | None = None


def add_final_training_ops(
    bottleneck: tf.Tensor, label: tf.Tensor | None, classes: int, architecture: Architecture, training: bool
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Add the head over bottleneck float32[N, D]; return (logits float32[N, C], cross entropy, None without label).

    A sigmoid output of z is the softmax of (0, z), so the logits of two classes are like any others.
    """
    with v1.variable_scope(TRAINING_SCOPE):
        values = normalize_bottleneck(bottleneck, architecture.normalize)
        for number, layer in enumerate(architecture.hidden):
            values = add_hidden_layer(values, layer, f"hidden{number}", training)
        # Without hidden layers the loss is convex, so zeros are a good start: they give the uniform prediction.
        start = v1.glorot_uniform_initializer() if architecture.hidden else v1.zeros_initializer()
        outputs = 1 if architecture.output == SIGMOID else classes
        weights = v1.get_variable("weights", [values.shape[-1], outputs], initializer=start)
        biases = v1.get_variable("biases", [outputs], initializer=v1.zeros_initializer())
        logits = tf.nn.bias_add(tf.matmul(values, weights), biases)
        if architecture.output == SIGMOID:
            logits = tf.concat([tf.zeros_like(logits), logits], -1)
        logits = tf.identity(logits, "logits")
        add_variable_summaries(weights=weights, biases=biases, pre_activations=logits)
        if label is None:
            return logits, None
        cross_entropy = tf.reduce_mean(
            v1.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits), name="cross_entropy"
        )
        v1.summary.scalar("batch/cross_entropy", cross_entropy)
        return logits, cross_entropy


def normalize_bottleneck(bottleneck: tf.Tensor, kind: str) -> tf.Tensor:
    """Scale bottlenecks float32[N, D] by one of the kinds of scaling; l2 and whiten give them length sqrt(D) first.

    At one length a single learning rate and a single L2 weight suit any backbone. The variables, which normalization.py
    measures on the training split, are set before training begins and kept in the checkpoint.
    """
    assert kind != AUTO  # which resolve_architecture replaces
    dim = bottleneck.shape[-1]
    if kind in (L2, WHITEN):
        bottleneck = tf.nn.l2_normalize(bottleneck, axis=-1) * dim**0.5
    if kind == WHITEN:
        whitening = v1.get_variable("whitening", [dim, dim], initializer=v1.zeros_initializer(), trainable=False)
        return tf.matmul(bottleneck, whitening)
    if kind == STANDARDIZE:
        mean = v1.get_variable("mean", [dim], initializer=v1.zeros_initializer(), trainable=False)
        scale = v1.get_variable("scale", [dim], initializer=v1.ones_initializer(), trainable=False)
        return (bottleneck - mean) * scale
    return bottleneck


def add_hidden_layer(values: tf.Tensor, layer: HiddenLayer, name: str, training: bool) -> tf.Tensor:
    """Map float32[N, D] to float32[N, units] by a dense layer with activation, and dropout in training."""
    with v1.variable_scope(name):
        shape = [values.shape[-1], layer.units]
        weights = v1.get_variable("weights", shape, initializer=v1.glorot_uniform_initializer())
        biases = v1.get_variable("biases", [layer.units], initializer=v1.zeros_initializer())
        before = tf.nn.bias_add(tf.matmul(values, weights), biases, name="pre_activation")
        after = tf.keras.activations.get(layer.activation)(before)
        add_variable_summaries(weights=weights, biases=biases, pre_activations=before)
        if layer.l2:
            v1.losses.add_loss(layer.l2 * tf.nn.l2_loss(weights), v1.GraphKeys.REGULARIZATION_LOSSES)
        return tf.nn.dropout(after, layer.dropout) if training and layer.dropout else after


def add_variable_summaries(**tensors: tf.Tensor) -> None:
    """Attach mean, standard deviation, minimum, maximum and a histogram of each tensor for TensorBoard."""
    for name, values in tensors.items():
        with tf.name_scope(f"{name}_summaries"):
            # A tag is the name of an operation: next to another of that name it would be mean_1.
            v1.summary.scalar("mean", tf.reduce_mean(values, name="average"))
            v1.summary.scalar("stddev", tf.math.reduce_std(values))
            v1.summary.scalar("max", tf.reduce_max(values, name="largest"))
            v1.summary.scalar("min", tf.reduce_min(values, name="smallest"))
            v1.summary.histogram("histogram", values)


def add_evaluation_step(logits: tf.Tensor, label: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Map logits float32[N, C] and int64[N] to streaming metrics over all batches: accuracy and cross_entropy."""
    with tf.name_scope(EVALUATION_SCOPE):
        index = tf.argmax(logits, -1)
        batch_accuracy = tf.reduce_mean(tf.cast(tf.equal(index, label), tf.float32), name="batch_accuracy")
        v1.summary.scalar("batch/accuracy", batch_accuracy)
        each = v1.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
        # The metrics count examples, not batches: the last batch may be short.
        return {
            "accuracy": v1.metrics.accuracy(label, index, name="accuracy"),
            "cross_entropy": v1.metrics.mean(each, name="cross_entropy"),
        }


def predict_classes(logits: tf.Tensor, labels_file: str, threshold: float | None) -> dict[str, tf.Tensor]:
    """Return index int64[N], probabilities float32[N, C] and label string[N], names looked up in the labels asset.

    With a threshold also abstained bool[N]: whether the largest probability is below it.
    """
    index = tf.argmax(logits, -1)
    initializer = tf.lookup.TextFileInitializer(
        labels_file, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
    )
    names = tf.lookup.StaticHashTable(initializer, "")
    probabilities = tf.nn.softmax(logits, name=PROBABILITIES)
    predictions = {INDEX: tf.identity(index, INDEX), LABEL_NAME: names.lookup(index), PROBABILITIES: probabilities}
    if threshold is not None:
        predictions[ABSTAINED] = tf.less(tf.reduce_max(probabilities, -1), threshold, ABSTAINED)
    return predictions


def model_fn(
    features: dict[str, tf.Tensor], labels: tf.Tensor | None, mode: str, params: dict[str, Any]
) -> tf.estimator.EstimatorSpec:
    """Build the head for one mode of the Estimator; params holds HeadParams under 'head'."""
    head: HeadParams = params["head"]
    training = mode == tf.estimator.ModeKeys.TRAIN
    logits, cross_entropy = add_final_training_ops(
        features[BOTTLENECK], labels, head.classes, head.architecture, training
    )
    if cross_entropy is None:
        predictions = predict_classes(logits, head.labels_file, head.abstention_threshold)
        served = {SERVING_SIGNATURE: tf.estimator.export.PredictOutput(predictions)}
        return tf.estimator.EstimatorSpec(mode, predictions=predictions, export_outputs=served)
    metrics = add_evaluation_step(logits, labels)
    if mode == tf.estimator.ModeKeys.EVAL:
        return tf.estimator.EstimatorSpec(mode, loss=cross_entropy, eval_metric_ops=metrics)
    assert head.optimization
    with v1.variable_scope(TRAINING_SCOPE, reuse=True):
        weights = v1.get_variable("weights")
    loss, train_step = add_train_step(logits, labels, weights, head.optimization)
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_step)
