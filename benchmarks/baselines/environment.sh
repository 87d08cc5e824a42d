#!/usr/bin/env bash
# Makes an environment for RecBole, which wants older numpy, scipy and pandas than the project.
#   bash benchmarks/baselines/environment.sh [FOLDER]     # work/recbole by default
# Prints its interpreter, for --python of benchmarks.baselines.ranked_lists.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=${1:-work/recbole}
if [ ! -e "$folder/complete" ]; then
  "${TIGER_PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "recbole==1.2.1" "numpy<2" "pandas<2.2" "scipy<1.13" "setuptools<81"
  touch "$folder/complete"
fi
echo "$(cd "$folder" && pwd)/bin/python"
