"""Every row replaced twice while others search → latencies of searches and of commits until found, and recall on the way.

    python benches/upserts.py --postgres BIN [--data DIR | --rows N --dimensions D] [--rate 1000] [--share 0.3]

The rows are real embeddings (`vectors.i8` in DIR, see packages.py), or synthetic ones. Upserts come at their rate, one
transaction each, over all keys in a random order, and a second time in another; searches come at a share of what the idle
system answers at most. Postgres, Rektor and the load (benches/upserts.rs) share the machine. The order of things:
searches alone at that rate; with upserts, stopped at each half round to compare recall with exact answers; recall of a graph
built afresh of the same rows; both saturated, as fast as they are taken. autovacuum is on.
"""

import argparse
import json
import os
import subprocess

import numpy as np

import packages
import trial

K = 10
HELD_OUT = 500
EFFORT = 64  # candidates, of the second recall
# Probes ask for the one row that was just committed, some 250 times: of rows that are linked by then a graph misses a few
# in a thousand.
MISSED_PROBES = 2


def rows_of(arguments):
    """Rows, held-out queries, the operator class and the operator."""
    if arguments.data:
        _, rows, queries = packages.load_data(arguments.data, HELD_OUT)
        return rows, queries, "vector_cosine_ops", "<=>"
    random = np.random.default_rng(7)
    basis = random.standard_normal((64, arguments.dimensions), dtype=np.float32)
    centres = random.standard_normal((2000, 64), dtype=np.float32)

    def draw(count):
        chosen = centres[random.integers(0, len(centres), count)]
        near = chosen + 0.5 * random.standard_normal(chosen.shape, dtype=np.float32)
        return near @ basis + 0.05 * random.standard_normal((count, arguments.dimensions), dtype=np.float32)

    return draw(arguments.rows), draw(HELD_OUT), "vector_l2_ops", "<->"


class Load:
    """One run of benches/upserts.rs after the other, on the same files."""

    def __init__(self, folder, primary, rektor, vectors, queries, operator):
        self.folder, self.program = folder, self.build()
        self.task = {
            "direct": primary.url, "rektor": f"postgresql://postgres@127.0.0.1:{rektor.port}/postgres", "table": "t",
            "operator": operator, "dimensions": vectors.shape[1], "vectors": self.file("vectors", vectors),
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

    def run(self, keys=None, values=None, writes=0.0, searches=0.0, seconds=0.0):
        task = self.task | {
            "keys": "" if keys is None else self.file("keys", keys.astype("<u4")),
            "values": "" if values is None else self.file("values", values.astype("<u4")),
            "writes": writes, "searches": searches, "seconds": seconds,
        }
        done = subprocess.run([self.program, json.dumps(task)], check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)


def exact(vectors, queries, operator):
    """Places in `vectors` of each query's nearest."""
    if operator == "<=>":
        order = -(queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T)
    else:
        order = (vectors**2).sum(1) - 2 * queries @ vectors.T
    return np.argpartition(order, K, axis=1)[:, :K]


def recall(direct, connection, nearest, key_of, queries, operator):
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
                f"select id from t order by v {operator} %s::vector limit {K}", [packages.text(query)]).fetchall()
            found += len({row[0] for row in rows} & {int(key_of[place]) for place in places})
        recalls.append(found / (K * len(queries)))
    connection.execute("reset hnsw.ef_search")
    return recalls


def line(name, outcome, recalled=None):
    search, found = outcome["search_ms"], outcome["found_ms"]
    written = f"{outcome['written'] / outcome['seconds']:>9.0f}" if outcome["written"] else f"{'':>9}"
    until = f"{found['p50']:>8.1f}{found['p99']:>8.1f}{found['most']:>8.1f}" if outcome["written"] else f"{'':>24}"
    share = "" if recalled is None else f"{recalled[0]:>9.4f}{recalled[1]:>9.4f}"
    print(f"{name:<32}{written}{outcome['searched'] / outcome['seconds']:>9.0f}{search['p50']:>8.2f}{search['p99']:>8.2f}"
          f"{search['most']:>8.1f}{until}{share}", flush=True)


def replace(arguments, load, direct, connection, nearest, vectors, queries, operator, peak):
    """The two rounds; where each vector lies afterwards."""
    random = np.random.default_rng(3)
    count = len(vectors)
    key_of = np.arange(count)
    share = peak * arguments.share
    for turn in (1, 2):
        keys, values = random.permutation(count), np.empty(count, dtype=np.int64)
        # Key i takes the vector that another had. On the way some vectors are there twice and some not at all, so recall
        # is compared where a half is complete: its keys have exchanged their vectors among themselves.
        for half in np.array_split(np.arange(count), 2):
            values[half] = place_of(key_of)[random.permutation(keys[half])]
        for n, half in enumerate(np.array_split(np.arange(count), 2)):
            outcome = load.run(keys[half], values[half], writes=arguments.rate, searches=share)
            key_of[values[half]] = keys[half]
            direct.execute("delete from t where id < 0")
            found = recall(direct, connection, nearest, key_of, queries, operator)
            line(f"upserts, replaced {turn - 1 + (n + 1) / 2:.1f} ×", outcome, found)
            assert outcome["late_probes"] <= MISSED_PROBES, f"{outcome['late_probes']} commits were not found by a search that must see them"
    return key_of


def place_of(key_of):
    """Key → place of the vector that it has."""
    inverse = np.empty_like(key_of)
    inverse[key_of] = np.arange(len(key_of))
    return inverse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--data", help="folder of real embeddings; without it synthetic rows")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rate", type=float, default=1000, help="upserts a second")
    parser.add_argument("--share", type=float, default=0.3, help="of the searches answered at most")
    arguments = parser.parse_args()
    vectors, queries, operators, operator = rows_of(arguments)
    nearest = exact(vectors, queries, operator)
    with trial.trial(arguments, ["autovacuum = on", "shared_buffers = 1GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as connection:
            direct.execute(f"create table t (id integer primary key, v vector({vectors.shape[1]}))")
            trial.copy_rows(direct, "copy t from stdin", 0, vectors)
            direct.execute("vacuum analyze t")
            create = f"create index t_faiss on t using faiss (v {operators})"
            rektor.create_index(connection, create, "t_faiss")
            load = Load(os.path.dirname(primary.data), primary, rektor, vectors, queries, operator)
            key_of = np.arange(len(vectors))
            first = recall(direct, connection, nearest, key_of, queries, operator)
            print(f"{len(vectors)} rows × {vectors.shape[1]}\n"
                  f"{'':<32}{'upserts/s':>9}{'search/s':>9}{'p50 ms':>8}{'p99':>8}{'most':>8}{'found':>8}{'p99':>8}{'most':>8}{'recall':>9}{f'at {EFFORT}':>9}")
            idle = load.run(seconds=5)
            peak = idle["searched"] / idle["seconds"]
            line("searches, as many as answered", idle, first)
            line("searches alone", load.run(searches=peak * arguments.share, seconds=10))
            key_of = replace(arguments, load, direct, connection, nearest, vectors, queries, operator, peak)
            line("searches alone", load.run(searches=peak * arguments.share, seconds=10))
            random = np.random.default_rng(4)
            keys = random.permutation(len(vectors))
            values = place_of(key_of)[random.permutation(keys)]
            line("both, as much as is taken", load.run(keys, values))
            key_of[values] = keys
            direct.execute("delete from t where id < 0")
            connection.execute("drop index t_faiss")
            rektor.create_index(connection, create, "t_faiss")
            fresh = recall(direct, connection, nearest, key_of, queries, operator)
            print(f"{'a graph built afresh':<32}{'':>66}{fresh[0]:>9.4f}{fresh[1]:>9.4f}")


if __name__ == "__main__":
    main()
