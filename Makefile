# On Linux without a GPU driver, `demo` and `test` install software drivers first: see scripts/with-drivers.
# On macOS and Windows plain cargo serves: `cargo run --release` and `cargo test --release`.
CARGO ?= cargo

.PHONY: demo test test-all programs soak check tint deny package bench conversations isa peers generate beside perplexity check-llama test-llama test-smollm2

# A real model's keys and values through the cache, on every adapter, verified bit for bit.
demo:
	scripts/with-drivers $(CARGO) run --release --locked -- demo

# All tests, on every adapter present and with every server of `scripts/with-servers` that can be had; examples and
# benchmarks run once. Of the random programs those run that add to what is covered. One set of features, because another
# one builds wgpu anew.
SERVERS = --features redis-tls,object-store
test:
	scripts/isa/setup target/isa || echo "the tests of tests/isa will be ignored"
	scripts/with-drivers scripts/with-servers $(CARGO) test --release --locked $(SERVERS)
	$(CARGO) test --release --locked $(SERVERS) --test overflows --config 'profile.release.package.wgpu-kv-cache.overflow-checks=false'
	scripts/with-drivers $(CARGO) test --release --locked $(SERVERS) --benches
	scripts/with-drivers $(CARGO) run --release --locked $(SERVERS) --quiet --example smallest
	scripts/with-drivers $(CARGO) run --release --locked $(SERVERS) --quiet --example engine
	scripts/with-drivers $(CARGO) run --release --locked $(SERVERS) --quiet --example attention
	scripts/with-drivers $(CARGO) run --release --locked $(SERVERS) --quiet --example serve
	$(MAKE) test-llama

# The tests, and then what takes longer.
test-all: test programs soak test-smollm2

# Every random program that is drawn, 3000 for each adapter.
programs:
	KV_CACHE_PROGRAMS=750 scripts/with-drivers $(CARGO) test --release --locked $(SERVERS) --test gpu -- programs::

# 10 000 recorded requests through tiers on each adapter, in processes that are killed.
soak:
	KV_CACHE_SOAK_REQUESTS=10000 scripts/with-drivers $(CARGO) test --release --locked $(SERVERS) --test gpu -- soak::

# Formatting, lints and documentation, warnings denied; what the library alone depends on.
check:
	scripts/plant-errors --check
	scripts/check-imports
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets $(SERVERS) -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	$(MAKE) check-llama
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked $(SERVERS) --no-deps --document-private-items
	scripts/check-dependencies

# Every text, compiled by the browsers' compiler too.
tint:
	scripts/with-drivers scripts/check-tint

# Licences, advisories, duplicates and sources of the dependencies, by deny.toml.
# cargo-deny comes with: cargo install cargo-deny --locked
deny:
	$(CARGO) deny --locked check

# The package that would be published, built from its own files.
package:
	$(CARGO) package --locked

# The table of targets, each figure beside what it is measured against; a row that misses is marked.
# Another adapter than the first: make bench ADAPTER=llvmpipe
bench:
	scripts/with-drivers $(CARGO) bench --locked --bench targets -- $(ADAPTER)

# Requests of a server over one pool of pages, and with tiers below it: those of traces/conversations.txt, or of TRACE,
# a file of the same form.
conversations:
	$(CARGO) bench --locked --bench pages -- $(TRACE)

# What the kernels become on an AMD GPU (another: RADV_FORCE_FAMILY=navi31), without one. The driver compiles and
# executes nothing.
isa:
	scripts/isa/setup target/isa
	KV_CACHE_ISA_TABLE=1 $(CARGO) test --release --locked --test isa

# What people would use instead, beside this crate. The peers take half an hour to build the first time.
# The Python that runs the numpy one is made here, unless PYTHON names one that has numpy.
PYTHON ?= target/python/bin/python
peers: export PYTHON := $(abspath $(PYTHON))
peers:
	test -x $(PYTHON) || { python3 -m venv target/python && target/python/bin/pip install --quiet numpy; }
	scripts/with-drivers $(CARGO) run --release --locked --manifest-path benches/peers/Cargo.toml --target-dir target/peers -- $(ADAPTER)

# An engine over the cache (examples/llama) tells a story. The model is fetched the first time, unless MODEL names one.
# More: make generate ARGUMENTS="--draft 4 --placement ring"
LLAMA = $(CARGO) run --quiet --release --locked --manifest-path examples/llama/Cargo.toml --target-dir target
MODEL ?= target/smollm2-135m-instruct.q4_1.gguf
generate: $(MODEL)
	scripts/with-drivers $(LLAMA) -- generate --model $(MODEL) $(ARGUMENTS)

target/smollm2-135m-instruct.q4_1.gguf:
	examples/llama/scripts/fetch_model $@

# What each format of keys and values costs that model on a text.
perplexity: $(MODEL)
	scripts/with-drivers $(LLAMA) -- perplexity --model $(MODEL) $(ARGUMENTS) $(TEXT)

# The same story by llama.cpp (npm node-llama-cpp), on Vulkan's first device and on the CPU.
beside: $(MODEL)
	scripts/with-drivers $(LLAMA) -- generate --model $(MODEL) --tokens 64 $(ARGUMENTS)
	GGML_VK_VISIBLE_DEVICES=0 examples/llama/scripts/beside speed.mjs $(abspath $(MODEL)) 64 vulkan
	examples/llama/scripts/beside speed.mjs $(abspath $(MODEL)) 64 cpu

# The tests of examples/llama.
test-llama:
	scripts/with-drivers $(CARGO) test --release --locked --manifest-path examples/llama/Cargo.toml --target-dir target

# Formatting and lints of examples/llama.
check-llama:
	$(CARGO) fmt --check --manifest-path examples/llama/Cargo.toml
	$(CARGO) clippy --locked --all-targets --manifest-path examples/llama/Cargo.toml --target-dir target -- -D warnings

# The tokens of a real model against those that llama.cpp chose.
test-smollm2: target/smollm2-135m-instruct.q4_1.gguf
	LLAMA_MODEL=$(abspath $<) scripts/with-drivers $(CARGO) test --release --locked --target-dir target \
	    --manifest-path examples/llama/Cargo.toml --test smollm2 -- --ignored --nocapture
