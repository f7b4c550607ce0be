#!/usr/bin/env bash
# The tests from nothing: makes .venv once, then runs pytest on all cores. Arguments go to pytest, after these, so that
# the last one counts: bash scripts/test.sh -k losses, bash scripts/test.sh -n 0 tests/test_losses.py
source "$(dirname "$0")/environment.sh"
# What is compiled is kept: every worker would compile all tests anew, and every process that they start all modules.
export PYTHONDONTWRITEBYTECODE=
exec python -m pytest -n logical --maxprocesses 8 --dist worksteal "$@"
