# make demo: install and run the built-in example.   make test: lint and all tests.   make quick: lint and the tests
# without Beam, TFDV and TFMA.   make coverage: all tests, and which lines they run.   make bench DATA=folder: all
# benchmarks.   make engines: fetches Flink, Spark and Beam's job servers; make test-engines: tests on clusters of them.
# Each sets up .venv first.
.PHONY: demo test quick lint coverage bench engines test-engines

# Where uv can be had it installs the 270 packages of the lock in seconds; plain pip needs minutes and does the same.
# Compiled now, as pip does: else each run compiles 20,000 modules where PYTHONDONTWRITEBYTECODE is set, as in containers.
UV := uv==0.13.9

demo: .venv/installed
	.venv/bin/topgraft run configs/digits.yaml

# A worker process that dies ends the tests: with another in its place xdist 3.8 waits for ever.
test: lint
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Lint, and the tests without Beam, TFDV and TFMA.
quick: lint
	.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not heavy"

# Without what runs in other processes, such as Beam's workers: the figure is too low rather than too high.
coverage: .venv/installed
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --cov=pipeline --cov=components --cov-report=term

# Java 17 and Maven must be there; about a minute, 1.2 GB.
engines: .venv/installed
	PYTHON=.venv/bin/python tests/engines/fetch.sh .engines

# As root: each host of a cluster has a network of its own. One cluster at a time, which ends with the tests. WHICH takes
# pytest's options, such as --last-failed.
test-engines: .venv/installed
	TOPGRAFT_ENGINES=.engines .venv/bin/python -m pytest tests/engines --durations=0 $(WHICH)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# DATA is a folder of class folders, such as Caltech-101; an hour or two on two cores.
bench: .venv/installed
	@test -d "$(DATA)" || { echo "make bench needs images: make bench DATA=data/caltech101" >&2; exit 2; }
	.venv/bin/python benchmarks/cold_run.py configs/caltech101.yaml data.path=$(DATA)
	.venv/bin/python benchmarks/ingest.py $(DATA)
	.venv/bin/python benchmarks/extraction.py $(DATA)
	.venv/bin/python benchmarks/extraction.py $(DATA) --backbone InceptionV3 --images 500
	.venv/bin/python benchmarks/growth.py $(DATA)
	.venv/bin/python benchmarks/plan_check.py configs/caltech101.yaml $(DATA)
	.venv/bin/python benchmarks/warm_runs.py configs/caltech101.yaml $(DATA)
	.venv/bin/topgraft run configs/caltech101.yaml data.path=$(DATA) output_dir=runs/bench || test $$? = 3
	.venv/bin/python benchmarks/training.py runs/bench --images 30607
	.venv/bin/python benchmarks/label_noise.py runs/bench
	.venv/bin/python benchmarks/explain_check.py runs/bench
	.venv/bin/python benchmarks/large_report.py
	.venv/bin/python benchmarks/odd_data.py
	.venv/bin/python benchmarks/faults.py configs/digits.yaml
	.venv/bin/python benchmarks/fuzzing.py --inputs 10000
	.venv/bin/python benchmarks/serving.py runs/bench/export $(DATA)

.venv/installed: setup.py constraints.txt
	@python=; for candidate in python3.11 python3 python; do \
	  if $$candidate -c 'import sys, venv, ensurepip; sys.exit(not sys.version_info[:2] == (3, 11))' 2>/dev/null; \
	  then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Found no Python 3.11 with venv: install it (python3.11 and python3.11-venv on Debian and Ubuntu) and run make again." >&2; exit 2; fi; \
	$$python -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check '$(UV)' && \
	  .venv/bin/uv pip install -q --compile-bytecode --python .venv/bin/python --no-deps -r constraints.txt || \
	  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -r constraints.txt
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch .venv/installed
