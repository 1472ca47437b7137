# make mount   everything from a fresh Debian or Ubuntu to a mounted ./mnt        make umount   ends it
# make test    what the tests need, then lint, types and tests                    make lint     only lint and types
# make sim     seeds of the simulation, all faults on, until one fails: make sim SEEDS=100000
# make bench   speed beside the bare directory and bindfs                         make clean    what make made

# The one of the packages below; or any other from 3.11 on: make mount PYTHON=python3.13
PYTHON := /usr/bin/python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check

RUN_PACKAGES := fuse3 libfuse3-dev pkg-config gcc libc6-dev python3 python3-dev python3-venv
TEST_PACKAGES := attr ca-certificates curl git rsync sqlite3 tar vim

SEEDS := 100000

.PHONY: mount umount test sim lint bench clean

mount: .venv/installed
	@mkdir -p mnt 2>/dev/null || true  # fails on a dead mount, which mounting takes over
	@$(BIN)/depotfs mount --daemon mnt
	@echo "Mounted at ./mnt; try:  cp README.md mnt/default/ && cat mnt/default/README.md"
	@echo "What is stored, by id:  ls -l mnt/default"
	@echo "Unmount:                make umount"

umount:
	@$(BIN)/depotfs umount mnt

test: .venv/installed-tests lint
	@tests/servers/build
	$(BIN)/python -m pytest -q -n 4 --dist loadgroup

lint: .venv/installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

sim: .venv/installed-tests
	$(BIN)/python -m tests.simulation --jobs 2 --seeds $(SEEDS)

bench: .venv/installed-tests
	@$(call install,bindfs)
	$(BIN)/python -m tests.bench

clean:
	@! mountpoint -q mnt || { echo "First: make umount" >&2; exit 1; }
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find depotfs tests -name __pycache__ -prune -exec rm -rf {} +
	@rmdir mnt 2>/dev/null || true

# Editable, so that neither needs to be made again when the sources change.
.venv/installed: pyproject.toml
	@$(call install,$(RUN_PACKAGES))
	@echo "Installing depotfs into .venv"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("depotfs needs Python 3.11 or newer")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(PIP) -e .
	@touch $@

.venv/installed-tests: .venv/installed
	@$(call install,$(TEST_PACKAGES))
	@echo "Installing what the tests need into .venv"
	@$(PIP) -e '.[test]'
	@touch $@

# Shell: those of the Debian packages $(1) that are missing are installed, through sudo unless run by root.
define install
set -eu; missing=; sudo=; \
if ! command -v dpkg-query >/dev/null; then \
	echo "Not a Debian or Ubuntu: make sure that you have what they call $(1)" >&2; exit; \
fi; \
for package in $(1); do \
	dpkg-query -W -f '$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q ^ii || missing="$$missing $$package"; \
done; \
[ -n "$$missing" ] || exit 0; \
[ "$$(id -u)" = 0 ] || sudo=$$(command -v sudo) || { echo "First, as root: apt-get install$$missing" >&2; exit 1; }; \
echo "Installing$$missing"; \
said=$$({ $$sudo apt-get -q update; $$sudo env DEBIAN_FRONTEND=noninteractive \
	apt-get -qy install --no-install-recommends $$missing; } 2>&1) || { echo "$$said" >&2; exit 1; }
endef
