# Packages of Debian and Ubuntu: the only systems on which the scripts install by themselves.
# shellcheck shell=bash

APT_UPDATED=

is_debian() {
  local ID='' ID_LIKE=''
  # shellcheck disable=SC1091  # A file of the system.
  [ ! -r /etc/os-release ] || . /etc/os-release
  case " $ID $ID_LIKE " in
    *' debian '* | *' ubuntu '*) have apt-get && have dpkg-deb ;;
    *) false ;;
  esac
}

can_be_root() { [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt-get update, once per run, and only after something was found missing. apt does not wait for
# the lock of its lists by itself.
apt_update() {
  [ -z "$APT_UPDATED" ] || return 0
  APT_UPDATED=yes
  if ! can_be_root; then
    say "not root and no sudo without a password: using the package lists as they are"
    return 0
  fi
  local deadline=$((SECONDS + 300)) output
  say "apt-get update"
  until output=$(as_root apt-get -q update 2>&1); do
    case $output in
      *'get lock'* | *'Unable to lock'* | *'is locked'*) ;;
      *)
        say "$output"
        say "apt-get update failed: going on with the package lists as they are"
        return 0
        ;;
    esac
    [ "$SECONDS" -lt "$deadline" ] || die 1 "another apt-get holds the lock of the package lists"
    sleep 2
  done
}

# apt_install PACKAGE…
apt_install() {
  can_be_root || die 3 "these packages are missing, and installing them needs root: $*"
  apt_update
  say "apt-get install $*"
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >&2
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# apt_unpack FOLDER PACKAGE…: downloads packages and unpacks them into FOLDER/root. Nothing is
# installed and no service is started.
apt_unpack() {
  local folder=$1
  shift
  mkdir -p "$folder/debs" "$folder/root"
  (cd "$folder/debs" && apt-get -q download "$@" >apt.log 2>&1) || {
    cat "$folder/debs/apt.log" >&2
    return 1
  }
  local deb
  for deb in "$folder"/debs/*.deb; do
    dpkg-deb -x "$deb" "$folder/root"
  done
}

# apt_depends FOLDER: the libraries that the packages in FOLDER/debs ask for and that are not installed.
apt_depends() {
  local deb name
  for deb in "$1"/debs/*.deb; do
    dpkg-deb -f "$deb" Pre-Depends Depends
  done | sed 's/^[A-Za-z-]*: //' | tr ',' '\n' | sed 's/|.*//; s/(.*//; s/:any//; s/[[:space:]]//g' | sort -u |
    while read -r name; do
      case $name in
        lib* | lua*) is_installed "$name" || printf '%s\n' "$name" ;;
      esac
    done
}
