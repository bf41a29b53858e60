# make serve: set up and run the service.  make test: set up and pass the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= serve_config.yaml
STAMP := $(VENV)/.installed
NEURON := .venv-neuron
NEURON_STAMP := $(NEURON)/.installed
OLDER := $(VENV)/older/.installed
REPORTS := build/reports
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
OPENAI_1 := $(VENV)/openai-1/.installed
# Spinning OpenMP threads slow each other many times over on busy cores; replicas get the same.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0
# Serve's proxy would believe X-Forwarded-For from any process of this machine; whom to believe is
# for access.trusted_proxies to say.
export FORWARDED_ALLOW_IPS := none

.PHONY: setup serve demo dashboards test lint e2e slow guarantees bench peers bench-peers \
	neuron neuron-test neuron-exact-test chaos soak clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev,loadtest]'
	touch $@

# The Neuron profile's packages over the main environment's torch: for the tests that run under both
# profiles, and for optimum-neuron itself (torch 2.8.0 on the package index is the CUDA build: 7 GB).
$(OLDER): $(STAMP) constraints-neuron.txt
	rm -rf $(VENV)/older
	$(BIN)/pip install --disable-pip-version-check --target $(VENV)/older --no-deps \
		-c constraints-neuron.txt accelerate diffusers huggingface_hub numpy optimum optimum-neuron \
		peft tokenizers transformers
	touch $@

# The Neuron profile as a whole, with its torch. AWS' device packages come from their own index and are
# not part of it (PyPI's of these names are placeholders): the tests stand in for them.
neuron: $(NEURON_STAMP)

$(NEURON_STAMP): pyproject.toml constraints-neuron.txt
	test -x $(NEURON)/bin/python || $(PYTHON) -m venv $(NEURON)
	$(NEURON)/bin/pip install --disable-pip-version-check --progress-bar on \
		-c constraints-neuron.txt -e '.[neuron]' pytest pytest-asyncio
	touch $@

# optimum-neuron's real exporter and loader on the CPU; see tests/neuron/stubs. The second form has
# every pin of the profile.
neuron-test: $(OLDER)
	PYTHONPATH=tests/neuron/stubs:$(VENV)/older USE_TORCH_XLA=0 $(BIN)/python -m pytest tests/neuron --junitxml=$(REPORTS)/neuron.xml

neuron-exact-test: $(NEURON_STAMP)
	PYTHONPATH=tests/neuron/stubs USE_TORCH_XLA=0 $(NEURON)/bin/python -m pytest tests/neuron

# The official OpenAI client's first major version, whose users are many.
$(OPENAI_1): $(STAMP)
	rm -rf $(VENV)/openai-1
	$(BIN)/pip install --disable-pip-version-check --target $(VENV)/openai-1 --no-deps \
		openai==1.109.1 distro==1.9.0
	touch $@

serve: $(STAMP)
	PYTHONPATH=. exec $(BIN)/serve run $(CONFIG)

# Processes that share the tests that no Ray cluster is started for.
WORKERS ?= 2

test: $(STAMP) $(OPENAI_1)
	$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder -m "not e2e and not slow" --cov --cov-report=term --cov-fail-under=$(COVERAGE) \
		--junitxml=$(REPORTS)/fast.xml
	$(BIN)/python -m pytest -m "e2e and not slow" --junitxml=$(REPORTS)/e2e.xml

slow: $(STAMP) $(OLDER)
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow and not e2e" --junitxml=$(REPORTS)/slow.xml
	$(BIN)/python -m pytest -m "slow and e2e" --junitxml=$(REPORTS)/chaos.xml

# Did the runs before this one prove what docs/guarantees.md promises?
guarantees: $(STAMP)
	$(BIN)/python -m tests.docs.guarantees $(REPORTS)

# What goes wrong, alone; a part of `make slow`. Every request's fate is in build/chaos.
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/chaos -m slow

# Curves of memory, descriptors, threads, objects and latency in build/soak. Ctrl-C: a partial report.
MINUTES ?= 60
soak: $(STAMP)
	$(BIN)/python -m loadtest.soak --minutes $(MINUTES)

# Branch coverage floor of the fast tests, raised as the suite grows.
COVERAGE ?= 95

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.engine --out benchmarks/engine.md
	$(BIN)/python -m benchmarks.serving --out benchmarks/serving.md
	$(BIN)/python -m benchmarks.routing --out benchmarks/routing.md
	$(BIN)/python -m benchmarks.previews --out benchmarks/previews.md
	$(MAKE) bench-peers

# Other servers, to be measured beside this one: an environment of their own that sees the main one's
# packages, so that all paint with the same torch and diffusers.
peers: $(PEERS_STAMP)

$(PEERS_STAMP): $(STAMP) constraints-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
	$(PEERS)/bin/pip install --disable-pip-version-check --progress-bar on \
		-c constraints-peers.txt litserve bentoml
	touch $@

# Everything for docs/benchmarks.md, some 60 minutes; what was cut goes on with PEERS_FLAGS=--resume.
bench-peers: $(PEERS_STAMP)
	$(BIN)/python -m benchmarks.peers $(PEERS_FLAGS)

demo: $(STAMP)
	$(BIN)/python -m loadtest.demo

# Over a running `make serve`; needs Debian's prometheus.
dashboards: $(STAMP)
	$(BIN)/python -m serve_app.telemetry.dashboards

clean:
	rm -rf $(VENV) $(NEURON) $(PEERS) .mypy_cache .ruff_cache .pytest_cache
