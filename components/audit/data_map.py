"""A map of the data: bottlenecks projected to two dimensions, so that similar images are close to each other."""

from __future__ import annotations

import numpy as np

# More points hide each other on a screen, and the time grows faster than their number: 5 s for these on two cores.
MOST_POINTS = 1500
# t-SNE on the principal components, as its authors do for wide inputs: van der Maaten and Hinton, "Visualizing Data
# using t-SNE", JMLR 9 (2008), section 4.2, with 30 of them.
COMPONENTS = 30
PERPLEXITY = 30.0


def sample_rows(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Return at most `most` of `count` rows as int64, drawn with a fixed seed, in ascending order."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def project_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Return t-SNE coordinates float32[N, 2] of float32[N, D]; few or equal rows are allowed."""
    # Imported on use: a run that reuses its audit does not need it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(embeddings)
    if count < 3:
        return np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32)
    with np.errstate(invalid="ignore"):  # equal rows have no variance to explain
        components = PCA(min(COMPONENTS, *embeddings.shape), random_state=0).fit_transform(embeddings)
    # The perplexity must be less than the number of points; a third of them is the usual limit.
    tsne = TSNE(perplexity=min(PERPLEXITY, (count - 1) / 3), init="random", random_state=0, n_jobs=-1)
    points: np.ndarray = tsne.fit_transform(components)
    return points.astype(np.float32)
