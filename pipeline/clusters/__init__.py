"""Clusters of Flink and Spark: their settings, checks, job servers and workers."""
