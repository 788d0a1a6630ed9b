# The Rust toolchain that rust-toolchain.toml pins, its components, its wasm target, and a linker.
# shellcheck shell=bash

# The pin holds, whatever the caller's environment says.
unset RUSTUP_TOOLCHAIN

if ! have rustup && [ -x "$HOME/.cargo/bin/rustup" ]; then
  PATH=$HOME/.cargo/bin:$PATH
fi

# pinned KEY: the value of one line of rust-toolchain.toml, its list items separated by spaces.
pinned() { sed -n "s/^$1 *= *//p" "$ROOT/rust-toolchain.toml" | tr -d '[]",'; }

# Everything that is installed of the pinned toolchain; nothing when it is absent.
installed_parts() { RUSTUP_AUTO_INSTALL=0 rustup component list --toolchain "$1" --installed 2>/dev/null; }

# missing_rust: prints what is missing, one word a line.
missing_rust() {
  local channel parts part target
  channel=$(pinned channel)
  if ! parts=$(installed_parts "$channel"); then
    printf 'toolchain\n'
    return 0
  fi
  for part in $(pinned components); do
    grep -q "^$part" <<<"$parts" || printf 'component:%s\n' "$part"
  done
  for target in $(pinned targets); do
    grep -qx "rust-std-$target" <<<"$parts" || printf 'target:%s\n' "$target"
  done
}

install_rust() {
  local channel part target options=()
  channel=$(pinned channel)
  say "installing Rust $channel with $(pinned components) and $(pinned targets)"
  for part in $(pinned components); do options+=(--component "$part"); done
  for target in $(pinned targets); do options+=(--target "$target"); done
  rustup toolchain install "$channel" --profile "$(pinned profile)" --no-self-update "${options[@]}" >&2
}
