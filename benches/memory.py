"""Vectors in a table → bytes a vector that an index of each storage kind holds in memory, beside pgvector's table and index.

    python benches/memory.py --postgres BIN [--data DIR] [--rows 20000] [--rektor PROGRAM] [--folder DIR]

384 dimensions are the packages data, `DIR/vectors.i8` (rows × 384 signed bytes), or synthetic without `--data`; 768 are
synthetic (normal around 1,000 centres). Prints a table for each: what `rektor.stat_indexes` accounts for, by part, and
what the process grew by, anonymous and of files, measured after a restart from its generations, when every row is
linked. Hot is what every search walks through, cold the vectors that only its best candidates are compared with.
"""

import argparse
import os
import signal
import time

import numpy as np

import trial

KINDS = ["f32", "f16", "bf16", "i8"]
PARTS = ["vectors", "codes", "graph", "keys", "records", "other"]
# Between two looks at a process that should not grow any more.
SETTLE = 0.5


def synthetic(rows, dimensions):
    random = np.random.default_rng(1)
    centres = random.standard_normal((1000, dimensions), dtype=np.float32)
    chosen = centres[random.integers(0, len(centres), rows)]
    return chosen + 0.4 * random.standard_normal(chosen.shape, dtype=np.float32)


def load(arguments, dimensions):
    if dimensions == 384 and arguments.data:
        raw = np.fromfile(os.path.join(arguments.data, "vectors.i8"), dtype=np.int8)
        return raw.reshape(-1, 384)[: arguments.rows].astype(np.float32) * 0.0015731394
    return synthetic(arguments.rows, dimensions)


def resident(rektor):
    """Anonymous and file-backed bytes, once they stay as they are."""
    before = None
    while True:
        now = rektor.memory("RssAnon"), rektor.memory("RssFile")
        if before and abs(now[0] - before[0]) < 1 << 20:
            return now
        before = now
        time.sleep(SETTLE)


def again(rektor):
    """Restarts Rektor, until every index serves with every row linked."""
    rektor.end(signal.SIGTERM)
    rektor.start()
    trial.wait("a restart", rektor.is_ready)
    trial.wait("the linker", lambda: rektor.metric("rektor_index_unlinked_rows") == 0)


def measure(rektor, primary, dimensions, kind):
    again(rektor)
    empty = resident(rektor)
    with rektor.connect() as connection:
        sql = f"create index kept_idx on vectors_{dimensions} using faiss (embedding vector_cosine_ops) with (storage = {kind})"
        rektor.create_index(connection, sql, "kept_idx")
    built = resident(rektor)
    # So that what is measured is the index, and not what its copy left behind: the restart finds it in a generation.
    trial.wait("a generation", lambda: any("gen-" in name for _, names, _ in os.walk(rektor.folder) for name in names))
    time.sleep(2)
    again(rektor)
    loaded = resident(rektor)
    with rektor.connect() as connection:
        rows, total, parts = connection.execute(
            "select rows, memory_bytes, memory_parts from rektor.stat_indexes where index_name = 'kept_idx'").fetchone()
        connection.execute("drop index kept_idx")
    trial.wait("the drop", lambda: rektor.metric("rektor_index_memory_bytes") == 0)
    figures = [parts[part] / rows for part in PARTS]
    hot = (total - parts["vectors"]) / rows
    print(f"{kind:>9} " + " ".join(f"{figure:>8.0f}" for figure in figures)
          + f" {hot:>8.0f} {total / rows:>9.0f} {(built[0] - empty[0]) / rows:>9.0f}"
          + f" {(loaded[0] - empty[0]) / rows:>9.0f} {(loaded[1] - empty[1]) / rows:>9.0f}", flush=True)


def pgvector(primary, dimensions, rows):
    with primary.connect() as connection:
        connection.execute("set maintenance_work_mem = '1GB'")
        for kind in ["vector", "halfvec"]:
            connection.execute(
                f"create index pg_idx on vectors_{dimensions} using hnsw ((embedding::{kind}({dimensions})) "
                f"{kind}_cosine_ops) with (m = 16, ef_construction = 64)")
            table, index = connection.execute(
                f"select pg_table_size('vectors_{dimensions}'), pg_relation_size('pg_idx')").fetchone()
            print(f" pgvector: table {table / rows:.0f}, hnsw index of {kind} {index / rows:.0f}", flush=True)
            connection.execute("drop index pg_idx")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    trial.add_arguments(parser)
    parser.add_argument("--data", help="directory of vectors.i8")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    arguments = parser.parse_args()
    with trial.trial(arguments, ["shared_buffers = 512MB"]) as (primary, rektor):
        rektor.start()
        trial.wait("the start", rektor.is_ready)
        for dimensions in [384, 768]:
            vectors = load(arguments, dimensions)
            with primary.connect() as connection:
                connection.execute(f"create table vectors_{dimensions} (id int primary key, embedding vector({dimensions}))")
                trial.copy_rows(connection, f"copy vectors_{dimensions} from stdin", 1, vectors)
                connection.execute(f"analyze vectors_{dimensions}")
            source = "packages" if dimensions == 384 and arguments.data else "synthetic"
            print(f"{dimensions} dimensions, {len(vectors)} rows ({source}); bytes a vector", flush=True)
            names = [*PARTS, "hot", "accounted", "built", "RssAnon", "RssFile"]
            print(f"{'storage':>9} " + " ".join(f"{name:>{8 if len(name) < 9 and i < 7 else 9}}" for i, name in enumerate(names)))
            for kind in arguments.kinds.split(","):
                measure(rektor, primary, dimensions, kind)
            pgvector(primary, dimensions, len(vectors))


if __name__ == "__main__":
    main()
