# What `tools/bench compare` does: builds two commits, each in a worktree and with a target folder of its own that the next comparison uses
# again, and measures them in turn.
# shellcheck shell=bash

# compare_build SLOT COMMIT: has the commit checked out in target/compare/SLOT, and built.
compare_build() {
  local tree=$ROOT/target/compare/$1
  if [ -e "$tree/.git" ]; then
    git -C "$tree" checkout --quiet --force --detach "$2"
  else
    git -C "$ROOT" worktree prune
    git -C "$ROOT" worktree add --quiet --force --detach "$tree" "$2"
  fi
  step "building $2"
  # Each tree has a target folder of its own, whatever the caller's is.
  (
    unset CARGO_TARGET_DIR
    cd "$tree"
    cargo run --quiet --package xtask -- packs --no-test >&2
    cargo build --release --package busbar --package busbar-worker --bins --example bench >&2
  )
}

# compare_order ROUNDS: a line for each turn, `a` or `b`: a b b a a b b a, so that neither is always the first or the second.
compare_order() {
  local round
  for ((round = 0; round < $1; round++)); do
    if ((round % 2 == 0)); then printf 'a\nb\n'; else printf 'b\na\n'; fi
  done
}

# compare_commit REVISION: prints the commit that it names.
compare_commit() { git -C "$ROOT" rev-parse --verify --quiet --short=12 "$1^{commit}" || die 2 "there is no commit $1"; }

# compare [--rounds N] [--json FILE] A B [-- OPTION…]: measures `jobs` of both in turn, and says how they differ.
compare() {
  local rounds=4 json='' commits=() turn
  while [ "$#" -gt 0 ]; do
    case $1 in
      --rounds) rounds=${2:?} && shift 2 ;;
      --json) json=${2:?} && shift 2 ;;
      --) shift && break ;;
      -*) die 2 "compare knows --rounds, --json and, after --, the options of jobs; not $1" ;;
      *) commits+=("$1") && shift ;;
    esac
  done
  [ "${#commits[@]}" = 2 ] || die 2 "compare wants two commits: tools/bench compare [--rounds N] [--json FILE] A B [-- options of jobs]"
  [[ $rounds =~ ^[1-9][0-9]*$ ]] || die 2 "--rounds wants a number"
  local -A names
  local results n=0
  names[a]=$(compare_commit "${commits[0]}")
  names[b]=$(compare_commit "${commits[1]}")
  compare_build a "${names[a]}"
  compare_build b "${names[b]}"
  results=$ROOT/target/bench/compare-$(date -u +%Y%m%dT%H%M%SZ)
  mkdir -p "$results"
  while read -r turn; do
    n=$((n + 1))
    step "turn $n of $((2 * rounds)): $turn, ${names[$turn]}"
    (
      cd "$ROOT/target/compare/$turn"
      # Servers that somebody else runs would bring their own settings, and their own load.
      unset NATS_URL REDIS_URL BLOBS_URL
      BUSBAR_BENCH_COMMIT=${names[$turn]} target/release/examples/bench jobs --runs 1 --json "$results/$turn-$(printf %02d "$n").json" "$@" </dev/null >&2
    )
  done < <(compare_order "$rounds")
  cargo run --quiet --package xtask -- compare --a "$results"/a-*.json --b "$results"/b-*.json --json "${json:-$results.json}"
  say "raw figures: ${json:-$results.json}"
}
