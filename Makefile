# Everything sets itself up in .venv/; a second call starts at once. `make audit`, `make test`, `make bench`, `make clean`.
#
#   make audit                                    makes a sample archive in archive/, audits it into scores/
#   make audit ARCHIVE=~/films OUTPUT=~/scores    the same on your own
#   make audit ARCHIVE=~/films OPTIONS='--limit 100 --detectors metadata'
#   make test TESTS='tests/test_layers.py -x'
#   make chaos                                    the long form of tests/chaos; `make test` runs the short one

PYTHON ?= python3.11
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
	@$(PIP) --editable .
	@touch $@

$(TEST_READY): .venv/made-$(HERE) setup.py pyproject.toml constraints.txt _version.py
	@echo "Installing into .venv, with what the tests need (some minutes, once) ..."
	@$(PIP) --editable '.[dev,s3,gcs,azure,train]'
	@touch $@ $(AUDIT_READY)

$(CHAOS_READY): $(TEST_READY)
	@echo "Installing the stores of the chaos suite into .venv ..."
	@$(PIP) --editable '.[dev,s3,gcs,azure,train,chaos]'
	@touch $@

.venv/made-$(HERE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is none: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv --clear .venv
	@touch $@
