# Two commands do everything on a fresh Debian or Ubuntu machine with Rust, git, make and a C compiler.
#
#   make train    build, and train on the built-in digits
#   make test     build, and run every test, those of the GPU kernels on the best adapter there is
#
# Both first install a software Vulkan driver where there is no Vulkan driver at all (as root, or with sudo).

CARGO ?= cargo
TRAIN ?= --epochs 3

.PHONY: train test lint bench check driver

train: driver
	$(CARGO) build --release --locked
	target/release/smoothcnn train $(TRAIN)

test: driver
	$(CARGO) test --locked

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench: driver
	$(CARGO) bench --locked

check: driver
	$(CARGO) run --release --locked -- check

driver:
	@sh .ci/vulkan-driver
