#!/usr/bin/env bash
# Measure and test everything on one GPU, in at most 8 minutes: `benchmarks/gpu.sh [OPTIONS]` (see gpu.py --help).
# PYTHON is the interpreter: by default that of `uv run`. `--device cpu --quick` tries all of it where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
exec ${PYTHON:-uv run --group bench python} benchmarks/gpu.py "$@"
