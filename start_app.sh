#!/usr/bin/env bash
# Installs i2v into .venv when something changed, looks at the machine, and serves the page.
#   ./start_app.sh [--check] [--share] [--port N] [--host H] [--auth user:password]
# --check stops after the report on the machine.
# CHUNK_SIZE=4 USE_FP16=true ./start_app.sh fixes how jobs are run (or USE_BF16); i2v chooses for each job otherwise.
set -euo pipefail
cd "$(dirname "$0")"

check=no
arguments=()
for argument in "$@"; do
  if [ "$argument" = "--check" ]; then check=yes; else arguments+=("$argument"); fi
done

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "i2v: needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3 ./start_app.sh" >&2
  exit 2
fi
if [ ! -x .venv/bin/python ]; then
  echo "creating .venv" >&2
  "$python" -m venv .venv || { echo "i2v: .venv could not be created; on Debian: apt install python3-venv" >&2; exit 2; }
fi
# The stamp holds what was installed last; pip runs only when requirements.txt is different.
if ! cmp -s requirements.txt .venv/installed.txt; then
  echo "installing what changed in requirements.txt (the first time takes minutes)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt .venv/installed.txt
fi

.venv/bin/python -m i2v.cli.startup
status=0
.venv/bin/python -m i2v doctor || status=$?
if [ "$check" = yes ]; then exit "$status"; fi
exec .venv/bin/python app.py ${arguments[@]+"${arguments[@]}"}
