# shellcheck shell=bash
# Sourced by the other scripts: makes .venv beside the checkout's files and installs the project
# into it. Quick when nothing changed.
#
#   source launch/environment.sh; prepare_environment EXTRAS     # EXTRAS: "", "dev", "dev-text"
#
# Afterwards $PYTHON is the interpreter to use; nothing needs to be activated.

find_python() {
  local candidate
  for candidate in "${TIGER_PYTHON:-}" python3.12 python3.11 python3; do
    if [ -n "$candidate" ] && "$candidate" -c \
      'import sys; sys.exit(not sys.version_info[:2] >= (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; install it or set TIGER_PYTHON" >&2
  return 2
}

prepare_environment() {
  local extras=$1 python stamp wanted
  PYTHON=$PWD/.venv/bin/python
  stamp=.venv/installed
  wanted="$(cksum <setup.py) [$extras]"
  if [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  python=$(find_python) || return
  echo "installing into .venv with $("$python" --version) ..." >&2
  "$python" -m venv .venv || return
  # torch first and pinned: a range would fetch the newest build with gigabytes of CUDA.
  case $extras in
    *text*)
      "$PYTHON" -m pip install --quiet --disable-pip-version-check torch==2.13.0 || return
      ;;
  esac
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}" || return
  echo "$wanted" >"$stamp"
}
