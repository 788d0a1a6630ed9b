# The dependency check: licences, bans, origins; advisories when their database answers.
# shellcheck shell=bash

DENY_VERSION=0.20.2

find_deny() {
  local file
  for file in "$(type -P cargo-deny || true)" "$CACHE/cargo-deny/bin/cargo-deny"; do
    if [ -n "$file" ] && [ "$("$file" --version 2>/dev/null)" = "cargo-deny $DENY_VERSION" ]; then
      printf '%s\n' "$file"
      return 0
    fi
  done
  return 1
}

# Its own build folder goes away afterwards: only the program is kept. Unoptimised, it is built in
# a fifth of the time and checks in three seconds.
install_deny() {
  find_deny >/dev/null && return 0
  say "building cargo-deny $DENY_VERSION once (about a minute on two cores)"
  local work
  work=$(mktemp -d "$CACHE/cargo-deny.XXXXXX")
  CARGO_TARGET_DIR=$work CARGO_PROFILE_DEV_DEBUG=0 \
    cargo install --quiet --locked --debug --force --root "$CACHE/cargo-deny" "cargo-deny@$DENY_VERSION" >&2
  rm -rf "$work"
}

check_dependencies() {
  mkdir -p "$CACHE"
  (
    flock 9
    install_deny
  ) 9>"$CACHE/cargo-deny.lock"
  local deny
  deny=$(find_deny)
  "$deny" check bans licenses sources
  check_advisories "$deny"
}

# A database that does not answer is told loudly and is no failure; an advisory is one.
check_advisories() {
  local output status=0
  output=$(timeout 120 "$1" check advisories 2>&1) || status=$?
  case $status:$output in
    0:*) say "$output" ;;
    124:* | *'failed to fetch advisory database'*) say "advisories: not checked" ;;
    *)
      say "$output"
      return 1
      ;;
  esac
}
