"""Every row replaced twice while others search → latencies of searches and of commits until found, and recall on the way.

    python benches/upserts.py --postgres BIN [--data DIR | --rows N --dimensions D] [--seconds S] [--rate 1000] [--share 0.3]

The rows are real embeddings (`vectors.i8` in DIR, see packages.py), or synthetic ones (generated.py). Upserts come at their
rate, one transaction each, over all keys in a random order, and a second time in another (with --seconds: over as many
random keys as that takes); searches come at a share of what the idle system answers at most. Postgres, Rektor and the load
(benches/upserts.rs) share the machine. The order of things: searches alone at that rate; with upserts, stopped four times to
compare recall with exact answers; alone again; both saturated, as fast as they are taken; recall of a graph built afresh of
the same rows (with --seconds neither of these two). Before and after the upserts the same without Rektor: what PostgreSQL
does of a search, fetching rows by key, of a copy of the table that has no index, alone and with upserts of that copy. What
this grows by is not Rektor's. autovacuum is on.
"""

import argparse
import json
import os
import subprocess

import numpy as np

import generated
import packages
import trial

K = 10
PARTS = 4
HELD_OUT = 500
EFFORT = 64  # candidates, of the second recall
FLOOR_SECONDS = 10
FLOOR_ROWS = 100_000  # at most: what a fetch costs does not depend on it, and memory is not endless
# Probes ask for the one row that was just committed, some 250 times: of rows that are linked by then a graph misses a few
# in a thousand.
MISSED_PROBES = 2


def rows_of(arguments):
    """Rows and held-out queries."""
    if arguments.data:
        return packages.load_data(arguments.data, HELD_OUT)[1:]
    made = generated.vectors(arguments.rows + HELD_OUT, arguments.dimensions)
    return made[:-HELD_OUT], made[-HELD_OUT:]


class Load:
    """One run of benches/upserts.rs after the other, on the same files."""

    def __init__(self, folder, primary, rektor, vectors, queries):
        self.folder, self.program = folder, self.build()
        self.copied = min(len(vectors), FLOOR_ROWS)
        self.task = {
            "direct": primary.url, "rektor": f"postgresql://postgres@127.0.0.1:{rektor.port}/postgres", "table": "t",
            "operator": "<=>", "dimensions": vectors.shape[1], "vectors": self.file("vectors", vectors),
            "queries": self.file("queries", queries),
        }

    @staticmethod
    def build():
        command = ["cargo", "bench", "--bench", "upserts", "--no-run", "--message-format=json"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
        built = [json.loads(line) for line in lines]
        return next(b["executable"] for b in built if b.get("target", {}).get("name") == "upserts" and b.get("executable"))

    def file(self, name, array):
        path = os.path.join(self.folder, name)
        array.tofile(path)
        return path

    def run(self, keys=None, values=None, writes=0.0, searches=0.0, seconds=0.0, fetch=0):
        task = self.task | {
            "keys": "" if keys is None else self.file("keys", keys.astype("<u4")),
            "values": "" if values is None else self.file("values", values.astype("<u4")),
            "writes": writes, "searches": searches, "seconds": seconds, "fetch": fetch,
        }
        done = subprocess.run([self.program, json.dumps(task)], check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)


def exact(vectors, queries):
    """Places in `vectors` of each query's nearest."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    places = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), 50_000):
        part = vectors[start:start + 50_000]
        near = queries @ (part / np.linalg.norm(part, axis=1, keepdims=True)).T
        top = np.argpartition(-near, K, axis=1)[:, :K]
        best = np.hstack([best, np.take_along_axis(near, top, axis=1)])
        places = np.hstack([places, top + start])
        order = np.argsort(-best, axis=1)[:, :K]
        best, places = np.take_along_axis(best, order, axis=1), np.take_along_axis(places, order, axis=1)
    return places


def recall(direct, connection, nearest, key_of, queries):
    """Of the table as it stands, by the effort that the recall target chooses and by a fixed one: `key_of` tells which row
    has a vector now."""
    position = direct.execute("select pg_current_wal_lsn()::text").fetchone()[0]
    connection.execute(f"set rektor.min_lsn = '{position}'")
    recalls = []
    for setting in ("reset hnsw.ef_search", f"set hnsw.ef_search = {EFFORT}"):
        connection.execute(setting)
        found = 0
        for query, places in zip(queries, nearest):
            rows = connection.execute(
                f"select id from t order by v <=> %s::vector limit {K}", [packages.text(query)]).fetchall()
            found += len({row[0] for row in rows} & {int(key_of[place]) for place in places})
        recalls.append(found / (K * len(queries)))
    connection.execute("reset hnsw.ef_search")
    return recalls


def line(name, outcome, recalled=None):
    search, found = outcome["search_ms"], outcome["found_ms"]
    written = f"{outcome['written'] / outcome['seconds']:>9.0f}" if outcome["written"] else f"{'':>9}"
    until = f"{found['p50']:>8.1f}{found['p99']:>8.1f}{found['most']:>8.1f}" if found["most"] else f"{'':>24}"
    share = "" if recalled is None else f"{recalled[0]:>9.4f}{recalled[1]:>9.4f}"
    print(f"{name:<34}{written}{outcome['searched'] / outcome['seconds']:>9.0f}{search['p50']:>8.2f}{search['p99']:>8.2f}"
          f"{search['most']:>8.1f}{until}{share}", flush=True)


def parts(arguments, random, count):
    """The keys to replace between two looks at recall."""
    if arguments.seconds is not None:
        part = min(count, int(arguments.seconds * arguments.rate / PARTS))
        return [random.permutation(count)[:part] for _ in range(PARTS)]
    return [half for _ in range(2) for half in np.array_split(random.permutation(count), 2)]


def replace(arguments, load, direct, connection, nearest, key_of, queries, share):
    """All upserts; where each vector lies afterwards."""
    random = np.random.default_rng(3)
    key_of, replaced = key_of.copy(), 0
    for keys in parts(arguments, random, len(key_of)):
        # A key takes the vector that another had. On the way some vectors are there twice and some not at all, so recall
        # is compared when all of the part have exchanged their vectors among themselves.
        values = place_of(key_of)[random.permutation(keys)]
        outcome = load.run(keys, values, writes=arguments.rate, searches=share)
        key_of[values] = keys
        direct.execute("delete from t where id < 0")
        found = recall(direct, connection, nearest, key_of, queries)
        replaced += len(keys)
        line(f"upserts, {replaced} ({replaced / len(key_of):.2f} × all rows)", outcome, found)
        assert outcome["late_probes"] <= MISSED_PROBES, f"{outcome['late_probes']} commits were not found by a search that must see them"
    return key_of


def place_of(key_of):
    """Key → place of the vector that it has."""
    inverse = np.empty_like(key_of)
    inverse[key_of] = np.arange(len(key_of))
    return inverse


def fetches(arguments, load, share):
    """What PostgreSQL's part of a search takes by itself, without upserts and with them."""
    load.task["table"] = "u"
    line("rows fetched by key, alone", load.run(searches=share, seconds=FLOOR_SECONDS, fetch=load.copied))
    keys = np.random.default_rng(5).permutation(load.copied)[:int(arguments.rate * FLOOR_SECONDS)]
    line("rows fetched by key, upserts", load.run(keys, keys[::-1], writes=arguments.rate, searches=share, fetch=load.copied))
    load.task["table"] = "t"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--data", help="folder of real embeddings; without it synthetic rows")
    parser.add_argument("--rows", type=int, default=60_000, help="synthetic ones")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--seconds", type=float, help="of upserts, instead of two rounds over all keys")
    parser.add_argument("--rate", type=float, default=1000, help="upserts a second")
    parser.add_argument("--share", type=float, default=0.3, help="of the searches answered at most")
    arguments = parser.parse_args()
    vectors, queries = rows_of(arguments)
    nearest = exact(vectors, queries)
    with trial.trial(arguments, ["autovacuum = on", "shared_buffers = 1GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as connection:
            direct.execute(f"create table t (id integer primary key, v vector({vectors.shape[1]}))")
            trial.copy_rows(direct, "copy t from stdin", 0, vectors)
            direct.execute("vacuum analyze t")
            create = "create index t_faiss on t using faiss (v vector_cosine_ops)"
            load = Load(os.path.dirname(primary.data), primary, rektor, vectors, queries)
            key_of, kind = np.arange(len(vectors)), "real embeddings" if arguments.data else "synthetic"
            direct.execute("create table u (like t including all)")
            direct.execute("insert into u select * from t where id < %s", [load.copied])
            direct.execute("vacuum analyze u")
            took = rektor.create_index(connection, create, "t_faiss")
            print(f"{len(vectors)} rows × {vectors.shape[1]} ({kind}), index ready after {took:.1f} s\n"
                  f"{'':<34}{'upserts/s':>9}{'search/s':>9}{'p50 ms':>8}{'p99':>8}{'most':>8}{'found':>8}{'p99':>8}{'most':>8}{'recall':>9}{f'at {EFFORT}':>9}")
            first = recall(direct, connection, nearest, key_of, queries)
            idle = load.run(seconds=5)
            line("searches, as many as answered", idle, first)
            share = idle["searched"] / idle["seconds"] * arguments.share
            fetches(arguments, load, share)
            line("searches alone", load.run(searches=share, seconds=10))
            key_of = replace(arguments, load, direct, connection, nearest, key_of, queries, share)
            line("searches alone", load.run(searches=share, seconds=10))
            fetches(arguments, load, share)
            if arguments.seconds is not None:
                return
            random = np.random.default_rng(4)
            keys = random.permutation(len(vectors))
            values = place_of(key_of)[random.permutation(keys)]
            line("both, as much as is taken", load.run(keys, values))
            key_of[values] = keys
            direct.execute("delete from t where id < 0")
            connection.execute("drop index t_faiss")
            rektor.create_index(connection, create, "t_faiss")
            fresh = recall(direct, connection, nearest, key_of, queries)
            print(f"{'a graph built afresh':<34}{'':>66}{fresh[0]:>9.4f}{fresh[1]:>9.4f}")


if __name__ == "__main__":
    main()
