#!/usr/bin/env bash
# One of T5X's scripts with TIGER on this machine, all its devices included.
#
#   bash launch/t5x.sh train --gin.MODEL_DIR=\"work/beauty/runs/t5x\" [--gin.NAME=VALUE ...]
#   bash launch/t5x.sh finetune|eval|infer --gin.NAME=VALUE ...
#
# T5X_CHECKOUTS is the folder of the checkouts t5x, airio and jestimator (docs/t5x.md), work/t5x if
# not set; TIGER_PYTHON a Python with the extra [t5x], .venv/bin/python if not set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

verb=${1:-}
case $verb in
  train | finetune) script=train ;;
  eval | infer) script=$verb ;;
  *)
    echo "error: unknown command '$verb'; choose train, finetune, eval or infer" >&2
    exit 2
    ;;
esac
shift

checkouts=${T5X_CHECKOUTS:-work/t5x}
python=${TIGER_PYTHON:-.venv/bin/python}
export PYTHONPATH=$checkouts/t5x:$checkouts/airio:$checkouts/jestimator${PYTHONPATH:+:$PYTHONPATH}
"$python" -m tiger_jax.t5x_environment >&2
exec "$python" -m "t5x.$script" --gin_file="gin/t5x/$verb.gin" "$@"
