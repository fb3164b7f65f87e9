"""Tests on real clusters: `make engines` fetches them, `make test-engines` runs these tests, `make test` does not."""

import os

import pytest
from clusters import HOME, Flink, Spark

# One test at a time, and only where asked for: a cluster takes 6 GB and half a minute to start.
collect_ignore_glob = [] if os.environ.get("TOPGRAFT_ENGINES") else ["test_*.py"]
