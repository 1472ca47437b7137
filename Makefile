# make mount   everything from a fresh Debian or Ubuntu to a mounted ./mnt        make umount   ends it
# make test    what the tests need, then lint, types and tests                    make lint     only lint and types
# make bench   speed beside the bare directory and bindfs                         make clean    what make made

BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check

RUN_PACKAGES := fuse3 libfuse3-dev pkg-config gcc libc6-dev python3 python3-dev python3-venv
TEST_PACKAGES := attr ca-certificates curl git libcurl4 rsync sqlite3 tar vim

.PHONY: mount umount test lint bench clean

mount: .venv/installed
	@mkdir -p mnt 2>/dev/null || true  # fails on a dead mount, which mounting takes over
	@$(BIN)/depotfs mount --daemon mnt
	@echo "Mounted at ./mnt; try:  cp README.md mnt/default/ && cat mnt/default/README.md"
	@echo "What is stored, by id:  ls -l mnt/default"
	@echo "Unmount:                make umount"

umount:
	@$(BIN)/depotfs umount mnt

test: .venv/installed-tests lint
	@tests/setup/build-servers
	$(BIN)/python -m pytest -q -n 4 --dist loadgroup

lint: .venv/installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/installed-tests
	@tests/setup/install-missing bindfs
	$(BIN)/python -m tests.bench

clean:
	@! mountpoint -q mnt || { echo "First: make umount" >&2; exit 1; }
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@rmdir mnt 2>/dev/null || true

# Editable, so that neither needs to be made again when the sources change.
.venv/installed: pyproject.toml
	@tests/setup/install-missing $(RUN_PACKAGES)
	@tests/setup/make-venv .venv
	@echo "Installing depotfs into .venv"
	@$(PIP) -e .
	@touch $@

.venv/installed-tests: .venv/installed
	@tests/setup/install-missing $(TEST_PACKAGES)
	@echo "Installing what the tests need into .venv"
	@$(PIP) -e '.[test]'
	@touch $@
