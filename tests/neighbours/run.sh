#!/usr/bin/env bash
# Builds and runs a program for each crate that has to share a build, and its SQLite, with litefleet, or for those that are
# named: run.sh [NEIGHBOUR...]
# Each is a package with a lock file of its own: some of them need different versions of libsqlite3-sys, of which a build can
# contain only one. After a change to the dependencies of litefleet, renew a lock file with `cargo metadata`.
set -euo pipefail
cd "$(dirname "$0")"

[ $# -gt 0 ] || set -- r2d2_sqlite deadpool-sqlite rusqlite_migration refinery tokio-rusqlite sqlx diesel sea-orm
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-../../target}")/neighbours
export CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0
for neighbour in "$@"; do
    printf '\n%s\n' "$neighbour"
    cargo tree --locked --manifest-path "$neighbour/Cargo.toml" --depth 0 --invert libsqlite3-sys
    cargo run --quiet --locked --manifest-path "$neighbour/Cargo.toml"
done
