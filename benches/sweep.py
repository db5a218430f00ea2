"""Filters that keep 100 % to 0.01 % of the rows → recall, short answers and time, of Rektor and of pgvector's iterative scan.

    python benches/sweep.py --postgres BIN --data DIR [--queries 100] [--rounds 3]

DIR holds `vectors.i8` (rows × 384 signed bytes). One primary has the table, pgvector's HNSW index (m 16, ef_construction 100)
and B-tree indexes on the filtered columns, which PostgreSQL takes where it thinks them cheaper; Rektor has the same columns
included. Filters keep rows evenly, near the queries, or far from them; queries are held out, and those nearest to one row.
Blocks of all queries go through the systems in turn. Prints a table; fails when an answer of Rektor's is short or its recall
is low.
"""

import argparse
import os
import sys
import time

import numpy as np

import trial

DIMENSIONS = 384
K = 10
SHARES = [1.0, 0.5, 0.2, 0.1, 0.05, 0.01, 0.001, 0.0001]
HELD_OUT = 60  # every so many rows
RECALL_WANTED = 0.95
SYSTEMS = [
    ("Rektor", "rektor", "off"),
    ("strict_order", "direct", "strict_order"),
    ("relaxed_order", "direct", "relaxed_order"),
    ("not iterative", "direct", "off"),
]


def load_data(folder, queries):
    """Rows, each one's place in a random order and in the order from the anchor, and the queries nearest to the anchor."""
    all_rows = np.fromfile(os.path.join(folder, "vectors.i8"), dtype=np.int8).reshape(-1, DIMENSIONS).astype(np.float32)
    all_rows /= np.linalg.norm(all_rows, axis=1, keepdims=True)
    held_out = np.arange(len(all_rows)) % HELD_OUT == 0
    rows, held = all_rows[~held_out], all_rows[held_out]
    anchor = all_rows[0]
    even = np.random.default_rng(1).permutation(len(rows))
    near = np.argsort(np.argsort(-(rows @ anchor), kind="stable"))
    return rows, even, near, held[np.argsort(-(held @ anchor))[:queries]]


def fill(direct, rows, even, near):
    direct.execute(
        f"create table sweep_bench (id integer primary key, even integer, near integer, embedding vector({DIMENSIONS}))"
    )
    with direct.cursor().copy("copy sweep_bench from stdin") as copy:
        for number, (row, a, b) in enumerate(zip(rows, even, near)):
            copy.write_row((number, int(a), int(b), text(row)))
    direct.execute("set maintenance_work_mem = '1GB'")
    direct.execute("create index on sweep_bench using hnsw (embedding vector_cosine_ops) with (m = 16, ef_construction = 100)")
    direct.execute("create index on sweep_bench (even)")
    direct.execute("create index on sweep_bench (near)")
    direct.execute("vacuum analyze sweep_bench")


def text(vector):
    """pgvector's text form of a vector."""
    return "[" + ",".join(f"{component:.9g}" for component in vector) + "]"


def filters(even, near):
    """Label, condition and the rows that meet it."""
    count = len(even)
    for share in SHARES:
        kept = max(int(count * share), 1)
        yield "even", share, f"even < {kept}", even < kept
        yield "near", share, f"near < {kept}", near < kept
        yield "far", share, f"near >= {count - kept}", near >= count - kept


def run(connection, condition, parameters):
    """The ids found, and the mean of the seconds that a query took."""
    sql = f"select id from sweep_bench where {condition} order by embedding <=> %s::vector limit {K}"
    found = []
    with connection.cursor(binary=True) as cursor:
        started = time.perf_counter()
        for parameter in parameters:
            found.append([row[0] for row in cursor.execute(sql, [parameter], prepare=True).fetchall()])
        return found, (time.perf_counter() - started) / len(parameters)


def recall(found, distances, met):
    """Share of the rows wanted that are as near as the last of them, and the number of answers that have too few."""
    wanted = min(K, int(met.sum()))
    hits, short = 0, 0
    for ids, of in zip(found, distances):
        last = np.partition(of[met], wanted - 1)[wanted - 1] + 1e-6
        hits += int((of[ids] <= last).sum())
        short += len(ids) < wanted
    return hits / (wanted * len(found)), short


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--data", required=True, help="folder of vectors.i8")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows, even, near, queries = load_data(arguments.data, arguments.queries)
    distances = 1 - queries @ rows.T
    parameters = [text(query) for query in queries]
    failed = []
    with trial.trial(arguments, ["shared_buffers = 1GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as through:
            fill(direct, rows, even, near)
            create = "create index sweep_faiss on sweep_bench using faiss (embedding vector_cosine_ops) include (even, near)"
            rektor.create_index(through, create, "sweep_faiss")
            version = direct.execute("select extversion from pg_extension where extname = 'vector'").fetchone()[0]
            print(f"{len(rows)} rows × {DIMENSIONS}, {len(queries)} queries, k = {K}, cosine, pgvector {version}, ef_search 40")
            print("recall, short answers, mean µs".ljust(16) + "".join(f"{name:>24}" for name, _, _ in SYSTEMS))
            connections = {"rektor": through, "direct": direct}
            for label, share, condition, met in filters(even, near):
                times, cells = {name: [] for name, _, _ in SYSTEMS}, []
                answers = {}
                for turn in range(arguments.rounds + 1):
                    for name, way, iterative in SYSTEMS:
                        direct.execute(f"set hnsw.iterative_scan = {iterative}")
                        answers[name], took = run(connections[way], condition, parameters)
                        if turn > 0:  # the first warms up
                            times[name].append(took)
                for name, _, _ in SYSTEMS:
                    share_found, short = recall(answers[name], distances, met)
                    cells.append(f"{share_found:>9.3f}{short:>5}{np.median(times[name]) * 1e6:>10.0f}")
                    if name == "Rektor" and (short or share_found < RECALL_WANTED):
                        failed.append(f"{label} {share:.2%}")
                print(f"{label} {share:>9.2%}".ljust(16) + "".join(cells), flush=True)
    if failed:
        sys.exit(f"Rektor falls short with the filters {', '.join(failed)}")


if __name__ == "__main__":
    main()
