"""Rows of real embeddings → recall, completeness under filters, and speed, through Rektor and beside pgvector.

Loads the table through Rektor with psycopg's COPY, holds queries out, and compares every answer with exact SQL on
the direct connection. Never judges by time: it prints figures; it fails only when an answer is short or recall is low.

    python benches/packages.py --direct postgresql://… --rektor postgresql://… --data DIR

DIR holds `vectors.i8` (rows × 384 signed bytes) and `packages.tsv` (id, name, version, released, download_rank).
"""

import argparse
import sys
import time

import numpy as np
import psycopg

DIMENSIONS = 384
SCALE = 0.0015731394
K = 10
RECALL_WANTED = 0.95
# Share of the rows that match, and the condition; all but the last on columns that the index includes.
FILTERS = [
    ("100 %", "true"),
    ("50 %", "released >= '2025-08-01'"),
    ("20 %", "download_rank <= 15000"),
    ("10 %", "download_rank <= 7500"),
    ("5 %", "download_rank <= 3750"),
    ("1 %", "download_rank between 1 and 750"),
    ("0.1 %", "download_rank <= 75"),
    ("0.01 %", "download_rank <= 7"),
    ("one row", "name = 'numpy'"),
    ("none", "download_rank < 0"),
    ("0.1 %, not included", "mod(id, 1000) = 7"),
]


def load_data(folder, held_out):
    """The rows to index and the queries held out of them, every n-th row so that both have the same structure."""
    vectors = np.fromfile(f"{folder}/vectors.i8", dtype=np.int8).reshape(-1, DIMENSIONS).astype(np.float32) * SCALE
    with open(f"{folder}/packages.tsv", encoding="utf-8") as file:
        next(file)
        rows = [line.rstrip("\n").split("\t") for line in file]
    step = len(rows) // held_out
    is_query = np.zeros(len(rows), dtype=bool)
    is_query[::step] = True
    return [row for row, query in zip(rows, is_query) if not query], vectors[~is_query], vectors[is_query][:held_out]


def text(vector):
    """pgvector's text form of a vector."""
    return "[" + ",".join(f"{component:.9g}" for component in vector) + "]"


def load_table(rektor, rows, vectors):
    rektor.execute("drop table if exists packages_bench")
    rektor.execute(
        "create table packages_bench (id integer primary key, name text not null, version text, released date, "
        f"download_rank integer, embedding vector({DIMENSIONS}) not null)"
    )
    started = time.perf_counter()
    with rektor.cursor().copy("copy packages_bench from stdin") as copy:
        for row, vector in zip(rows, vectors):
            copy.write_row([None if field == "\\N" else field for field in row] + [text(vector)])
    rektor.execute("analyze packages_bench")
    return time.perf_counter() - started


def create_index(rektor, index):
    started = time.perf_counter()
    rektor.execute(
        f"create index {index} on packages_bench using faiss (embedding vector_cosine_ops) "
        "include (download_rank, released, name)"
    )
    while True:
        state = rektor.execute(
            "select phase, error from rektor.stat_indexes where index_name = %s", [index]
        ).fetchone()
        if state and state[0] == "ready":
            return time.perf_counter() - started
        if state and state[0] == "failed":
            sys.exit(f"index failed: {state[1]}")
        time.sleep(0.05)


def way(rektor, condition, query):
    """What EXPLAIN says about how Rektor answers, and with what filter."""
    plan = rektor.execute(
        f"explain select id from packages_bench where {condition} order by embedding <=> '{text(query)}' limit {K}"
    ).fetchall()
    told = [line.strip() for (line,) in plan if "Rektor" in line or "rows, " in line]
    return "; ".join(told) or "no line of Rektor's"


def run(connection, condition, queries):
    """The ids found, and the seconds each query took, by a prepared statement with a binary result."""
    sql = f"select id from packages_bench where {condition} order by embedding <=> %s::vector limit {K}"
    found, seconds = [], []
    with connection.cursor(binary=True) as cursor:
        for query in queries:
            parameter = text(query)
            started = time.perf_counter()
            cursor.execute(sql, [parameter], prepare=True)
            rows = cursor.fetchall()
            seconds.append(time.perf_counter() - started)
            found.append([row[0] for row in rows])
    return found, np.array(seconds)


def recall(found, exact):
    """Share of the exact answers that were found; an answer that is empty and should be counts as found."""
    shares = [len(set(f) & set(e)) / len(e) if e else float(not f) for f, e in zip(found, exact)]
    return float(np.mean(shares))


def report(label, found, exact, seconds):
    micros = seconds * 1e6
    print(
        f"{label:<42} recall {recall(found, exact):.4f}  short {sum(len(f) < len(e) for f, e in zip(found, exact)):>3}"
        f"  mean {micros.mean():7.0f} µs  p50 {np.percentile(micros, 50):7.0f}  p99 {np.percentile(micros, 99):7.0f}",
        flush=True,
    )


def exact_answers(direct, condition, queries):
    with direct.transaction():
        direct.execute("set local enable_indexscan = off")
        return run(direct, condition, queries)[0]


def check(label, found, exact):
    if any(len(f) < len(e) for f, e in zip(found, exact)):
        sys.exit(f"{label}: an answer is short")
    if recall(found, exact) < RECALL_WANTED:
        sys.exit(f"{label}: recall {recall(found, exact):.4f} is under {RECALL_WANTED}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", required=True, help="connection string of PostgreSQL itself")
    parser.add_argument("--rektor", required=True, help="connection string of Rektor, same database")
    parser.add_argument("--data", required=True, help="folder of vectors.i8 and packages.tsv")
    parser.add_argument("--queries", type=int, default=500)
    arguments = parser.parse_args()

    rows, vectors, queries = load_data(arguments.data, arguments.queries)
    direct = psycopg.connect(arguments.direct, autocommit=True)
    rektor = psycopg.connect(arguments.rektor, autocommit=True)
    print(f"{len(rows)} rows × {DIMENSIONS}, {len(queries)} queries held out, k = {K}, cosine")
    print(f"COPY through Rektor: {load_table(rektor, rows, vectors):.1f} s")
    print(f"CREATE INDEX to ready: {create_index(rektor, 'packages_bench_faiss'):.1f} s")

    exact = {condition: exact_answers(direct, condition, queries) for _, condition in FILTERS}
    for round_name in ("no index upstream", "pgvector HNSW upstream too"):
        for label, condition in FILTERS:
            run(rektor, condition, queries[:20])
            found, seconds = run(rektor, condition, queries)
            report(f"rektor, filter {label}, {round_name}", found, exact[condition], seconds)
            print(f"    {way(rektor, condition, queries[0])}")
            check(label, found, exact[condition])
        if round_name == "no index upstream":
            started = time.perf_counter()
            direct.execute("set maintenance_work_mem = '1GB'")
            direct.execute(
                "create index packages_bench_hnsw on packages_bench using hnsw (embedding vector_cosine_ops) "
                "with (m = 16, ef_construction = 100)"
            )
            print(f"pgvector CREATE INDEX (m 16, ef_construction 100): {time.perf_counter() - started:.1f} s")
    for ef in (40, 80, 120, 200):
        direct.execute(f"set hnsw.ef_search = {ef}")
        run(direct, "true", queries[:50])
        found, seconds = run(direct, "true", queries)
        report(f"pgvector direct, ef_search {ef}", found, exact["true"], seconds)


if __name__ == "__main__":
    main()
