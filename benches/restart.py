"""A stopped or killed Rektor → seconds until it answers its first search from its index, and until it is ready.

    python benches/restart.py --postgres BIN [--data DIR] [--rows 500000 --dimensions 128] [--rounds 5]

With `--data DIR` the rows are those of `DIR/vectors.i8` (rows × 384 signed bytes), else synthetic ones around centres.
Prints a line for each way to end: the time of the first k-nearest-neighbour search that the index answered, counted
from the start of the process, and of /readyz, with the rows that were not linked at that moment.
"""

import argparse
import os
import signal
import time

import numpy as np
import psycopg

import trial

K = 10


def load(arguments):
    if arguments.data:
        bytes_ = np.fromfile(os.path.join(arguments.data, "vectors.i8"), dtype=np.int8)
        return bytes_.reshape(-1, 384).astype(np.float32) * 0.0015731394
    random = np.random.default_rng(1)
    centres = random.standard_normal((1000, arguments.dimensions), dtype=np.float32)
    chosen = centres[random.integers(0, len(centres), arguments.rows)]
    return chosen + 0.4 * random.standard_normal(chosen.shape, dtype=np.float32)


def first_answer(rektor, query):
    """Waits until a search is answered from the index; the seconds since the process began."""
    started = time.perf_counter()
    sql = f"select id from restart_bench order by embedding <-> '{query}' limit {K}"

    def answered():
        try:
            with rektor.connect() as connection:
                before = rektor.metric('rektor_knn_statements_total{way="nominate"}')
                rows = connection.execute(sql).fetchall()
                assert len(rows) == K
                return rektor.metric('rektor_knn_statements_total{way="nominate"}') > before
        except (psycopg.OperationalError, OSError):
            return False

    trial.wait("an answer from the index", answered)
    return time.perf_counter() - started


def unlinked(rektor):
    return rektor.metric("rektor_index_unlinked_rows")


def restart(rektor, query, how):
    rektor.end(how)
    started = time.perf_counter()
    rektor.start()
    answer = first_answer(rektor, query)
    waiting = unlinked(rektor)
    trial.wait("readiness", rektor.is_ready)
    ready = time.perf_counter() - started
    trial.wait("every row to be linked", lambda: time.sleep(0.05) or unlinked(rektor) == 0)
    return answer, ready, waiting, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--data", help="folder of vectors.i8")
    parser.add_argument("--rows", type=int, default=60000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    vectors = load(arguments)
    query = "[" + ",".join(f"{x:.6g}" for x in vectors[0]) + "]"
    with trial.trial(arguments) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct:
            direct.execute(f"create table restart_bench (id integer primary key, embedding vector({vectors.shape[1]}))")
            trial.copy_rows(direct, "copy restart_bench from stdin", 0, vectors)
        with rektor.connect() as connection:
            sql = "create index restart_bench_faiss on restart_bench using faiss (embedding vector_l2_ops)"
            seconds = rektor.create_index(connection, sql, "restart_bench_faiss")
        print(f"{len(vectors)} rows × {vectors.shape[1]}: copied and linked in {seconds:.1f} s")
        generation = os.path.join(rektor.folder, "state")
        trial.wait("a generation", lambda: any(
            name.startswith("gen-") and not name.endswith(".tmp") and os.path.exists(f"{generation}/{name}/manifest")
            and any("rows" in file for file in os.listdir(f"{generation}/{name}")) for name in os.listdir(generation)))
        print(f"{'ended by':<10}{'first answer':>14}{'ready':>10}{'all linked':>12}   unlinked at the first answer")
        for name, how in (("SIGTERM", signal.SIGTERM), ("kill -9", signal.SIGKILL)):
            rounds = np.array([restart(rektor, query, how) for _ in range(arguments.rounds)])
            answer, ready, waiting, linked = np.median(rounds, axis=0)
            print(f"{name:<10}{answer:>12.2f} s{ready:>8.2f} s{linked:>10.2f} s   {waiting:.0f}", flush=True)


if __name__ == "__main__":
    main()
