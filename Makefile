# make demo    a repository end to end on this machine: no internet, no git, nothing left behind
# make test    the tests for everyday work, on SQLite and on a real PostgreSQL; ARGS="-k name" for some, WORKERS=4 on more cores
# make test-all    the slow ones too, real workers as a user who is not root, and chaos
# make lint    style, types, import directions
# make fuzz    hostile packs against the pack reader and compared with git, random clones compared with git's, for five minutes; SECONDS=60 for one, ARGS="--seed 1" to repeat a run
# make chaos   kills, freezes and restarts under clones of two clusters, on both databases, and lost machines; ARGS="--jobs 400 --minutes 15"
# make bench   a benchmark against git and dulwich, on repositories that it generates; ARGS="--growth" for how it grows
# make load    what every endpoint, page of the admin and round of work costs with 10,000 repositories, on a PostgreSQL of its own; ARGS="--runs 5"
#
# Each makes .venv first where it is missing or older than requirements.txt; PYTHON=/path/to/python picks another Python.

VENV ?= .venv
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
ARGS ?=
SECONDS ?= 300
WORKERS ?= 2
# "-m coverage run", for a run that measures coverage.
MEASURED ?=
QUIETLY := -q --no-header -n $(WORKERS)

# The tests start hundreds of processes, and each would compile the same modules.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed-$(shell cksum < requirements.txt | tr ' ' '-')

.PHONY: setup demo test test-all test-sqlite test-postgresql test-unprivileged lint bench load fuzz chaos FORCE

setup: $(INSTALLED)

# Copies of a checkout may come without the links that make an environment run.
$(INSTALLED): $(shell test -x "$(BIN)/python" || echo FORCE)
	@for python in $(PYTHON); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Installing into $(VENV) ($$("$$python" --version)); this takes a minute"; \
	        "$$python" -m venv --clear "$(VENV)" \
	            && "$(BIN)/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	            && touch "$@"; \
	        exit; \
	    fi; \
	done; \
	echo "Python 3.11 or newer with its venv module is needed (Debian: apt install python3-venv)." >&2; \
	echo "Name one that is not on PATH: make PYTHON=/path/to/python3.11" >&2; \
	exit 1

demo: setup
	@"$(BIN)/python" $(MEASURED) manage.py demo $(ARGS)

# A second database shows nothing new of what touches none.
test: setup
	@env -u DATABASE_URL "$(BIN)/python" -m pytest $(QUIETLY) --quick $(ARGS)
	@"$(BIN)/python" -m tests.postgres "$(BIN)/python" -m pytest $(QUIETLY) --quick --database-tests $(ARGS)

test-all: test-sqlite test-postgresql test-unprivileged
	@$(MAKE) --no-print-directory chaos ARGS=

test-sqlite: setup
	@env -u DATABASE_URL "$(BIN)/python" $(MEASURED) -m pytest $(QUIETLY) $(ARGS)

test-postgresql: setup
	@"$(BIN)/python" -m tests.postgres "$(BIN)/python" $(MEASURED) -m pytest $(QUIETLY) --database-tests $(ARGS)

# The server of PostgreSQL does not come along with what that user can read.
test-unprivileged: setup
	@[ "$$(id -u)" != 0 ] || "$(BIN)/python" -m tests.unprivileged $(QUIETLY) $(ARGS) \
	    tests/integration tests/sandbox tests/git/test_clone.py \
	    --ignore=tests/integration/test_frozen_database.py

lint: setup
	"$(BIN)/ruff" check
	"$(BIN)/ruff" format --check
	"$(BIN)/mypy" --exclude "^tests/host_project/" coderepos config tests manage.py
	"$(BIN)/lint-imports"

bench: setup
	"$(BIN)/python" -m tests.benchmarks.clone_vs_git $(ARGS)

load: setup
	@env -u DATABASE_URL "$(BIN)/python" -m tests.load $(ARGS)

fuzz: setup
	@"$(BIN)/python" -m tests.fuzz.pack --seconds $$(($(SECONDS) / 3)) $(ARGS)
	@"$(BIN)/python" -m tests.fuzz.differential --seconds $$(($(SECONDS) / 3)) $(ARGS)
	@"$(BIN)/python" -m tests.fuzz.clones --seconds $$(($(SECONDS) / 3)) $(ARGS)

chaos: setup
	@env -u DATABASE_URL "$(BIN)/python" -m tests.chaos $(ARGS)
