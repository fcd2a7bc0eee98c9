# make demo: denoise a recording that ships.   make test: the tests.   Both set up .venv with what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := egs/mini/denoise/corpus/demo

.PHONY: demo test slow web browser lint clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "audiomask needs Python 3.11 or newer, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)

# The core and the scores: no torch. pesq is built from source, so a C compiler is needed.
$(VENV)/.score: pyproject.toml constraints.txt | $(BIN)/python
	@command -v cc > /dev/null || { echo "make: pesq needs a C compiler: apt-get install gcc python3-dev (or your system's)" >&2; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[score]'
	@touch $@

# Everything a developer needs, torch included.
$(VENV)/.dev: $(VENV)/.score
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch $@

demo: $(VENV)/.score
	$(BIN)/audiomask enhance $(DEMO)/mixture_noisy.flac $(DEMO)/apollo11.flac -o demo -f
	$(BIN)/audiomask plot spectrogram $(DEMO)/mixture_noisy.flac demo/mixture_noisy.flac -o demo/before_after.png -f
	$(BIN)/audiomask score --ref $(DEMO)/mixture_clean.flac --noisy $(DEMO)/mixture_noisy.flac \
	  --est demo/mixture_noisy.flac --metrics pesq_wb stoi si_sdr
	@echo "Listen to demo/mixture_noisy.flac and demo/apollo11.flac, look at demo/before_after.png"

# One thread a worker: the tests share the cores, and threads that wait for each other across workers crawl.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not peer and not nightly and not browser"

slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# onnxruntime-web beside the page of audiomask serve, so that it runs models in the browser: fetched once, with npm.
web: $(VENV)/.score
	$(BIN)/python tools/release/vendor_web.py

# The page in a real Chromium (Debian: apt-get install chromium).
browser: $(VENV)/.dev web
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

lint: $(VENV)/.dev
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info
