# Two commands do everything: `make train EXP=unit_streets` and `make test`.
PYTHON ?= python3
EXP ?= unit_streets
ARGS ?=
GPUS ?=
NODES ?=
CKPT ?=
JOBS ?= 2
RUN ?=
EVAL ?= streets
CASE ?= tests/parity/unit
PAPER ?= unit
SEEDS ?= 3
BUDGET ?= small
OF ?=
VALUES ?=
IN ?=
OUT ?=
FROM ?=
TO ?=
STYLES ?=
STYLE_FROM ?=
TILE ?=
DEVICE ?=
VQ ?= runs/vq_vae2_streets
PRIORS ?= runs/vq_vae2_prior_streets runs/vq_vae2_bottom_prior_streets
N ?=
TEMPERATURE ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/installed
# Files on which the quick tests have passed: a sum over all that git knows or would take; nothing without git.
PASSED := $(VENV)/passed
FILES := sums=$$(git ls-files -zco --exclude-standard 2>/dev/null | xargs -0r sha1sum 2>/dev/null); \
	test -n "$$sums" && echo "$$sums" | sha1sum | cut -c1-40
CONFIG := experiments/$(EXP).yaml
# Several optimizers walk different parts of the graph, which DDP must be told.
DEVICES := $(if $(GPUS),--trainer.devices $(GPUS)) $(if $(NODES),--trainer.num_nodes $(NODES)) \
	$(if $(GPUS)$(NODES),--trainer.strategy ddp_find_unused_parameters_true)
export NO_ALBUMENTATIONS_UPDATE := 1
# glibc gives blocks of this size back to the kernel at each free; getting them again was a third of an evaluation's time.
export MALLOC_MMAP_THRESHOLD_ := 33554432
export MALLOC_TRIM_THRESHOLD_ := 4000000000
# OpenMP threads that wait spin for so many turns, then sleep. Spinning for longer takes the core from whatever else runs:
# beside one busy process unit_streets came to 0.2 iterations a second instead of 0.9; on a quiet machine it is the same.
export GOMP_SPINCOUNT ?= 5000

.PHONY: help setup known-exp train validate test-ckpt evaluate predict translate codes sample report parity evidence sweep rotation test test-all lint format type features bench clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  EXP=  one of: $(basename $(notdir $(wildcard experiments/*.yaml)))"
	@echo "  CKPT= last (the default) or best of the latest run of EXP that has one, or a file"
	@echo "  ARGS= anything for the command line, e.g. ARGS=\"--trainer.max_steps 100 --model.lr 2e-4\""

setup: $(STAMP) ## build .venv with pinned dependencies; does nothing when up to date

$(STAMP): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Crossfade needs Python 3.11 or newer: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) (several GB, a few minutes the first time) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

known-exp: setup
	@test -f $(CONFIG) || { echo "There is no experiment $(EXP). There are:"; \
		ls experiments/*.yaml | sed -E 's|experiments/(.*)\.yaml|  \1|'; exit 2; }

train: known-exp ## train EXP; GPUS=n NODES=m for more; ARGS="--ckpt_path last" goes on with the latest run
	@$(PY) main.py fit --config $(CONFIG) $(DEVICES) $(ARGS)

validate: known-exp ## measure CKPT= on the validation data of EXP
	@$(PY) main.py validate --config $(CONFIG) --ckpt_path $(or $(CKPT),last) $(DEVICES) $(ARGS)

test-ckpt: known-exp ## measure CKPT= on the test data of EXP
	@$(PY) main.py test --config $(CONFIG) --ckpt_path $(or $(CKPT),last) $(DEVICES) $(ARGS)

evaluate: known-exp ## the evaluation card of CKPT= of EXP; EVAL=folders for photographs
	@$(PY) main.py test --config $(CONFIG) --config experiments/_evaluation/$(EVAL).yaml --ckpt_path $(or $(CKPT),last) \
		$(DEVICES) $(ARGS)

predict: known-exp ## translate the held-out images of EXP with CKPT= and write the pictures
	@$(PY) main.py predict --config $(CONFIG) --ckpt_path $(or $(CKPT),last) --return_predictions false $(ARGS)

translate: setup ## translate pictures of any size: IN=folder OUT=folder TO=night [FROM=day] [STYLES=4 | STYLE_FROM=picture] with CKPT=
	@$(PY) translate.py --ckpt "$(or $(CKPT),runs/$(EXP))" $(if $(IN),--in "$(IN)") $(if $(OUT),--out "$(OUT)") \
		$(if $(TO),--to $(TO)) $(if $(FROM),--from $(FROM)) $(if $(STYLES),--styles $(STYLES)) \
		$(if $(STYLE_FROM),--style-from "$(STYLE_FROM)") $(if $(TILE),--tile $(TILE)) \
		$(if $(DEVICE),--device $(DEVICE)) $(ARGS)

codes: known-exp ## images of EXP as maps of codes by CKPT=, for the prior of EXP; OUT= replaces codes/ in the run
	@$(PY) extract_codes.py --ckpt "$(or $(CKPT),runs/$(EXP))" $(if $(OUT),--out "$(OUT)") \
		$(if $(DEVICE),--device $(DEVICE)) $(ARGS)

sample: setup ## pictures drawn from VQ-VAE-2: [N=16] [TEMPERATURE=1.0] [OUT=folder] by the latest runs in VQ= and PRIORS=
	@$(PY) sample.py --vq "$(VQ)" --priors $(PRIORS) $(if $(N),--n $(N)) \
		$(if $(TEMPERATURE),--temperature $(TEMPERATURE)) $(if $(OUT),--out "$(OUT)") \
		$(if $(DEVICE),--device $(DEVICE)) $(ARGS)

report: setup ## one page that shows RUN= (or the newest run): RUN/report.html, no network needed
	@$(PY) -m callbacks.report "$(RUN)"

parity: setup ## hold our numbers against a recorded CASE= of the authors' code
	@$(PY) -m benchmarks.parity $(CASE)

evidence: setup ## re-run the table and plot of a paper's page, PAPER=unit; SEEDS=3 BUDGET=small|paper; goes on if interrupted
	@$(PY) -m benchmarks.evidence $(PAPER) --seeds $(SEEDS) --budget $(BUDGET) $(ARGS)

test: setup ## quick tests, some ten minutes on two cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m "not slow and not gpu" $(ARGS)
	@$(if $(ARGS),,mkdir -p $(PASSED) && touch $(PASSED)/$$($(FILES)) # of a run of them all)

test-all: setup ## every test that this machine can run; quick ones that have passed on these very files are not run again
	@if test -z "$(ARGS)" && test -f $(PASSED)/$$($(FILES)); then \
		echo "make test has passed on these very files; here are the other tests."; \
		OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m "slow or gpu"; \
	else OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) $(ARGS); fi

lint: setup ## style and imports
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

format: setup ## rewrite files in the house's style
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

type: setup ## static types
	@$(VENV)/bin/mypy

sweep: EVAL = disentanglement
sweep: known-exp ## scores of EXP against one argument: OF=model.beta VALUES=1,2,4,8,16 SEEDS=5 [EVAL=disentanglement]
	@$(PY) -m benchmarks.sweep $(EXP) --of "$(OF)" --values "$(VALUES)" --seeds $(SEEDS) --evaluation $(EVAL) $(ARGS)

rotation: setup ## does the bound of the VAE of RUN= know the axes of its code? Curves of turned codes: RUN/pictures/rotation.png
	@$(PY) -m benchmarks.rotation "$(RUN)" $(ARGS)

features: setup ## train the networks behind our own features (metrics/features/scenes.md, faces.md and digits.md)
	@$(PY) -m benchmarks.train_scenes $(ARGS)
	@$(PY) -m benchmarks.train_faces $(ARGS)
	@$(PY) -m benchmarks.train_digits $(ARGS)

bench: setup ## speed against a baseline in the same run; ARGS="--write" keeps the figures
	@$(PY) -m benchmarks.step_time $(ARGS)
	@$(PY) -m benchmarks.papers_time $(if $(findstring --write,$(ARGS)),--write)
	@$(PY) -m benchmarks.sprites_time $(if $(findstring --write,$(ARGS)),--write)
	@$(PY) -m benchmarks.evaluation_cost $(if $(findstring --write,$(ARGS)),--write)

clean: ## remove runs, caches and the environment
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
