# Everything lives in .venv; PYTHON=python3.12 make run chooses the Python it is made with.
PYTHON ?= python3
VENV ?= .venv
PORT ?= $(or $(GRADIO_SERVER_PORT),7860)
# More arguments for pytest, e.g. ARGS='-k trace' or ARGS='-m "not browser"'.
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help run test test-vllm train report lint venv base chromium clean

help:
	@echo "make run    install into $(VENV), obtain the base model, open the app on port $(PORT)"
	@echo "make test   check style and types, then run all tests, browser tests included"
	@echo "make test-vllm  compare remote experts with a real vLLM server (installs it; slow)"
	@echo "make train  install what training needs and run it, e.g. ARGS='all --resume'"
	@echo "make report rebuild README's results from stored runs of python -m mpd_core evaluate full"
	@echo "make lint   check style and types only"
	@echo "make clean  remove $(VENV) and the tools' caches (not the base model)"
	@echo "PYTHON=python3.12 make run chooses another Python (3.10 or newer)."

run: base
	@echo "MPD Studio starts on http://127.0.0.1:$(PORT) (Ctrl+C stops it)"
	@GRADIO_SERVER_PORT=$(PORT) $(BIN)/python app.py

test: lint chromium base
	@$(BIN)/python -m pytest $(ARGS)

test-vllm: $(VENV)/.tests base
	@MPD_TEST_VLLM=1 $(BIN)/python -m pytest -s tests/vllm $(ARGS)

train: $(VENV)/.training base
	@$(BIN)/python -m mpd_core train $(ARGS)

report: $(VENV)/.training
	@$(BIN)/python -m mpd_core evaluate readme $(ARGS)

lint: $(VENV)/.tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The app would obtain it as well; here the progress is seen before anything else starts.
base: $(VENV)/.app
	@$(BIN)/python -m mpd_core fetch

venv: $(VENV)/.made

# A stamp is written last: an interrupted installation is taken up again.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.10 or newer."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed, and $(PYTHON) is" \
		"$$($(PYTHON) --version 2>&1). Try: PYTHON=python3.12 make run"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "Python's venv module is missing (Debian: apt-get install python3-venv)."; exit 1; }
	@touch $@

$(VENV)/.app: requirements.txt $(VENV)/.made
	@echo "Installing requirements.txt (the first time this takes minutes)"
	@$(PIP) -r requirements.txt
	@touch $@

# What training and tests need beside the app's own requirements is named in pyproject.toml.
$(VENV)/.training: pyproject.toml $(VENV)/.app
	@$(PIP) -r requirements.txt -e '.[training]'
	@touch $@

$(VENV)/.tests: pyproject.toml $(VENV)/.app
	@$(PIP) -r requirements.txt -e '.[test]'
	@touch $@

# Debian's package brings the libraries that a browser needs; Playwright's own download does not.
chromium:
	@case '$(subst ','"'"',$(ARGS))' in *"not browser"*) exit 0;; esac; \
	command -v chromium >/dev/null && exit 0; \
	root=""; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	if command -v apt-get >/dev/null && $$root true 2>/dev/null; then \
		echo "Installing Debian's chromium for the browser tests"; \
		$$root apt-get -qq update && \
		$$root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; \
	fi; \
	command -v chromium >/dev/null || { \
		echo "The browser tests need the command 'chromium': install it" \
		"(Debian: sudo apt-get install chromium) and run make test again."; \
		echo "Without it: make test ARGS='-m \"not browser\"'"; exit 1; }

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
