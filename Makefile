# make demo [IMAGE=oci:/path:tag]   pull an image, look into it without root
# make test [PYTEST_ARGS=...]       the whole test suite
# make bench [BENCH_ARGS=...]       beside the peers; an hour. bench-quick: two minutes, small inputs
# make campaign [CAMPAIGN_ARGS=...] kill commands, fill disks, crowd a repository; some minutes
# make campaign-fuse                flips, crowds and random questions on FUSE mounts; ten minutes
# make fuzz [FUZZ_ARGS=...]         a minute of fuzzing for each parser of hostile bytes
# All set up what is missing first; tools/setup says what that is.

IMAGE =
PYTEST_ARGS =
BENCH_ARGS =
CAMPAIGN_ARGS =
FUZZ_ARGS =
VM_ARGS =
VM_KERNEL = stable
PYTHON_SOURCES = cfsfuse repo tools tests vm-tests

.PHONY: demo test lint format bench bench-quick campaign campaign-fuse fuzz vm-test setup clean

demo: setup
	@tools/demo $(IMAGE)

test: setup
	@tools/in-reach .venv/bin/python -m pytest $(PYTEST_ARGS)

lint: setup
	.venv/bin/ruff check $(PYTHON_SOURCES)
	.venv/bin/ruff format --check $(PYTHON_SOURCES)
	.venv/bin/mypy
	PYTHONPATH=.:repo:tools .venv/bin/lint-imports
	MYPYPATH=tools:tools/bench .venv/bin/mypy tools/*.py tools/bench/*.py
	MYPYPATH=tools:tools/campaign .venv/bin/mypy tools/campaign/*.py
	MYPYPATH=vm-tests:tools .venv/bin/mypy vm-tests/run.py

format: setup
	.venv/bin/ruff check --fix $(PYTHON_SOURCES)
	.venv/bin/ruff format $(PYTHON_SOURCES)

bench: setup
	@tools/setup --peers
	@tools/in-reach .venv/bin/python tools/bench/run.py $(BENCH_ARGS)

bench-quick: setup
	@tools/setup --peers
	@tools/in-reach .venv/bin/python tools/bench/run.py --quick $(BENCH_ARGS)

campaign: setup
	@tools/in-reach .venv/bin/python tools/campaign/run.py $(CAMPAIGN_ARGS)

campaign-fuse: setup
	@CFS_TEST_FLIPS=500 CFS_TEST_STRESS_SECONDS=300 CFS_TEST_EXAMPLES=20000 tools/in-reach \
	    .venv/bin/python -m pytest -s tests/fuse/test_mount_damage.py tests/fuse/test_mount_stress.py

fuzz: setup
	@.venv/bin/python -c 'import atheris' 2>/dev/null || .venv/bin/pip install -q -e '.[fuzz]'
	@.venv/bin/python tests/fuzz/run.py $(FUZZ_ARGS)

vm-test: setup
	@tools/setup --vm
	@.venv/bin/python vm-tests/run.py --kernel=$(VM_KERNEL) $(VM_ARGS)

setup:
	@tools/setup

clean:
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
