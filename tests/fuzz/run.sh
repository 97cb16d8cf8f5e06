#!/usr/bin/env bash
# Runs all fuzz targets, or the named ones, for the given time each: run.sh SECONDS [TARGET...]
# All output goes to target/fuzz, outside the source tree.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:?seconds for each target}
shift
[ $# -gt 0 ] || set -- page header log import
out=${CARGO_TARGET_DIR:-target}/fuzz
# The fuzzer leaves its temporary files behind. In memory, fsync is free, which makes the import target 70 times faster.
TMPDIR=$(mktemp -d -p /dev/shm)
export TMPDIR
# cargo-fuzz creates an empty artifact directory in the tree, whatever its options.
trap 'rm -rf "$TMPDIR"; rmdir tests/fuzz/artifacts/* tests/fuzz/artifacts 2>/dev/null || true' EXIT
for target in "$@"; do
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    seeds=()
    case $target in
        log | import | header) seeds=(fixtures/sqlite) ;;
    esac
    # Without a sanitizer, the stable toolchain suffices. README.md describes how to run with AddressSanitizer.
    cargo fuzz run --fuzz-dir tests/fuzz --target-dir "$out" --sanitizer "${SANITIZER:-none}" "$target" \
        "$out/corpus/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -max_len=70000 -timeout=20 -artifact_prefix="$out/artifacts/$target/" -print_final_stats=1
done
