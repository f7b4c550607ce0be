#!/usr/bin/env bash
# The tests from nothing: makes .venv once, then runs pytest. Arguments go to pytest: bash scripts/test.sh -k losses
source "$(dirname "$0")/environment.sh"
exec python -m pytest "$@"
