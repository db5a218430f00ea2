"""Vectors in a table → bytes a vector that an index of each storage kind holds in memory, beside pgvector's table and index.

    python benches/memory.py --postgres BIN [--data DIR] [--rows 20000] [--rektor PROGRAM] [--folder DIR]

384 dimensions are the packages data, `DIR/vectors.i8` (rows × 384 signed bytes), or synthetic without `--data`; 768 are
synthetic (normal around 1,000 centres). Prints a table for each: what `rektor.stat_indexes` accounts for, by part, and
what the process grew by after a restart from its generations, when every row is linked. Hot is what it holds (RssAnon),
cold what is in mapped files: vectors that only a search's best candidates are compared with (RssFile, after each was read
once). `away` is the RssFile that is left when the system has taken those pages back, `searched` after 100 searches more.
"""

import argparse
import ctypes
import os
import signal
import time

import numpy as np

import trial

KINDS = ["f32", "f16", "bf16", "i8"]
PARTS = ["vectors", "mapped", "codes", "graph", "keys", "records", "filters", "other"]
# Between two looks at a process that should not grow any more.
SETTLE = 0.5
SEARCHES = 100
# Linux's numbers.
PIDFD_OPEN, PROCESS_MADVISE, MADV_PAGEOUT = 434, 440, 21


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


def take_away(rektor):
    """Has the system take back what the process has mapped of its files, as it does when others need the memory."""
    os.sync()  # what is not on disk yet cannot be taken
    with open(f"/proc/{rektor.process.pid}/maps", encoding="utf-8") as file:
        ranges = [line.split(" ", 1)[0] for line in file if rektor.folder + "/vectors/" in line]
    ranges = [tuple(int(end, 16) for end in each.split("-")) for each in ranges]
    system = ctypes.CDLL(None, use_errno=True).syscall
    process = system(PIDFD_OPEN, rektor.process.pid, 0)
    for start, end in ranges:
        one = (ctypes.c_size_t * 2)(start, end - start)
        if system(PROCESS_MADVISE, process, one, ctypes.c_size_t(1), MADV_PAGEOUT, 0) < 0:
            raise OSError(ctypes.get_errno(), "process_madvise")
    os.close(process)


def search(connection, dimensions, vectors):
    for vector in vectors[:SEARCHES]:
        text = "[" + ",".join(str(x) for x in vector) + "]"
        connection.execute(f"select id from vectors_{dimensions} order by embedding <=> %s limit 10", [text]).fetchall()


def again(rektor):
    """Restarts Rektor, until every index serves with every row linked."""
    rektor.end(signal.SIGTERM)
    rektor.start()
    trial.wait("a restart", rektor.is_ready)
    trial.wait("the linker", lambda: rektor.metric("rektor_index_unlinked_rows") == 0)


def measure(rektor, dimensions, vectors, kind):
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
        connection.execute("select * from rektor.verify_index('kept_idx')")
        read = resident(rektor)
        take_away(rektor)
        away = resident(rektor)
        search(connection, dimensions, vectors)
        searched = resident(rektor)
        rows, total, parts = connection.execute(
            "select rows, memory_bytes, memory_parts from rektor.stat_indexes where index_name = 'kept_idx'").fetchone()
        connection.execute("drop index kept_idx")
    trial.wait("the drop", lambda: rektor.metric("rektor_index_memory_bytes") == 0)
    figures = [parts[part] for part in PARTS] + [total, parts["mapped"], built[0] - empty[0], loaded[0] - empty[0]]
    figures += [at[1] - empty[1] for at in [read, away, searched]]
    print(f"{kind:>9} " + " ".join(f"{figure / rows:>8.0f}" for figure in figures), flush=True)


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
            names = [*PARTS, "hot", "cold", "built", "RssAnon", "RssFile", "away", "searched"]
            print(f"{'storage':>9} " + " ".join(f"{name:>8}" for name in names))
            for kind in arguments.kinds.split(","):
                measure(rektor, dimensions, vectors, kind)
            pgvector(primary, dimensions, len(vectors))


if __name__ == "__main__":
    main()
