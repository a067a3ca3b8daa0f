# Two commands do everything on a machine with Python 3.11-3.13: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs
WORKERS ?= 2

.PHONY: setup demo test check docs lint browser bench gpu clean

setup: .venv/ready

# torch first, from the CPU wheel where one is at hand; the range in pyproject.toml keeps it.
.venv/ready: pyproject.toml
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info < (3, 14), 'Python 3.11-3.13 needed, found ' + sys.version"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "torch==2.13.0" || $(BIN)/python -m pip install --quiet "torch>=2.9,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch .venv/ready

demo: setup
	$(BIN)/modeseek run demo --workers $(WORKERS) --out $(OUT)
	$(BIN)/modeseek image "a red cube on a blue cylinder, grey background" --seeds 2 --out $(OUT)/demo/image

# The tests proper: under seven minutes on two cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not browser and not gpu"

# Everything else: lint, types, slow tests, pages in a browser, documentation, benchmarks, examples, notebooks, the wheel.
check: setup lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal -m "(slow or browser) and not gpu"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .venv/site
	$(BIN)/python benchmarks/run.py --quick
	for example in examples/*.py; do $(BIN)/python $$example || exit 1; done
	$(BIN)/python -m build --wheel --outdir .venv/dist . > /dev/null && $(BIN)/python tools/check_wheel.py .venv/dist

lint: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

# The tests of pages drive a headless Chromium; this installs Debian's where there is none.
browser:
	.ci/browser

docs: setup
	$(BIN)/mkdocs serve

bench: setup
	$(BIN)/python benchmarks/run.py

gpu: setup
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf .venv build dist site
