"""The optimum of the linear head by L-BFGS over the whole training set, and the choice of its L2 penalty."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import logsumexp  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

# The strongest first: each fit starts at the solution of the one before.
L2_CANDIDATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
FOLDS = 3
# Steps of L-BFGS: more change no accuracy on Caltech-101. The comparison of penalties needs fewer.
LBFGS_STEPS, SEARCH_STEPS = 40, 15
# Steps that L-BFGS remembers: scipy's 10 take more time over 400,000 weights than they save.
CORRECTIONS = 5
# Added to the diagonal of the Gram matrix, as a fraction of its mean: float32 needs some.
RIDGE = 1e-5


class Linear(NamedTuple):
    """Weights float32[D, C] and biases float32[C] of a linear head."""

    weights: np.ndarray
    biases: np.ndarray


class Objective(NamedTuple):
    """Data of the loss: the mean of the weighted cross entropies plus l2 / 2 times the squared weights."""

    values: np.ndarray  # float32[N, D], scaled as the head scales bottlenecks
    targets: np.ndarray  # float32[N, C], rows sum to 1
    sample_weights: np.ndarray  # float32[N]


def make_objective(
    values: np.ndarray, labels: np.ndarray, classes: int, smoothing: float, class_weights: Sequence[float] | None
) -> Objective:
    """Return the objective of the head's training for float32[N, D] and int64[N]."""
    targets = np.full((len(labels), classes), smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    sample_weights = np.ones(len(labels)) if class_weights is None else np.asarray(class_weights)[labels]
    return Objective(values, targets, sample_weights.astype(np.float32))


def fit_linear(objective: Objective, l2: float, steps: int = LBFGS_STEPS) -> Linear:
    """Return the minimum of an objective with l2 > 0, from zeros, in at most `steps` steps of L-BFGS."""
    (inside,), basis = enter_span(objective)
    weights, biases = run_lbfgs(inside, l2, None, steps)
    return Linear(basis @ weights if basis is not None else weights, biases)


def enter_span(objective: Objective, *others: Objective) -> tuple[list[Objective], np.ndarray | None]:
    """Return objectives in the span of the first one's values and its orthonormal basis float32[D, N] where N < D.

    The penalized optimum is in that span, which has fewer weights.
    """
    count, dim = objective.values.shape
    if count >= dim:
        return [objective, *others], None
    # Cholesky's factor of the Gram matrix takes a fifth of a QR's time; the ridge allows equal examples.
    gram = objective.values @ objective.values.T
    gram[np.diag_indices(count)] += np.float32(RIDGE * np.trace(gram) / count)
    basis = solve_triangular(cholesky(gram, lower=True), objective.values, lower=True).T
    return [part._replace(values=part.values @ basis) for part in (objective, *others)], basis


def run_lbfgs(objective: Objective, l2: float, start: Linear | None, steps: int) -> Linear:
    """Return the minimum of an objective, from zeros or another solution, in at most `steps` steps of L-BFGS."""
    values, targets, sample_weights = objective
    shape = values.shape[1] + 1, targets.shape[1]
    weights = (sample_weights / len(values))[:, None]

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.astype(np.float32).reshape(shape)
        logits = values @ parameters[:-1] + parameters[-1]
        # In place: over many classes each of these arrays is larger than the values.
        logits -= logits.max(1, keepdims=True)
        scores = np.einsum("nc,nc->n", logits, targets)[:, None]
        exponentials = np.exp(logits, out=logits)
        sums = exponentials.sum(1, keepdims=True)
        loss = float(((np.log(sums) - scores) * weights).sum(dtype=np.float64))
        residuals = np.divide(exponentials, sums, out=exponentials)
        residuals -= targets
        residuals *= weights
        gradient = np.vstack([values.T @ residuals + l2 * parameters[:-1], residuals.sum(0)])
        penalty = l2 / 2 * float(np.square(parameters[:-1]).sum(dtype=np.float64))
        return loss + penalty, gradient.ravel().astype(np.float64)

    first = np.vstack(start) if start else np.zeros(shape)
    options = {"maxiter": steps, "maxcor": CORRECTIONS}
    found = minimize(evaluate, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    parameters = found.x.astype(np.float32).reshape(shape)
    return Linear(parameters[:-1], parameters[-1])


def choose_penalty(pairs: Sequence[tuple[Objective, Objective]]) -> float:
    """Return a candidate penalty, chosen over all pairs of (objective to fit, held-out data).

    Of the candidates whose accuracy is within one standard error of the highest, it has the lowest cross entropy: with
    few held-out images, differences of accuracy are chance.
    """
    # One fold per core: several cores over the small matrices of one fold would mostly wait for each other.
    with threadpool_limits(1 if len(pairs) > 1 else None, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = pool.map(score_penalties, *zip(*pairs, strict=True))
    hits, losses = np.concatenate([*scores], -1)
    behind = hits[hits.mean(1).argmax()] - hits
    chance = behind.std(1) / behind.shape[1] ** 0.5
    return L2_CANDIDATES[int(np.where(behind.mean(1) <= chance, losses.mean(1), np.inf).argmin())]


def score_penalties(fitted: Objective, held_out: Objective) -> np.ndarray:
    """Return float64[2, P, N]: weighted hits and losses of N held-out examples for a fit with each of L2_CANDIDATES."""
    (fitted, held_out), _ = enter_span(fitted, held_out)
    actual, solution, scores = held_out.targets.argmax(1), None, []
    for l2 in L2_CANDIDATES:
        solution = run_lbfgs(fitted, l2, solution, SEARCH_STEPS)
        logits = (held_out.values @ solution.weights + solution.biases).astype(np.float64)
        losses = logsumexp(logits, 1) - np.einsum("nc,nc->n", logits, held_out.targets)
        scores.append([logits.argmax(1) == actual, losses])
    return np.swapaxes(scores, 0, 1) * held_out.sample_weights


def split_folds(labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows outside a fold, rows in it) of int64[N] labels for each of FOLDS stratified folds."""
    fold = np.empty(len(labels), np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    for number in range(FOLDS):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)
