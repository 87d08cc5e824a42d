#!/usr/bin/env bash
# A Cloud TPU VM, of one or many workers, from its creation to the evaluation of what it trained.
#
#   bash launch/tpu_vm.sh create  NAME ZONE TYPE             a TPU VM of a type such as v4-32
#   bash launch/tpu_vm.sh install NAME ZONE                  tiger_jax on all its workers
#   bash launch/tpu_vm.sh train   NAME ZONE TYPE FLAG ...    flags of tiger_jax.train
#   bash launch/tpu_vm.sh eval    NAME ZONE FLAG ...         flags of tiger_jax.eval
#   bash launch/tpu_vm.sh delete  NAME ZONE
#
# `train` makes the TPU again when it was preempted, installs, and goes on from the last checkpoint.
# The prepared folder must be on storage that all workers see under one path (Filestore, or a bucket
# mounted with gcsfuse). TIGER_REPOSITORY is the address that the workers clone; TPU_VERSION, if
# set, their image.
set -euo pipefail

version=${TPU_VERSION:-tpu-ubuntu2204-base}
repository=${TIGER_REPOSITORY:-}
# Read by the workers' shells: the checkout, its Python, and how JAX finds the other workers.
# shellcheck disable=SC2016
enter='cd "${TIGER_CHECKOUT:-tiger_jax}"'
# shellcheck disable=SC2016
python='"${TIGER_PYTHON:-.venv/bin/python}"'
# shellcheck disable=SC2016
processes='"--processes=${TIGER_PROCESSES:-auto}"'

usage() {
  echo "error: $1; see the first lines of launch/tpu_vm.sh" >&2
  exit 2
}

tpu() {
  local action=$1
  shift
  gcloud compute tpus tpu-vm "$action" "$name" --zone="$zone" "$@"
}

on_workers() {
  tpu ssh --worker="$1" --command="$2"
}

create() {
  tpu create --accelerator-type="$type" --version="$version"
}

install() {
  on_workers all "git clone '$repository' tiger_jax || git -C tiger_jax pull; $enter &&
    python3 -m venv .venv && .venv/bin/pip install --quiet -e . 'jax[tpu]>=0.10,<0.12'"
}

delete() {
  tpu delete --quiet
}

# Arguments as one text that a shell on a worker reads as the same arguments.
quoted() {
  (($#)) && printf ' %q' "$@"
}

train() {
  local attempt state
  for attempt in {1..100}; do
    if on_workers all "$enter && $python -m tiger_jax.train $processes$(quoted "$@")"; then
      return
    fi
    state=$(tpu describe --format='value(state)' || echo GONE)
    case $state in
      PREEMPTED | TERMINATED | GONE) ;;
      *)
        echo "error: training failed while the TPU is $state; its last lines say why" >&2
        exit 1
        ;;
    esac
    echo "the TPU is $state: making it again, attempt $attempt" >&2
    [ "$state" = GONE ] || delete
    create
    install
  done
  echo "error: preempted 100 times" >&2
  exit 1
}

verb=${1:-} name=${2:-} zone=${3:-} type=${4:-}
[ -n "$zone" ] || usage "a command, a name and a zone are needed"
case $verb in
  install | train) [ -n "$repository" ] || usage "$verb needs TIGER_REPOSITORY" ;;
esac
case $verb in
  create | train) [ -n "$type" ] || usage "$verb needs a type, such as v4-32" ;;
esac
case $verb in
  create | delete) "$verb" ;;
  install) install ;;
  train)
    shift 4
    train "$@"
    ;;
  eval)
    shift 3
    on_workers 0 "$enter && $python -m tiger_jax.eval$(quoted "$@")"
    ;;
  *) usage "unknown command '$verb'" ;;
esac
