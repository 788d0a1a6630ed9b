# What `tools/bench peers` compares with: programs of PyPI, npm, crates.io and Debian, each at the version that its lock names.
# shellcheck shell=bash

# shellcheck source=tools/lib/python.sh
. "$ROOT/tools/lib/python.sh"

# peer_field FOLDER KEY: a word of its peer.json.
peer_field() { sed -n "s/^  \"$2\": \"\([^\"]*\)\".*/\1/p" "$ROOT/tools/peers/$1/peer.json"; }

# node_packages FOLDER: prints a folder that holds exactly what package-lock.json names. No script of a package is run.
node_packages() {
  local source=$1 id folder work
  have node && have npm || apt_install nodejs npm >&2 || die 3 "Node.js and npm are missing"
  id=$(node --version | cat - "$source/package-lock.json" | sha256sum | cut -c 1-16)
  folder=$CACHE/node-$id
  if [ ! -d "$folder" ]; then
    say "fetching $(peer_field "${source##*/}" name) from npm"
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/node.XXXXXX")
    cp "$source/package.json" "$source/package-lock.json" "$work"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --silent >&2) || die 3 "the packages of $source cannot be had from npm"
    # Whoever was quicker made the same.
    mv -T "$work" "$folder" 2>/dev/null || rm -rf "$work"
  fi
  printf '%s\n' "$folder"
}

# rust_program FOLDER: prints a folder that holds the adapter, built with exactly what Cargo.lock names. Only the program is kept.
rust_program() {
  local source=$1 id folder work
  id=$(cat "$ROOT/rust-toolchain.toml" "$source/Cargo.toml" "$source/Cargo.lock" "$source"/src/*.rs | sha256sum | cut -c 1-16)
  folder=$CACHE/rust-$id
  if [ ! -d "$folder" ]; then
    say "building the adapter of $(peer_field "${source##*/}" name) with packages of crates.io (some minutes on two cores)"
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/rust.XXXXXX")
    if ! (cd "$ROOT" && cargo install --quiet --locked --path "$source" --root "$work" --no-track --target-dir "$work/target" >&2); then
      rm -rf "$work"
      die 3 "the adapter of $source cannot be built"
    fi
    # Whoever was quicker made the same.
    mv -T "$work/bin" "$folder" 2>/dev/null || true
    rm -rf "$work"
  fi
  printf '%s\n' "$folder"
}

# debian_packages PACKAGE…: installs what is missing; Debian says which version.
debian_packages() {
  local package
  for package in "$@"; do
    is_installed "$package" || apt_install "$package" >&2 || die 3 "$package cannot be installed"
  done
}

has_postgres() { have postgres || [ -n "$(find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null)" ]; }

# install_peer FOLDER: prints where its packages are; ends with what is missing on stderr.
install_peer() {
  local source=$ROOT/tools/peers/$1
  if [ "$(peer_field "$1" store)" = postgres ]; then
    has_postgres || die 3 "there is no PostgreSQL: install the package postgresql"
  fi
  case $(peer_field "$1" kind) in
    python) python_packages "$source/requirements.txt" ;;
    node) node_packages "$source" ;;
    rust) rust_program "$source" ;;
    debian)
      # shellcheck disable=SC2046  # Several words are several packages.
      debian_packages $(sed -n 's/^  "packages": \[\(.*\)\].*/\1/p' "$source/peer.json" | tr -d '",')
      ;;
  esac
}

# install_peers LIST [NAME…]: installs the named peers, or all, and writes down what is where and what is skipped, for the runner.
install_peers() {
  local list=$1 name packages words
  shift
  [ "$#" -gt 0 ] || mapfile -t < <(cd "$ROOT/tools/peers" && dirname -- */peer.json)
  [ "$#" -gt 0 ] || set -- "${MAPFILE[@]}"
  words=$(mktemp)
  : >"$list"
  for name in "$@"; do
    [ -f "$ROOT/tools/peers/$name/peer.json" ] || die 2 "there is no peer $name in tools/peers"
    if packages=$(install_peer "$name" 2> >(tee "$words" >&2)); then
      printf '%s\t%s\t\n' "$name" "$packages" >>"$list"
    else
      printf '%s\t\t%s\n' "$name" "$(grep '^error: ' "$words" | tail -n 1 | sed 's/^error: //; s/\t/ /g')" >>"$list"
    fi
  done
  rm -f "$words"
}
