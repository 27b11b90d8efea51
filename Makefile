# Everything sets itself up in .venv/; a second call starts at once. `make audit`, `make test`, `make bench`, `make clean`.
#
#   make audit                                    makes a sample archive in archive/, audits it into scores/
#   make audit ARCHIVE=~/films OUTPUT=~/scores    the same on your own
#   make audit ARCHIVE=~/films OPTIONS='--limit 100 --detectors metadata'
#   make test TESTS='tests/test_layers.py -x'
#   make chaos                                    the long form of tests/chaos; `make test` runs the short one

# The newest that is there and can make a virtual environment.
PYTHON ?= $(shell for minor in 13 12 11; do \
  python3.$$minor -c 'import ensurepip, venv' 2>/dev/null && echo python3.$$minor && break; done)
OUTPUT ?= scores
TESTS ?=
OPTIONS ?=
# Through the environment, so that a quote or a space in a name is no matter.
export ARCHIVE OUTPUT

# A virtual environment does not survive being moved: its stamps are named after where it was made.
HERE := $(shell pwd -P | cksum | cut -d' ' -f1)
AUDIT_READY := .venv/ready-audit-$(HERE)
TEST_READY := .venv/ready-test-$(HERE)
CHAOS_READY := .venv/ready-chaos-$(HERE)
PIP := .venv/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
HOME_OF = case "$$$(1)" in "~/"*) $(1)="$$HOME/$${$(1)\#"~/"}";; esac

.PHONY: audit test chaos bench clean
.DELETE_ON_ERROR:

audit: $(AUDIT_READY)
	@$(call HOME_OF,ARCHIVE); $(call HOME_OF,OUTPUT); \
	if [ -z "$$ARCHIVE" ]; then ARCHIVE=archive; .venv/bin/python -m deephotlink.pipelines.samples.archive archive || exit; fi; \
	exec .venv/bin/deephotlink audit "$$ARCHIVE" --output "$$OUTPUT" $(OPTIONS)

test: $(TEST_READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@# The package is this folder, whatever it is called: mypy sees it under its name through a link.
	@mkdir -p .venv/mypy && ln -sfn ../.. .venv/mypy/deephotlink
	cd .venv/mypy && ../bin/mypy --config-file ../../pyproject.toml --explicit-package-bases \
	  -p deephotlink.models -p deephotlink.transforms -p deephotlink.pipelines
	.venv/bin/python -m pytest --timeout 600 -n auto --maxprocesses 4 --dist loadfile $(TESTS)

chaos: $(CHAOS_READY)
	CHAOS=long .venv/bin/python -m pytest -s --timeout 7200 $(or $(TESTS),tests/chaos)

bench: $(TEST_READY)
	.venv/bin/python -m tests.bench.run $(OPTIONS)

clean:
	rm -rf .venv build dist deephotlink.egg-info .ruff_cache .mypy_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(AUDIT_READY): .venv/made-$(HERE) setup.py pyproject.toml constraints.txt _version.py
	@echo "Installing into .venv (some minutes, once) ..."
	@$(PIP) --editable '.[samples]'
	@touch $@

$(TEST_READY): .venv/made-$(HERE) setup.py pyproject.toml constraints.txt _version.py
	@echo "Installing into .venv, with what the tests need (some minutes, once) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(AUDIT_READY)

$(CHAOS_READY): $(TEST_READY)
	@echo "Installing the stores of the chaos suite into .venv ..."
	@$(PIP) --editable '.[dev,chaos]'
	@touch $@

.venv/made-$(HERE):
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  echo "expected python3.13, python3.12 or python3.11 with venv on PATH, found none: make PYTHON=/path/to/python3.13" >&2; \
	  exit 2; \
	fi; \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "expected Python 3.11 to 3.13, and $$python is none: make PYTHON=/path/to/python3.13" >&2; exit 2; }; \
	"$$python" -m venv --clear .venv
	@touch $@
