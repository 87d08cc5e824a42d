#!/usr/bin/env bash
# Prepared data -> soft targets, Semantic IDs -> training -> evaluation -> JSON, in pieces of a few
# minutes: what the time limit cuts off goes on where it was when the same command is given again.
#
#   bash launch/gpu.sh [--limit=540] [--seeds="0 1 2"] [--out=results/gpu] CARD.gin ... [-- FLAG ...]
#
# The limit is in seconds; `teach` alone has none, as it cannot go on where it was. Each card runs
# once a seed, with the IDs of the first seed, as run NAME-SEED (NAME is the card's file name); OUT
# gets NAME-SEED.json, what `eval` prints with --json. FLAGs go to every verb
# (--gin.TRAIN_STEPS=1000). Installs nothing: wants a Python with jax, flax, optax, orbax and
# gin-config (TIGER_PYTHON, else python3), and prepared folders (tiger_jax.prepare), which may come
# from another machine. OUT holds results of one set of FLAGs alone.
#
# Exit code: 0 all done; 75 time is up, give the same command again; 2 a fault in the input.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=540 seeds="0 1 2" out=results/gpu cards=() flags=()
while (($#)); do
  case $1 in
    --limit=*) limit=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --out=*) out=${1#*=} ;;
    --)
      shift
      flags=("$@")
      break
      ;;
    *.gin) cards+=("$1") ;;
    *)
      echo "error: unknown argument $1; see the first lines of launch/gpu.sh" >&2
      exit 2
      ;;
  esac
  shift
done
if ((!${#cards[@]})); then
  echo "error: no card; give one of gin/experiment/*.gin" >&2
  exit 2
fi

python=${TIGER_PYTHON:-python3}
# Programs compiled in one piece serve the next.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/work/jax_cache}
mkdir -p "$out"
given=$(printf '%s\n' ${flags[@]+"${flags[@]}"})
if [ -e "$out/flags" ] && [ "$(cat "$out/flags")" != "$given" ]; then
  echo "error: $out has results of other flags: $(tr '\n' ' ' <"$out/flags"); give another --out" >&2
  exit 2
fi
printf '%s\n' "$given" >"$out/flags"

# verb CARD NAME FLAG ...: runs a verb until the limit; ends everything with 75 when it has come.
verb() {
  local card=$1 name=$2 left=$((limit - SECONDS)) code=0
  shift 2
  if ((left > 0)); then
    timeout --kill-after=10 "$left" "$python" -m "tiger_jax.$name" --gin_file="$card" \
      "$@" ${flags[@]+"${flags[@]}"} || code=$?
  else
    code=124
  fi
  case $code in
    0) ;;
    124 | 137)
      echo "time is up during $name of $card; give the same command again" >&2
      exit 75
      ;;
    *) exit "$code" ;;
  esac
}

for card in "${cards[@]}"; do
  experiment=$(basename "$card" .gin)
  made=$out/$experiment-ids.json
  for seed in $seeds; do
    run=$experiment-$seed
    if [ -e "$out/$run.json" ]; then
      continue
    fi
    if [ ! -e "$made" ]; then
      if [ ! -e "$out/$experiment-taught" ]; then
        "$python" -m tiger_jax.teach --gin_file="$card" ${flags[@]+"${flags[@]}"}
        touch "$out/$experiment-taught"
      fi
      verb "$card" make_ids --seed="$seed" --json >"$made.tmp"
      tail -n 1 "$made.tmp" >"$made"
      rm "$made.tmp"
    fi
    verb "$card" train --run="$run" --seed="$seed"
    verb "$card" eval --run="$run" --json >"$out/$run.tmp"
    tail -n 1 "$out/$run.tmp" >"$out/$run.json"
    rm "$out/$run.tmp"
  done
done
echo "all done: $out" >&2
