#!/usr/bin/env bash
# Installs what is missing into .venv and runs the tests.
#
#   bash launch/test.sh                     all tests; those of real text encoders skip
#   TIGER_EXTRAS=dev-text bash launch/test.sh   with them
#   bash launch/test.sh tests/test_beam.py -k exhaustive     any arguments of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare_environment "${TIGER_EXTRAS:-dev}"
# Compiled programs are kept between runs: most of the time goes into compiling.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv/jax_cache}
exec "$PYTHON" -m pytest "$@"
