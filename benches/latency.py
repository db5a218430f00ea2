"""A commit → milliseconds until a search that must see it is answered from the index, idle and under load.

    python benches/latency.py --postgres BIN [--commits 500] [--dimensions 384]

A client commits a row directly, takes the position, and at once asks through Rektor for the row with `rektor.min_lsn` set to
it. Printed beside the same search when nothing has to be waited for, so that the difference is the wait; idle, with a pause
between commits that nobody else fills, and while another client commits batches of rows all the time.
"""

import argparse
import multiprocessing
import time

import numpy as np
import psycopg

import trial


def around(random, centres, count):
    """Vectors near some centres, as embeddings lie."""
    chosen = centres[random.integers(0, len(centres), count)]
    return chosen + 0.4 * random.standard_normal(chosen.shape, dtype=np.float32)


def literal(vector):
    return "[" + ",".join(f"{x:.6g}" for x in vector) + "]"


def write_on(url, centres, stop):
    random = np.random.default_rng(2)
    with psycopg.connect(url, autocommit=True) as direct:
        first = 10_000_000
        while not stop.is_set():
            trial.copy_rows(direct, "copy late from stdin", first, around(random, centres, 20))
            first += 20
            time.sleep(0.005)


def measure(direct, connection, random, centres, first, commits, pause):
    """Milliseconds until each commit was found, and of the same search afterwards."""
    waits, plain = [], []
    for number in range(first, first + commits):
        vector = around(random, centres, 1)[0]
        sql = f"select id from late order by v <-> '{literal(vector)}' limit 1"
        direct.execute("insert into late values (%s, %s::vector)", [number, literal(vector)])
        committed = time.perf_counter()
        position = direct.execute("select pg_current_wal_lsn()::text").fetchone()[0]
        connection.execute(f"set rektor.min_lsn = '{position}'")
        found = connection.execute(sql).fetchone()
        waits.append((time.perf_counter() - committed) * 1000)
        missed = found != (number,)
        again = time.perf_counter()
        direct.execute("select pg_current_wal_lsn()::text").fetchone()
        connection.execute(f"set rektor.min_lsn = '{position}'")
        found = connection.execute(sql).fetchone()
        plain.append((time.perf_counter() - again) * 1000)
        # A row that no walk finds is a matter of recall; one that is found a moment later was not there in time.
        assert not missed or found != (number,), f"row {number} was answered for before it was there"
        time.sleep(pause)
    return waits, plain


def line(name, values):
    print(f"{name:<44}" + "".join(f"{np.percentile(values, p):>9.2f}" for p in (50, 95, 99, 100)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--commits", type=int, default=500)
    parser.add_argument("--dimensions", type=int, default=384)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    with trial.trial(arguments) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as connection:
            direct.execute(f"create table late (id integer primary key, v vector({arguments.dimensions}))")
            centres = random.standard_normal((200, arguments.dimensions), dtype=np.float32)
            rows = around(random, centres, 20_000)
            trial.copy_rows(direct, "copy late from stdin", 0, rows)
            rektor.create_index(connection, "create index late_faiss on late using faiss (v vector_l2_ops)", "late_faiss")
            measure(direct, connection, random, centres, 20_000, 20, 0)
            before = rektor.metric('rektor_knn_statements_total{way="nominate"}')
            print(f"{'milliseconds':<44}" + "".join(f"{name:>9}" for name in ("p50", "p95", "p99", "most")))
            idle, plain = measure(direct, connection, random, centres, 1_000_000, arguments.commits, 0.02)
            line("idle: commit to answer", idle)
            line("idle: the same, nothing to wait for", plain)
            stop = multiprocessing.Event()
            writer = multiprocessing.Process(target=write_on, args=(primary.url, centres, stop))
            writer.start()
            loaded, plain = measure(direct, connection, random, centres, 2_000_000, arguments.commits, 0)
            stop.set()
            writer.join()
            line("under load: commit to answer", loaded)
            line("under load: the same, nothing to wait for", plain)
            answered = rektor.metric('rektor_knn_statements_total{way="nominate"}') - before
            print(f"{answered / (4 * arguments.commits):.1%} of the searches were answered from the index; the others upstream")


if __name__ == "__main__":
    main()
