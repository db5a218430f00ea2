"""One statement that searches for many vectors (unnest … LATERAL) → recall and time, of Rektor and of pgvector, beside the same
searches in a statement each.

    python benches/batches.py --postgres BIN --data DIR [--queries 100] [--rounds 5]

DIR holds `vectors.i8` (rows × 384 signed bytes). One primary has the table and pgvector's HNSW index (m 16, ef_construction 100);
queries are held out; all systems answer them in turn. Prints a table.
"""

import argparse
import os
import time

import numpy as np

import trial
from sweep import DIMENSIONS, K, load_data, text

BATCH = f"""select q.n, r.id from unnest(%s::vector[]) with ordinality as q(v, n)
    cross join lateral (select id from batch_bench order by embedding <=> q.v limit {K}) r"""
SINGLE = f"select id from batch_bench order by embedding <=> %s::vector limit {K}"
SYSTEMS = [("Rektor", "rektor", None), ("pgvector, 40", "direct", 40), ("pgvector, 80", "direct", 80)]


def in_one(connection, parameters):
    """The ids found for each vector by one statement, and the seconds that it took."""
    array = "{" + ",".join(f'"{parameter}"' for parameter in parameters) + "}"
    with connection.cursor(binary=True) as cursor:
        started = time.perf_counter()
        rows = cursor.execute(BATCH, [array], prepare=True).fetchall()
        took = time.perf_counter() - started
    found = [[] for _ in parameters]
    for number, row in rows:
        found[number - 1].append(row)
    return found, took


def one_by_one(connection, parameters):
    """The same by a statement each."""
    with connection.cursor(binary=True) as cursor:
        started = time.perf_counter()
        found = [[row[0] for row in cursor.execute(SINGLE, [parameter], prepare=True)] for parameter in parameters]
        return found, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--data", required=True, help="folder of vectors.i8")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows, _, _, queries = load_data(arguments.data, None)
    queries = queries[np.random.default_rng(2).permutation(len(queries))[: arguments.queries]]
    last = np.partition(1 - queries @ rows.T, K - 1, axis=1)[:, K - 1] + 1e-6
    parameters = [text(query) for query in queries]
    with trial.trial(arguments, ["shared_buffers = 1GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as through:
            direct.execute(f"create table batch_bench (id integer primary key, embedding vector({DIMENSIONS}))")
            trial.copy_rows(direct, "copy batch_bench from stdin", 0, rows)
            direct.execute("set maintenance_work_mem = '1GB'")
            direct.execute(
                "create index on batch_bench using hnsw (embedding vector_cosine_ops) with (m = 16, ef_construction = 100)")
            direct.execute("vacuum analyze batch_bench")
            create = "create index batch_faiss on batch_bench using faiss (embedding vector_cosine_ops)"
            rektor.create_index(through, create, "batch_faiss")
            print(f"{len(rows)} rows × {DIMENSIONS}, {len(queries)} vectors, k = {K}, cosine, {os.cpu_count()} cores")
            connections = {"rektor": through, "direct": direct}
            ways = {"one statement": in_one, "one by one": one_by_one}
            times = {(way, name): [] for way in ways for name, _, _ in SYSTEMS}
            recalls = {}
            for turn in range(arguments.rounds + 1):
                for name, system, effort in SYSTEMS:
                    if effort:
                        direct.execute(f"set hnsw.ef_search = {effort}")
                    for way, run in ways.items():
                        found, took = run(connections[system], parameters)
                        hits = [(1 - rows[ids] @ query <= far).sum() for ids, query, far in zip(found, queries, last)]
                        recalls[way, name] = sum(hits) / (K * len(queries))
                        if turn > 0:  # the first warms up
                            times[way, name].append(took)
            nominated = rektor.metric('rektor_knn_statements_total{way="nominate"}')
            for way in ways:
                for name, _, _ in SYSTEMS:
                    took = np.median(times[way, name]) * 1e3
                    print(f"{way:<14} {name:<14} recall {recalls[way, name]:.3f} {took:>8.1f} ms {len(queries) / took:>8.1f} vectors/ms")
            assert nominated == (arguments.rounds + 1) * (len(queries) + 1), nominated


if __name__ == "__main__":
    main()
