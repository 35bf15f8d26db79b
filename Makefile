# make demo   sets everything up and runs the main job on an embedded data set
# make test   sets everything up and passes the tests
# Needs python3 (3.11 or newer) and pip; uses uv when it is there, or puts it into the environment.

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
JOBS ?= 2
PY := $(VENV)/bin/python
# DALI has wheels for Linux only; elsewhere the Kornia backend serves. For an older CUDA driver: make demo DALI=dali-cu12
ifeq ($(shell uname -sm),Linux x86_64)
DALI ?= dali-cu13
endif
comma := ,
EXTRA := $(if $(DALI),$(DALI)$(comma))

.PHONY: help demo test check slow setup clean

help:
	@sed -n '1,3s/^# //p' $(firstword $(MAKEFILE_LIST))
	@echo "make check  ruff and pyright; make slow: the minutes-long tests; make clean: removes what the demo made"
	@echo "make test JOBS=8  in as many processes (default: $(JOBS))"

# $(call install,extras): into the environment, with uv if it can be had, else with pip.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@UV=$$(command -v uv || { $(PY) -m pip install --quiet --disable-pip-version-check uv >&2 && echo "$(PY) -m uv"; }); \
	  echo "installing into $(VENV) with $${UV:-pip} ..."; \
	  { test -n "$$UV" && $$UV pip install --quiet --python $(PY) --editable ".[$(1)]"; } || \
	  { echo "uv could not do it; pip takes over"; $(PY) -m pip install --quiet --disable-pip-version-check --editable ".[$(1)]"; }
endef

$(VENV)/.ready: pyproject.toml
	$(call install,$(EXTRA)plots)
	@touch $@

# The peers are what the benchmarks are measured against, and oracles in tests.
$(VENV)/.ready-test: pyproject.toml
	$(call install,$(EXTRA)test$(comma)peers)
	@touch $@ $(VENV)/.ready

setup: $(VENV)/.ready

demo: $(VENV)/.ready
	@rm -rf $(OUT)
	$(PY) -m precompute.boxes --dataset demo
	$(PY) -m augment.preview --boxes cache/demo.h5 --root data/demo --out $(OUT)/views.png
	$(PY) -m trainer.run --preset demo --out $(OUT)
	@echo
	@printf '%-5s %-19s %s\n' Made: data/demo "the embedded data set (CUB-200-2011 layout)" \
	  "" cache/demo.h5 "its saliency boxes (look: python -m precompute.inspect cache/demo.h5)" \
	  "" $(OUT)/views.png "views with their pasted rectangles" \
	  "" $(OUT)/matches.png "points of held-out views joined to where they are found again" \
	  "" $(OUT)/ "metrics.jsonl, checkpoints, encoder.safetensors (torchvision's key names)"
	@echo "BYOL on plain crops for the same time:"
	@echo "      $(PY) -m trainer.run --preset demo --method byol --policy rrc --out runs/demo-byol"
	@echo "Your own data next (a folder of class folders, or cub, cars, aircraft, ...):"
	@echo "      . $(VENV)/bin/activate"
	@echo "      python -m precompute.boxes --dataset folder --root DIR --out cache/mine.h5"
	@echo "      python -m trainer.run --boxes cache/mine.h5 --root DIR --out runs/mine"

test: $(VENV)/.ready-test
	$(PY) -m pytest -q -m "not slow and not gpu" -n $(JOBS) --dist worksteal

# One after the other: half of them kill what they start at random instants.
slow: $(VENV)/.ready-test
	$(PY) -m pytest -q -m slow

check: $(VENV)/.ready-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

clean:
	rm -rf runs/demo data/demo cache/demo.h5
