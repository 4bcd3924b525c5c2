# Two commands do everything on a fresh Debian or Ubuntu machine with Rust, git, make and a C compiler.
#
#   make train    build, and train on the built-in digits
#   make test     build, and run every test, those of the GPU kernels on the best adapter there is
#
# The first needs no GPU and no driver: without them it trains on the CPU. The second first installs a software Vulkan
# driver where there is no Vulkan driver at all (as root, or with sudo).

CARGO ?= cargo
TRAIN ?= --epochs 3

# Debug builds of wgpu load Vulkan's validation layer where it is installed. Nobody reads here what it says, and it
# takes a quarter of the time of the GPU tests; `tests/validation` loads it and reads it.
export WGPU_VALIDATION ?= 0
# Where RUST_BACKTRACE is set, debug builds of wgpu note where each lock was taken: a tenth of the time of the GPU
# tests.
export RUST_LIB_BACKTRACE ?= 0

.PHONY: train test test-drivers narrow-subgroups second-driver small-gpu test-thorough
.PHONY: swiftshader faults lint bench check driver

train:
	$(CARGO) build --release --locked
	target/release/smoothcnn train $(TRAIN)

test: driver
	$(CARGO) test --locked

# The GPU tests once more, on other machines' terms: lavapipe with subgroups of 4 (it has 8 otherwise), and
# SwiftShader, a second, independent driver with the smallest limits there are (Debian's chromium brings it), also
# with those of a small GPU. Each in a process of its own, which can run side by side (`make -j3 test-drivers`): one
# keeps two cores busy for two thirds of its time. Here what is likely to differ; `make test-thorough` has everything,
# and what a driver does not say: Chromium's compiler about every shader, and Vulkan's validation layer about training
# steps. It takes a quarter of an hour.
#
# Variables of the tests:
#
#   SMOOTHCNN_REQUIRE_ALL=1   a test that needs what is not here (a driver, Chromium, onnxruntime, subgroups of eight)
#                             fails, where it says "skipped" and passes otherwise
#   SMOOTHCNN_THOROUGH=1      tint builds every pipeline, validation tries every form, bench --full runs on the adapter: a
#                             minute or two each
#   SMOOTHCNN_LOW_LIMITS=1    the GPU tests' device has the limits of a small GPU: less than 16 KiB a workgroup
#   RANDOM_NETWORKS=1000      so many random networks; RANDOM_NETWORK=17 only that of seed 17
#   PROPTEST_CASES=1000       so many cases of each property, PROPTEST_RNG_SEED=5 other ones
SWIFTSHADER = /usr/lib/chromium/vk_swiftshader_icd.json
ON_SWIFTSHADER = VK_DRIVER_FILES=$(SWIFTSHADER) $(CARGO) test --locked --test gpu --
# What depends on the width of a subgroup: what kernels compute, not how the host runs them.
KERNELS = ops:: network:: halves:: folded:: random:: resnet:: rng:: layers::
test-drivers: narrow-subgroups second-driver small-gpu

narrow-subgroups: driver
	LP_NATIVE_VECTOR_WIDTH=128 $(CARGO) test --locked --test gpu -- $(KERNELS)

second-driver: swiftshader
	$(ON_SWIFTSHADER) --skip random:: --skip resnet:: --skip stopping:: --skip autotune:: --skip recipe::a_stop \
		--skip ops::conv2d_pool

small-gpu: swiftshader
	SMOOTHCNN_LOW_LIMITS=1 $(ON_SWIFTSHADER) ops::conv2d_pool_cases ops::linear halves:: network::fused

test-thorough: driver swiftshader
	LP_NATIVE_VECTOR_WIDTH=128 $(CARGO) test --locked --test gpu
	LP_NATIVE_VECTOR_WIDTH=512 $(CARGO) test --locked --test gpu
	$(ON_SWIFTSHADER)
	SMOOTHCNN_LOW_LIMITS=1 $(ON_SWIFTSHADER) --skip drivers::
	SMOOTHCNN_REQUIRE_ALL=1 SMOOTHCNN_THOROUGH=1 $(CARGO) test --locked --test tint --test validation
	SMOOTHCNN_THOROUGH=1 $(CARGO) test --locked --test cli one_file_has_all_of_an_adapter

swiftshader:
	@test -e $(SWIFTSHADER) || { echo "SwiftShader is not here: apt install chromium"; exit 1; }

# Runs that are killed, disks that fail or are full, damaged files: two minutes, or with FULL=1 the numbers of the page
# on reliability in ten. Needs strace, and root for the full disks.
faults:
	$(CARGO) build --release --locked --example fuzz --bin smoothcnn
	tests/faults/faults.py target/release/smoothcnn $(if $(FULL),--full)
	target/release/examples/fuzz $(if $(FULL),5000000,200000)
	FUZZ_TIMES=$(if $(FULL),20000,500) $(CARGO) test --locked --bin smoothcnn fuzz

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	@# With the example, what the crate depends on is as in the first line, and is not checked anew.
	$(CARGO) clippy --locked --no-default-features --features report --lib --examples -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --lib --examples

bench: driver
	$(CARGO) bench --locked

check: driver
	$(CARGO) run --release --locked -- check

driver:
	@sh .ci/vulkan-driver
