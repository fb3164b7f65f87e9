"""Stage train: the head on bottlenecks, by a custom Estimator."""
