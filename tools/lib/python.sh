# Packages of PyPI for tests that speak to us as others would. Nothing is installed into the system's Python.
# shellcheck shell=bash

# python_packages REQUIREMENTS: prints a folder for PYTHONPATH that holds exactly these packages. Every file is compared with its
# SHA-256; the folder is made once and goes by the content of REQUIREMENTS and the version of Python.
python_packages() {
  local requirements=$1 id folder work
  have python3 || apt_install python3
  have_pip || apt_install python3-pip
  id=$(python3 --version | cat - "$requirements" | sha256sum | cut -c 1-16)
  folder=$CACHE/python-$id
  if [ ! -d "$folder" ]; then
    say "fetching $(grep -c '==' "$requirements") packages from PyPI"
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/python.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: --require-hashes \
      --target "$work" --requirement "$requirements" >&2 ||
      die 3 "the packages of $requirements cannot be had from PyPI"
    # Whoever was quicker made the same.
    mv -T "$work" "$folder" 2>/dev/null || rm -rf "$work"
  fi
  printf '%s\n' "$folder"
}

# python_newest PACKAGE FOLDER: installs the newest published version of a package and of what it needs into FOLDER, and says which.
python_newest() {
  have python3 || apt_install python3
  have_pip || apt_install python3-pip
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary=:all: --target "$2" "$1" >&2 ||
    die 3 "$1 cannot be had from PyPI"
  say "$(PYTHONPATH=$2 python3 -m pip show "$1" 2>/dev/null | grep -E '^(Name|Version)' | tr '\n' ' ')"
}
