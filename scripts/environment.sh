# Sourced by demo.sh and test.sh: makes .venv once from requirements.txt and puts it on the path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $("$python" --version 2>&1) is too old; set PYTHON to a Python 3.11 or newer" >&2
  exit 1
}
wanted=$(cat requirements.txt <("$python" --version) | sha256sum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
  echo "making .venv from requirements.txt (once; a few minutes)"
  rm -rf .venv
  "$python" -m venv .venv
  # torch first and by its exact version, so that no later package picks another build of it
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep -o '^torch==[^ ]*' requirements.txt)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
  echo "$wanted" >.venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH"
