"""The linear head's convex optimum by L-BFGS over the whole training set, and the penalty that suits it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

# Weights of the L2 penalty to choose from, the strongest first: each fit starts where the one before ended.
PENALTIES = (0.03, 0.01, 0.003, 0.001, 0.0003)
FOLDS = 3
# Steps of L-BFGS: enough that more change no accuracy measured on Caltech-101, and fewer to compare penalties.
STEPS, STEPS_TO_CHOOSE = 60, 15
# Steps that L-BFGS remembers: scipy's 10 take more time over 400,000 weights than they save.
CORRECTIONS = 5
# What a basis of the examples' span may lack in length, as a share of their mean square: float32 needs some.
RIDGE = 1e-5


class Linear(NamedTuple):
    """Weights float32[D, C] and biases float32[C] of a linear head."""

    weights: np.ndarray
    biases: np.ndarray


class Objective(NamedTuple):
    """What is minimised: the mean of the examples' weighted cross entropies plus l2 / 2 times the squared weights."""

    values: np.ndarray  # float32[N, D], scaled as the head scales bottlenecks
    targets: np.ndarray  # float32[N, C], rows sum to 1
    importance: np.ndarray  # float32[N]


def make_objective(
    values: np.ndarray, labels: np.ndarray, classes: int, smoothing: float, class_weights: Sequence[float] | None
) -> Objective:
    """Return the objective of the head's training for float32[N, D] and int64[N]."""
    targets = np.full((len(labels), classes), smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    importance = np.ones(len(labels)) if class_weights is None else np.asarray(class_weights)[labels]
    return Objective(values, targets, importance.astype(np.float32))


def fit_linear(objective: Objective, l2: float, steps: int = STEPS) -> Linear:
    """Return the minimum of an objective with a penalty above 0, from zeros, in at most so many steps of L-BFGS."""
    (inside,), basis = enter_span(objective)
    weights, biases = minimise(inside, l2, None, steps)
    return Linear(basis @ weights if basis is not None else weights, biases)


def enter_span(objective: Objective, *others: Objective) -> tuple[list[Objective], np.ndarray | None]:
    """Return objectives in coordinates of what the first one's values span, and its basis float32[D, N], if N < D.

    The basis is orthonormal. The penalised optimum lies in that span, where fewer weights give it.
    """
    count, dim = objective.values.shape
    if count >= dim:
        return [objective, *others], None
    # Cholesky's factor of the Gram matrix takes a fifth of a QR's time; the ridge lets examples be copies of others.
    gram = objective.values @ objective.values.T
    gram[np.diag_indices(count)] += np.float32(RIDGE * np.trace(gram) / count)
    basis = solve_triangular(cholesky(gram, lower=True), objective.values, lower=True).T
    return [part._replace(values=part.values @ basis) for part in (objective, *others)], basis


def minimise(objective: Objective, l2: float, start: Linear | None, steps: int) -> Linear:
    """Return the minimum of an objective, from zeros or another solution, in at most so many steps of L-BFGS."""
    values, targets, importance = objective
    count, dim = values.shape
    classes = targets.shape[1]
    share = (importance / count)[:, None]

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.astype(np.float32).reshape(dim + 1, classes)
        logits = values @ parameters[:-1] + parameters[-1]
        # In place: over many classes each of these arrays is larger than the values.
        logits -= logits.max(1, keepdims=True)
        scores = np.einsum("nc,nc->n", logits, targets)[:, None]
        exponentials = np.exp(logits, out=logits)
        sums = exponentials.sum(1, keepdims=True)
        loss = float(((np.log(sums) - scores) * share).sum(dtype=np.float64))
        residuals = np.divide(exponentials, sums, out=exponentials)
        residuals -= targets
        residuals *= share
        gradient = np.vstack([values.T @ residuals + l2 * parameters[:-1], residuals.sum(0)])
        penalty = l2 / 2 * float(np.square(parameters[:-1]).sum(dtype=np.float64))
        return loss + penalty, gradient.ravel().astype(np.float64)

    first = np.vstack(start) if start else np.zeros((dim + 1, classes))
    options = {"maxiter": steps, "maxcor": CORRECTIONS}
    found = minimize(evaluate, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    parameters = found.x.astype(np.float32).reshape(dim + 1, classes)
    return Linear(parameters[:-1], parameters[-1])


def choose_penalty(pairs: Sequence[tuple[Objective, Objective]]) -> float:
    """Return the penalty with which the second of each pair, judged by what fits the first, fares best over all pairs.

    Best is the highest accuracy; of equal ones the stronger penalty.
    """
    # Folds side by side on a core each: over one fold's small matrices the cores would mostly wait for one another.
    with threadpool_limits(1 if len(pairs) > 1 else None, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        correct = sum(pool.map(weigh_hits, *zip(*pairs, strict=True)))
    return PENALTIES[int(np.argmax(correct))]


def weigh_hits(fitted: Objective, judged: Objective) -> np.ndarray:
    """Return float64[P]: the importance of judged examples that are right with each of the PENALTIES on others."""
    (fitted, judged), _ = enter_span(fitted, judged)
    actual, solution, weights = judged.targets.argmax(1), None, []
    for l2 in PENALTIES:
        solution = minimise(fitted, l2, solution, STEPS_TO_CHOOSE)
        hits = (judged.values @ solution.weights + solution.biases).argmax(1) == actual
        weights.append((hits * judged.importance).sum(dtype=np.float64))
    return np.array(weights)


def split_folds(labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows of all but one part, rows of that part) of int64[N] labels for each of FOLDS parts.

    Every class is spread over all parts.
    """
    order = np.argsort(labels, kind="stable")
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    for number in range(FOLDS):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)
