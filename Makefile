# GNU make. `make help` lists the targets; README.md says what they are for.
#
# The build is plain cargo. cargo-pgrx is not needed: the SQL is written by hand (sql/vekter.sql), so nothing is
# generated: a library, and two files for each extension, are all there is to install.

SHELL := /bin/bash
.DEFAULT_GOAL := build
# rustup's folder, for a shell that was opened before rustup came.
export PATH := $(PATH):$(HOME)/.cargo/bin

PG_CONFIG ?= pg_config
export PG_CONFIG

# Read when a recipe runs, not when make starts: `make setup` may just have installed PostgreSQL.
PG_MAJOR = $(shell $(PG_CONFIG) --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
export PGRX_PG_CONFIG_PATH = $(shell command -v $(PG_CONFIG))

# The processors that the library runs on; empty: those of this machine (.cargo/config.toml). MARCH=x86-64-v3 is for
# others.
MARCH ?=
ifneq ($(MARCH),)
export RUSTFLAGS = -C target-cpu=$(MARCH)
export CFLAGS_x86_64_unknown_linux_gnu = -march=$(MARCH)
export CXXFLAGS_x86_64_unknown_linux_gnu = -march=$(MARCH)
endif

FEATURES = --no-default-features --features pg$(PG_MAJOR)
# `$(shell)` sees no exported variable before GNU Make 4.4.
# What tests are compiled for: lints, unit tests, engine tests and the server of the integration tests share one build.
TEST_BUILD = --release --locked --config tests/profile.toml $(FEATURES),failpoints --target-dir $(shell PG_CONFIG='$(PG_CONFIG)' scripts/failpoint_server.sh build-folder)
VENV := .venv
# `make test TIER=quick` leaves out what takes long.
TIER ?= full
CORE := @tests/integration/core.txt
# What `make test-integration` runs, in how many processes: more than there are processors, since many tests wait.
ifeq ($(TIER),quick)
TESTS ?= $(CORE)
else
TESTS ?= tests/integration
endif
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
PYTEST = $(VENV)/bin/python -m pytest -r fEs --tb=short
# The major of the server with assertions.
ASSERTIONS_MAJOR ?= 17
CLIENTS := .venv-clients
# Of the tests of clients, those of LangChain and LlamaIndex, which have packages of their own.
LLM_TESTS := tests/clients/test_langchain.py tests/clients/test_llamaindex.py
BENCH_VENV := .venv-bench
# Parts and options of `make bench`, for instance "inserts vacuum" or "--quick"; empty: everything.
BENCH ?=

.PHONY: build setup install uninstall demo test test-rust test-regress test-integration test-clients test-assertions assertions-server stress lint docs bench bench-factories bench-vector
.PHONY: deb clean help

build: ## compile the extension (release mode) into target/release
	@scripts/setup.sh check build
	@[ -e target/release/libvekter.so ] || echo "The first build compiles FAISS: about five minutes on two cores."
	cargo build --release --locked $(FEATURES)

setup: ## install what building needs and is missing (apt, Debian and Ubuntu)
	@scripts/setup.sh install build

install: build ## build, then install into the PostgreSQL of PG_CONFIG=...; honours DESTDIR
	@scripts/install.sh

uninstall: ## remove what `make install` put there
	@scripts/install.sh uninstall

demo: setup ## 50,000 rows, an index, a search, on a throw-away server (KEEP=1 leaves it running)
	@$(MAKE) --no-print-directory install
	@scripts/with_cluster.sh demo/run.sh

test: ## install what is missing and run every test (TIER=quick: in minutes, without those that take long)
	@scripts/setup.sh install test
ifneq ($(TIER),quick)
	@$(MAKE) --no-print-directory install
endif
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test-rust
ifeq ($(TIER),quick)
	@$(MAKE) --no-print-directory test-regress PG_CONFIG=$$(scripts/failpoint_server.sh)
	@$(MAKE) --no-print-directory test-integration
else
	@$(MAKE) --no-print-directory test-regress
# Integration tests wait a lot: the server with assertions, and vekter for it, are compiled meanwhile.
	@nice -n 19 $(MAKE) --no-print-directory assertions-server >target/assertions-server.log 2>&1 & compiling=$$!; \
	status=0; $(MAKE) --no-print-directory test-integration || status=$$?; wait $$compiling; exit $$status
	@$(MAKE) --no-print-directory test-assertions
endif

# Threads that wait for others leave the processor to the test that runs beside them.
test-rust: export OMP_WAIT_POLICY = passive
test-rust: ## unit and engine tests: no server
	cargo test --workspace $(TEST_BUILD)

test-regress: ## SQL tests (pg_regress) of the installed extension, on a throw-away server
	@KEEP= scripts/with_cluster.sh tests/regress/run.sh

test-integration: $(VENV)/installed ## pytest on a server of its own: crashes, standbys, concurrency, recall
	@server=$$(scripts/failpoint_server.sh) && scripts/pgvector_for_tests.sh "$$server" || [ $$? = 3 ]
	@scripts/integration_tests.sh $(WORKERS) $(TESTS) $(PYTEST_ARGS)

test-clients: $(CLIENTS)/pgvector/installed $(CLIENTS)/llm/installed tests/clients/drizzle/node_modules/.package-lock.json ## SQLAlchemy, Django, LangChain, LlamaIndex, Drizzle, unchanged, on faiss indexes
	@server=$$(scripts/failpoint_server.sh) && scripts/pgvector_for_tests.sh "$$server" || [ $$? = 3 ]
	@status=0; \
	$(CLIENTS)/pgvector/bin/python -m pytest -r fEsx --tb=short $(LLM_TESTS:%=--ignore=%) tests/clients $(PYTEST_ARGS) || status=$$?; \
	$(CLIENTS)/llm/bin/python -m pytest -r fEsx --tb=short $(LLM_TESTS) $(PYTEST_ARGS) || status=$$?; exit $$status

$(CLIENTS)/%/installed: tests/clients/requirements-%.txt
	@scripts/setup.sh check test
	python3 -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Node.js is not among what the tests need.
tests/clients/drizzle/node_modules/.package-lock.json: tests/clients/drizzle/package-lock.json
	@if command -v npm >/dev/null; then npm ci --silent --no-audit --no-fund --prefix $(<D) && touch $@; \
	else echo "NOT RUN: the tests of Drizzle (npm is not installed: apt-get install nodejs npm)" >&2; fi

# Says where its pg_config is, and nothing where this machine cannot have such a server.
assertions-server:
	@pg_config=$$(scripts/postgres_with_assertions.sh $(ASSERTIONS_MAJOR)) || exit $$(($$? != 3)); \
	tree=$$(PG_CONFIG=$$pg_config scripts/failpoint_server.sh) && \
	PG_CONFIG=$$pg_config LIBRARY=$$($$tree --pkglibdir)/vekter.so scripts/install.sh >&2 && echo $$pg_config

test-assertions: $(VENV)/installed ## SQL tests and a core of the integration tests on a PostgreSQL with assertions (ASSERTIONS_MAJOR=18)
	@pg_config=$$($(MAKE) --no-print-directory assertions-server) || exit; \
	[ -n "$$pg_config" ] || { \
	    echo "NOT RUN: the tests on a PostgreSQL $(ASSERTIONS_MAJOR) with assertions (see above)" >&2; exit; }; \
	$(MAKE) --no-print-directory test-regress PG_CONFIG=$$pg_config && \
	$(MAKE) --no-print-directory test-integration PG_CONFIG=$$pg_config TESTS=$(CORE)

stress: $(VENV)/installed ## tests too long for every day: recall of all shared embeddings; storms of VEKTER_STORM_S=600 seconds
	$(PYTEST) -m stress tests/integration $(PYTEST_ARGS)
	VEKTER_STORM_S=$${VEKTER_STORM_S:-600} $(PYTEST) tests/integration/test_storm.py -s $(PYTEST_ARGS)

$(VENV)/installed: tests/requirements.txt
	@scripts/setup.sh check test
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	@touch $@

lint: ## the layers of src/README.md, the width of comments; rustfmt and clippy, where rustup has installed them
	@scripts/check_layers.sh
	@scripts/check_comments.sh
	@if cargo fmt --version >/dev/null 2>&1; then echo cargo fmt --check; cargo fmt --all --check; \
	else echo "skipped: rustfmt is not installed (rustup component add rustfmt)"; fi
	@if cargo clippy --version >/dev/null 2>&1; then \
	    cargo clippy --workspace --all-targets $(TEST_BUILD) -- -D warnings; \
	else echo "skipped: clippy is not installed (rustup component add clippy)"; fi

# The server of the integration tests has both extensions.
docs: ## write docs/reference.md anew, from the descriptions in sql/*.sql and src/guc.rs
	@server=$$(scripts/failpoint_server.sh) && scripts/pgvector_for_tests.sh "$$server" && \
	PG_CONFIG=$$server scripts/with_cluster.sh psql -X -q -A -t -f scripts/sql_reference.sql >docs/reference.md.new && \
	mv docs/reference.md.new docs/reference.md

bench: ## measure beside pgvector (BENCH="inserts vacuum": parts; PGVECTOR_SRC=... compiles pgvector for this machine)
	@scripts/setup.sh install bench
	@$(MAKE) --no-print-directory install $(BENCH_VENV)/installed
	@[ -z "$(PGVECTOR_SRC)" ] || PGVECTOR_SRC="$(PGVECTOR_SRC)" scripts/install_pgvector.sh
	$(BENCH_VENV)/bin/python bench/index $(BENCH)

$(BENCH_VENV)/installed: bench/requirements.txt
	python3 -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@touch $@

# Threads that wait for others are not to burn processor time, which is what is measured.
bench-factories: export OMP_WAIT_POLICY = passive
bench-factories: ## measure the index types and rewrite the tables of docs/factories.md (VEKTER_DATA=shared embeddings)
	cargo test --release --locked --package vekter-engine --test engine -- table::measure_every_family --ignored --exact --nocapture
	cargo test --release --locked --package vekter-engine --test engine -- recall_table:: --ignored --nocapture --test-threads 1

bench-vector: $(VENV)/installed ## distances, side by side with an installed pgvector
	$(VENV)/bin/python bench/vector/distances.py $(BENCH_ARGS)

deb: ## build the package postgresql-NN-vekter for the PostgreSQL of PG_CONFIG=...; runs on all processors with AVX2
	@scripts/deb.sh

clean: ## remove everything that was built
	rm -rf target $(VENV) $(CLIENTS) tests/clients/drizzle/node_modules $(BENCH_VENV) tests/regress/results tests/regress/regression.* .pytest_cache
	find tests bench -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r target text; do \
	    printf '  make %-18s %s\n' "$$target" "$$text"; done
