PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test lint lock bench-preprocess bench-train

env: .venv/done

.venv/done: requirements-dev.lock setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: env
	$(BIN)/latentfaces demo --output runs/demo

test: env
	$(BIN)/python -m pytest

# mypy knows no package_dir: it sees the package through a link of its name
lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	mkdir -p .mypy_cache/path && ln -sfn "$(CURDIR)" .mypy_cache/path/latentfaces
	MYPYPATH=.mypy_cache/path $(BIN)/mypy -p latentfaces.common -p latentfaces.preprocessing \
	    -p latentfaces.components -p latentfaces.pipelines

bench-preprocess: env
	$(BIN)/python benchmarks/preprocess.py

bench-train: env
	$(BIN)/python benchmarks/train.py

# Pins the newest versions that setup.py allows; `requirements.lock` is what the image installs.
lock: env
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --python-version 3.11 setup.py -o requirements.lock
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 --extra dev setup.py \
	    -c requirements.lock -o requirements-dev.lock
