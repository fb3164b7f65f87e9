"""A map of the data: bottlenecks laid out in two dimensions so that images that the network sees as alike lie close."""

from __future__ import annotations

import numpy as np

# More points hide each other on a screen, and the time grows faster than their number: 5 s for these on two cores.
MOST_POINTS = 1500
# t-SNE on the principal components, as its authors do for wide inputs: van der Maaten and Hinton, "Visualizing Data
# using t-SNE", JMLR 9 (2008), section 4.2, with 30 of them.
COMPONENTS = 30
PERPLEXITY = 30.0


def sample_rows(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Return at most so many of count rows, drawn at random once and for all, in ascending order."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def lay_out(directions: np.ndarray) -> np.ndarray:
    """Return float32[N, 2], the places of float32[N, D], by t-SNE; few or equal rows are laid out as well."""
    # Loaded on use: a run with nothing to do needs none of it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(directions)
    if count < 3:
        return np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):  # equal rows have no variance to explain
        components = PCA(min(COMPONENTS, *directions.shape), random_state=0).fit_transform(directions)
    # A perplexity has to be less than the number of points; a third of them is the usual limit.
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    places: np.ndarray = TSNE(perplexity=perplexity, init="random", random_state=0, n_jobs=-1).fit_transform(components)
    return places.astype(np.float32)
