# What the scripts say, and where they work. Sourced by every script in tools/ and .ci/.
# shellcheck shell=bash
# shellcheck disable=SC2034  # Others use them.

# The repository, whatever folder the caller stands in.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/busbar
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

# Messages go to stderr: what a script is asked for is all that stands on stdout.
say() { printf '%s\n' "$*" >&2; }
step() { printf '\n== %s\n' "$*" >&2; }

# die STATUS MESSAGE…
die() {
  local status=$1
  shift
  say "error: $*"
  exit "$status"
}

have() { command -v -- "$1" >/dev/null 2>&1; }

# at_least HAVE WANT: whether version HAVE is WANT or newer.
at_least() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# seconds START: how long ago START ($EPOCHREALTIME) was, with one decimal.
seconds() {
  local now=$EPOCHREALTIME
  local tenths=$(((${now/[.,]/} - ${1/[.,]/}) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}
