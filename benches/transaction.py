"""A million rows in one commit → what Rektor's memory holds beyond the index, and how the rest of the stream fares.

    python benches/transaction.py --postgres BIN [--rows 1000000] [--dimensions 16]

Resident memory is sampled while the transaction streams and is applied; the kernel's own high-water mark is printed too.
What is above the memory after all is searchable is what the transaction cost; `TRANSACTION_BYTES` and the queue's
`QUEUE_BYTES` (src/ingest) and the journal's `QUEUE_BYTES` (src/store/journal) bound it. The number of rows that searches
may find is sampled as well: it must go from none to all.
"""

import argparse
import time

import numpy as np

import trial

BATCH = 4096
MIB = 1 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=16)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    with trial.trial(arguments, ["max_wal_size = 16GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as connection:
            direct.execute(f"create table huge (id integer primary key, v vector({arguments.dimensions}))")
            rektor.create_index(connection, "create index huge_faiss on huge using faiss (v vector_l2_ops)", "huge_faiss")
            before = rektor.memory()
            with direct.transaction():
                for first in range(0, arguments.rows, BATCH):
                    count = min(BATCH, arguments.rows - first)
                    trial.copy_rows(direct, "copy huge from stdin", first,
                                    random.standard_normal((count, arguments.dimensions), np.float32))
            committed = time.perf_counter()
            end = direct.execute("select pg_current_wal_insert_lsn()::text").fetchone()[0]
            flushed = applied = None
            samples, seen = [], set()
            sql = ("select flush_lsn >= %(end)s::pg_lsn, replay_lsn >= %(end)s::pg_lsn from pg_stat_replication "
                   "where application_name = 'rektor'")
            while applied is None:
                samples.append(rektor.memory())
                seen.add(int(rektor.metric("rektor_index_rows")))
                state = direct.execute(sql, {"end": end}).fetchone() or (False, False)
                now = time.perf_counter() - committed
                flushed = flushed or (now if state[0] else None)
                applied = now if state[1] else None
                time.sleep(0.01)
            high = rektor.memory("VmHWM")
            after = rektor.memory()
            seen.add(int(rektor.metric("rektor_index_rows")))
            index = rektor.metric("rektor_index_memory_bytes")
    print(f"{arguments.rows} rows × {arguments.dimensions} in one commit: in the journal after {flushed:.1f} s, searchable "
          f"after {applied:.1f} s")
    print(f"{'':>34}{'MiB':>8}")
    for name, value in (("resident before", before), ("resident when all was searchable", after), ("highest sample", max(samples)),
                        ("high-water mark until then", high), ("above what stayed", high - after), ("of it the index", index)):
        print(f"{name:>34}{value / MIB:>8.0f}")
    print(f"rows that searches could find, over time: {sorted(seen)}")


if __name__ == "__main__":
    main()
