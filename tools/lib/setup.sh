# Installs what is missing, and nothing else: quick and silent when everything is there.
# shellcheck shell=bash

# shellcheck source=tools/lib/say.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/say.sh"
# shellcheck source=tools/lib/apt.sh
. "$ROOT/tools/lib/apt.sh"
# shellcheck source=tools/lib/rust.sh
. "$ROOT/tools/lib/rust.sh"
# shellcheck source=tools/lib/servers.sh
. "$ROOT/tools/lib/servers.sh"

# missing_parts: prints what is missing, one line each: a key, a blank, what a person would call it.
missing_parts() {
  local rust
  have cc || have clang || have gcc || printf 'linker a C compiler as linker (cc): gcc and libc6-dev\n'
  if have rustup; then
    rust=$(missing_rust | tr '\n' ' ')
    [ -z "$rust" ] || printf 'rust Rust %s with %s and %s (missing: %s)\n' \
      "$(pinned channel)" "$(pinned components)" "$(pinned targets)" "${rust% }"
  else
    printf 'rustup rustup, from https://rustup.rs\n'
  fi
  find_nats >/dev/null || printf 'nats nats-server %s or newer\n' "$NATS_MINIMUM"
  find_redis >/dev/null || printf 'redis redis-server %s or newer\n' "$REDIS_MINIMUM"
}

setup() {
  local missing
  missing=$(missing_parts)
  [ -n "$missing" ] || return 0
  step "installing what is missing"
  sed 's/^[a-z]* /  /' <<<"$missing" >&2
  mkdir -p "$CACHE"
  local started=$EPOCHREALTIME
  # Two scripts that start together must not install twice: the second one waits, and looks again.
  # No condition around it: bash would ignore `set -e` inside, and go on after a failure.
  (
    flock 9
    install_missing
  ) 9>"$CACHE/lock"
  say "installed in $(seconds "$started") s"
}

install_missing() {
  local missing
  missing=$(missing_parts)
  if grep -q '^rustup ' <<<"$missing"; then
    die 3 "rustup is missing: install it from https://rustup.rs and try again"
  fi
  if ! is_debian && grep -qv '^rust ' <<<"$missing"; then
    die 3 "this script installs by itself only on Debian and Ubuntu; please install:
$(grep -v '^rust ' <<<"$missing" | sed 's/^[a-z]* /  /')
(BUSBAR_NATS_SERVER and BUSBAR_REDIS_SERVER may name a server outside PATH)"
  fi
  # One after the other, outside of any condition, so that the first failure ends it.
  local part
  for part in $(cut -d ' ' -f 1 <<<"$missing"); do
    case $part in
      linker) apt_install gcc libc6-dev ;;
      rust) install_rust ;;
      nats) install_nats ;;
      redis) install_redis ;;
    esac
  done
}
