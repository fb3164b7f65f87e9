"""The head's graph: logits over bottlenecks, training, evaluation and prediction, as the Estimator's model_fn."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from components.features import BOTTLENECK, INDEX, LABEL_NAME, PROBABILITIES, SERVING_SIGNATURE

v1 = tf.compat.v1

TRAINING_SCOPE = "final_training_ops"
EVALUATION_SCOPE = "evaluation"


@dataclass(frozen=True)
class Optimisation:
    """How the head is trained: steps in all, first learning rate, weight of the L2 term."""

    steps: int
    learning_rate: float
    l2: float


def add_final_training_ops(
    bottleneck: tf.Tensor, label: tf.Tensor | None, classes: int
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Add the head over bottleneck float32[N, D]; return (logits float32[N, C], mean loss, None without labels).

    Bottlenecks are L2-normalised and scaled by sqrt(D), so that one learning rate and one L2 weight suit any backbone.
    """
    dim = bottleneck.shape[-1]
    with v1.variable_scope(TRAINING_SCOPE):
        scaled = tf.nn.l2_normalize(bottleneck, axis=-1) * dim**0.5
        # Zero weights: the loss is convex, so nothing needs breaking symmetry, and the start is the uniform prediction.
        weights = v1.get_variable("weights", [dim, classes], initializer=v1.zeros_initializer())
        biases = v1.get_variable("biases", [classes], initializer=v1.zeros_initializer())
        logits = tf.nn.bias_add(tf.matmul(scaled, weights), biases, name="logits")
        for name, values in (("weights", weights), ("biases", biases), ("pre_activations", logits)):
            add_variable_summaries(name, values)
        if label is None:
            return logits, None
        cross_entropy = tf.reduce_mean(
            v1.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits), name="cross_entropy"
        )
        v1.summary.scalar("cross_entropy", cross_entropy)
        return logits, cross_entropy


def add_variable_summaries(name: str, values: tf.Tensor) -> None:
    """Attach mean, deviation, extremes and a histogram of a tensor for TensorBoard."""
    with tf.name_scope(f"{name}_summaries"):
        mean = tf.reduce_mean(values)
        v1.summary.scalar("mean", mean)
        v1.summary.scalar("stddev", tf.sqrt(tf.reduce_mean(tf.square(values - mean))))
        v1.summary.scalar("max", tf.reduce_max(values))
        v1.summary.scalar("min", tf.reduce_min(values))
        v1.summary.histogram("histogram", values)


def add_train_step(cross_entropy: tf.Tensor, optimisation: Optimisation) -> tuple[tf.Tensor, tf.Operation]:
    """Return (loss with its L2 term, the operation that lowers it): Adam under a cosine schedule down to zero."""
    with tf.name_scope("train"):
        step = v1.train.get_or_create_global_step()
        rate = v1.train.cosine_decay(optimisation.learning_rate, step, optimisation.steps)
        v1.summary.scalar("learning_rate", rate)
        penalty = [tf.nn.l2_loss(variable) for variable in v1.trainable_variables() if "biases" not in variable.name]
        loss = tf.add(cross_entropy, optimisation.l2 * tf.add_n(penalty), name="loss")
        return loss, v1.train.AdamOptimizer(rate).minimize(loss, step)


def add_evaluation_step(logits: tf.Tensor, label: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Return streaming metrics over all batches: accuracy and cross_entropy."""
    with tf.name_scope(EVALUATION_SCOPE):
        index = tf.argmax(logits, -1)
        batch_accuracy = tf.reduce_mean(tf.cast(tf.equal(index, label), tf.float32), name="batch_accuracy")
        v1.summary.scalar("batch_accuracy", batch_accuracy)
        each = v1.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
        # The metrics keep their counts per example, so a short last batch weighs what it should.
        return {
            "accuracy": v1.metrics.accuracy(label, index, name="accuracy"),
            "cross_entropy": v1.metrics.mean(each, name="cross_entropy"),
        }


def predict_classes(logits: tf.Tensor, labels_file: str) -> dict[str, tf.Tensor]:
    """Return index int64[N], probabilities float32[N, C] and label string[N], names looked up in the labels asset."""
    index = tf.argmax(logits, -1)
    initializer = tf.lookup.TextFileInitializer(
        labels_file, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
    )
    names = tf.lookup.StaticHashTable(initializer, "")
    return {
        INDEX: tf.identity(index, INDEX),
        LABEL_NAME: names.lookup(index),
        PROBABILITIES: tf.nn.softmax(logits, name=PROBABILITIES),
    }


def model_fn(
    features: dict[str, tf.Tensor], labels: tf.Tensor | None, mode: str, params: dict
) -> tf.estimator.EstimatorSpec:
    """Build the head for one mode of the Estimator; params are classes, labels_file and, to train, an Optimisation."""
    logits, cross_entropy = add_final_training_ops(features[BOTTLENECK], labels, params["classes"])
    if cross_entropy is None:
        predictions = predict_classes(logits, params["labels_file"])
        return tf.estimator.EstimatorSpec(
            mode,
            predictions=predictions,
            export_outputs={SERVING_SIGNATURE: tf.estimator.export.PredictOutput(predictions)},
        )
    metrics = add_evaluation_step(logits, labels)
    if mode == tf.estimator.ModeKeys.EVAL:
        return tf.estimator.EstimatorSpec(mode, loss=cross_entropy, eval_metric_ops=metrics)
    loss, train_step = add_train_step(cross_entropy, params["optimisation"])
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_step)
