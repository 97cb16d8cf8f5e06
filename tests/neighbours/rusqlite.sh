#!/usr/bin/env bash
# Runs tests with another version of rusqlite than the one in Cargo.lock: rusqlite.sh VERSION [ARGUMENT OF CARGO TEST...]
# It works on a copy of the package, which shares the artifacts of all other dependencies.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=${1:?version of rusqlite}
shift
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
copy=$CARGO_TARGET_DIR/rusqlite
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$copy"
cd "$copy"
cargo update --quiet --package rusqlite --precise "$version"
cargo test --locked --all-features "$@"
