#!/usr/bin/env bash
# The whole path on a small generated catalogue, on a CPU, in a few minutes: installs into .venv,
# prepares the data, makes Semantic IDs, trains TIGER, shows recommendations, evaluates.
# The last line is the evaluation as JSON.
#
#   bash launch/quickstart.sh          results in work/quickstart
#   bash launch/quickstart.sh --tiny   a few steps only, to see that everything runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
  "") size=() folder=work/quickstart ;;
  --tiny)
    folder=work/quickstart_tiny
    # What an older version left there may not be gone on with.
    rm -rf "$folder"
    size=(--gin.TRAIN_STEPS=20 --gin.EVAL_PERIOD=20 --gin.NUM_EPOCHS=20 "--gin.FOLDER='$folder'")
    ;;
  *)
    echo "error: unknown option $1; the only one is --tiny" >&2
    exit 2
    ;;
esac

source launch/environment.sh
prepare_environment "${TIGER_EXTRAS:-}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.venv/jax_cache}

verb() {
  local name=$1
  shift
  echo "--- $name" >&2
  "$PYTHON" -m "tiger_jax.$name" --gin_file=gin/experiment/quickstart.gin ${size[@]+"${size[@]}"} "$@"
}

verb prepare
verb make_ids
verb train
verb recommend
echo "--- pages to look at; eval adds one" >&2
find "$folder" -name report.html >&2
verb eval --json
