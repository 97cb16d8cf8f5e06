#!/usr/bin/env bash
# Runs each fuzzer for so many seconds, or those that are named: run.sh SECONDS [TARGET...]
# What it builds and finds goes to target/fuzz, so that nothing of it stands in the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:?seconds for each target}
shift
[ $# -gt 0 ] || set -- page header log import
out=${CARGO_TARGET_DIR:-target}/fuzz
# A fuzzer never tidies up. In memory flushing costs nothing, which makes the import 70 times as fast.
TMPDIR=$(mktemp -d -p /dev/shm)
export TMPDIR
# cargo-fuzz makes a directory for artifacts where it was not asked to.
trap 'rm -rf "$TMPDIR"; rmdir tests/fuzz/artifacts/* tests/fuzz/artifacts 2>/dev/null || true' EXIT
for target in "$@"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    seeds=()
    case $target in
        log | import | header) seeds=(fixtures/sqlite) ;;
    esac
    # Without a sanitizer the stable toolchain will do: all unsafe code is in one file, and the README says how to look
    # there too.
    cargo fuzz run --fuzz-dir tests/fuzz --target-dir "$out" --sanitizer "${SANITIZER:-none}" "$target" \
        "$out/corpus/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -max_len=70000 -timeout=20 -artifact_prefix="$out/artifacts/$target/" -print_final_stats=1
done
