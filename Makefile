# Two commands on a fresh machine: `make demo` shows it on real models, `make test` proves it.
# The build and the models live outside the clone, so that the next clone finds them.

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sled
# NATIVE=1 builds for this very processor, in a folder of its own: faster, and it may not start on another machine.
export CARGO_TARGET_DIR ?= $(CACHE)/target$(if $(NATIVE),-native)
ifdef NATIVE
export RUSTFLAGS := -C target-cpu=native
ifneq ($(shell grep -o -m1 amx_tile /proc/cpuinfo 2>/dev/null),)
# llama.cpp's kernels for AMX crash with quantised models (seen on a Xeon), and F16 batches take longer with them.
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
export CFLAGS += $(NO_AMX)
export CXXFLAGS += $(NO_AMX)
endif
endif
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 2)

SLED := $(CARGO_TARGET_DIR)/release/sled
# Always the whole workspace: a part of it would have other dependency features, and llama.cpp would be compiled again.
CARGO_FLAGS := --release --workspace --locked

CHECK_FLAGS := --release --locked -p sled-core -p sled-model -p sled-wire -p sled-api -p sled-sim
NEXTEST := cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

.PHONY: demo check test build bench paper beyond pages setup lint

demo: build
	$(SLED) pull qwen2.5-coder-1.5b
	$(SLED) pull qwen2.5-coder-0.5b
	$(SLED) demo

# While you work: format, lints, and the tests of the law, the faults, the wire and the API, without C++ and without a model.
check:
	cargo fmt --all --check
	cargo clippy $(CHECK_FLAGS) -p sled-device -p sled-agent -p sled-server --all-targets -- -D warnings
	@$(NEXTEST)
	SLED_FAULT_SCHEDULES=20000 cargo nextest run $(CHECK_FLAGS) -E 'not binary(paper)'

test: lint build
	@$(NEXTEST)
	SLED_TEST_SMOLLM2="$$($(SLED) pull smollm2-135m)" \
	SLED_TEST_TARGET="$$($(SLED) pull qwen2.5-coder-1.5b)" \
	SLED_TEST_DRAFT="$$($(SLED) pull qwen2.5-coder-0.5b)" \
	cargo nextest run $(CARGO_FLAGS)

# The numbers that the README quotes, written to results/.
bench: build
	$(SLED) pull qwen2.5-coder-1.5b
	$(SLED) pull qwen2.5-coder-0.5b
	$(SLED) bench pair
	$(SLED) bench policy
	$(SLED) bench rtt --outputs 5
	cargo bench $(subst --release,,$(CARGO_FLAGS)) --bench sampler

# The paper's tables and figures, simulated: results/paper/ and docs/paper.md.
paper: build
	$(SLED) paper

# What the paper leaves open, simulated: results/beyond/ and docs/beyond.md.
beyond: build
	$(SLED) beyond

# The chat page and the dashboard, clicked through in a real Chromium: docs/images/.
pages: build
	scripts/browser.py $(SLED) --target qwen2.5-coder-1.5b --draft qwen2.5-coder-0.5b

lint: setup
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

build: setup
	cargo build $(CARGO_FLAGS)

# llama.cpp is compiled from source: a C++ compiler, cmake and libclang (for its bindings) must be there.
setup:
	@missing=""; \
	command -v cmake >/dev/null || missing="$$missing cmake"; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	command -v python3 >/dev/null || missing="$$missing python3-pip"; \
	[ -n "$$(ls -d /usr/lib/llvm*/lib/libclang[.-][s0-9]* /usr/lib*/libclang[.-][s0-9]* /usr/lib/*/libclang[.-][s0-9]* \
	  "$$LIBCLANG_PATH"/libclang[.-]* /Library/Developer/CommandLineTools/usr/lib/libclang.dylib 2>/dev/null)" ] \
	  || missing="$$missing libclang-dev"; \
	command -v cargo >/dev/null || { echo "Rust is missing: install it from https://rustup.rs"; exit 1; }; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; apt-get update -qq && apt-get install -y -qq $$missing >/dev/null; \
	else echo "please install first:$$missing"; exit 1; fi
