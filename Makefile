# Everything that is done with this checkout. Each target sets up what is missing first; tools/setup
# says what that is. `make` alone says what there is.

IMAGE =
JOBS = auto
TESTS =
PYTEST_ARGS =
BENCH_ARGS =
CAMPAIGN_ARGS =
FUZZ_ARGS =
VM_ARGS =
VM_KERNEL = stable
PYTHON_SOURCES = cfsfuse repo tools tests vm-tests
# Tests that need no mount, no other program and no root.
FAST = not fuse and not interop and not root
PYTEST = tools/in-reach .venv/bin/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL = help
.PHONY: help demo test test-fast lint format bench bench-quick bench-scale campaign campaign-fuse fuzz vm-test \
    setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | \
	    awk -F '\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

demo: setup ## pull an image and look into it without root; IMAGE=oci:DIR:TAG for one of yours
	@tools/demo $(IMAGE)

test: setup ## all tests, or TESTS="tests/formats ..."; PYTEST_ARGS="-k WORD", JOBS=0 for one process
	@$(PYTEST) $(PYTEST_ARGS) $(TESTS)

test-fast: setup ## the tests that need no mount, no other program and no root; two minutes
	@$(PYTEST) -m "$(FAST)" $(PYTEST_ARGS) $(TESTS)

lint: setup ## style, types, directions of imports, lengths of functions and modules
	.venv/bin/ruff check $(PYTHON_SOURCES)
	.venv/bin/ruff format --check $(PYTHON_SOURCES)
	.venv/bin/python tools/lengths.py $(PYTHON_SOURCES)
	PYTHONPATH=.:repo:tools .venv/bin/lint-imports
	.venv/bin/mypy
	MYPYPATH=tools:tools/bench .venv/bin/mypy tools/*.py tools/bench/*.py
	MYPYPATH=tools:tools/campaign .venv/bin/mypy tools/campaign/*.py
	MYPYPATH=vm-tests:tools .venv/bin/mypy vm-tests/run.py

format: setup ## mend what ruff can mend
	.venv/bin/ruff check --fix $(PYTHON_SOURCES)
	.venv/bin/ruff format $(PYTHON_SOURCES)

bench: setup ## all measurements beside the peers, an hour; BENCH_ARGS="pull fuse"
	@tools/setup --peers
	@tools/in-reach .venv/bin/python tools/bench/run.py $(BENCH_ARGS)

bench-quick: setup ## the same with small inputs; a few minutes
	@tools/setup --peers
	@tools/in-reach .venv/bin/python tools/bench/run.py --quick $(BENCH_ARGS)

bench-scale: setup ## how costs grow with sizes: plots in tools/bench/plots; ten minutes
	@tools/setup --peers
	@.venv/bin/python -c 'import matplotlib' 2>/dev/null || .venv/bin/pip install -q -e '.[bench]'
	@tools/in-reach .venv/bin/python tools/bench/scale.py $(BENCH_ARGS)

campaign: setup ## kill commands, fill disks, crowd a repository; some minutes
	@tools/in-reach .venv/bin/python tools/campaign/run.py $(CAMPAIGN_ARGS)

campaign-fuse: setup ## flips, crowds and random questions on FUSE mounts; ten minutes
	@CFS_TEST_FLIPS=500 CFS_TEST_STRESS_SECONDS=300 CFS_TEST_EXAMPLES=20000 tools/in-reach \
	    .venv/bin/python -m pytest -s --timeout=1800 \
	    tests/fuse/test_mount_damage.py tests/fuse/test_mount_stress.py

fuzz: setup ## a minute of fuzzing for each parser of hostile bytes; FUZZ_ARGS="--seconds=600 tar"
	@.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/pip install -q -e '.[fuzz]'
	@.venv/bin/python tests/fuzz/run.py $(FUZZ_ARGS)

vm-test: setup ## what needs a kernel with fs-verity, in a virtual machine; VM_KERNEL=backports
	@tools/setup --vm
	@.venv/bin/python vm-tests/run.py --kernel=$(VM_KERNEL) $(VM_ARGS)

setup: ## the packages, /dev/fuse and .venv that everything here needs
	@tools/setup

clean: ## remove what was made in this checkout
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
