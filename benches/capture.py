"""Rows written and rows that are there → rows and megabytes a second into Rektor, beside what PostgreSQL's own clients reach.

    python benches/capture.py --postgres BIN [--megabytes 200] [--rounds 3]

For 384 and 1536 dimensions, each in the same run and interleaved:
streaming: what was written while nobody listened is read by `pg_recvlogical` (binary, into /dev/null: it decodes
nothing), and by Rektor, without an index on the table and with one, until its journal has it (`flush`); with an index
also until searches see it (`apply`). All read copies of the same slot.
backfill: `COPY … TO STDOUT (FORMAT binary)` by psql into /dev/null, Rektor's copy with its rows decoded and thrown away
(benches/capture.rs, one session as COPY), and CREATE INDEX until the copy is complete and until all is linked.
Prints medians. What decides on a busy machine too: Rektor is not the bottleneck while its busiest thread needs less CPU for
a row than the walsender. `--folder /dev/shm/…` leaves the disk out, which pg_recvlogical does not use and a journal does.
"""

import argparse
import os
import signal
import subprocess
import time

import numpy as np

import trial

DIMENSIONS = (384, 1536)
# Rows of a transaction.
BATCH = 1000
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    """Seconds of CPU that each thread of a process has used."""
    used = {}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            used[thread] = (int(fields[11]) + int(fields[12])) / TICKS
    except (FileNotFoundError, ProcessLookupError):
        pass
    return used


def since(before, now):
    """CPU seconds between two such readings: of all threads, and of the busiest."""
    spent = [seconds - before.get(thread, 0) for thread, seconds in now.items()]
    return sum(spent), max(spent, default=0)


def write(direct, table, first, count, dimensions):
    """Inserts rows in transactions of BATCH."""
    random = np.random.default_rng(first)
    for start in range(first, first + count, BATCH):
        trial.copy_rows(direct, f"copy {table} from stdin", start, random.standard_normal((BATCH, dimensions), np.float32))



def reached(direct, column, slot, end):
    sql = (f"select {column} >= %s::pg_lsn from pg_replication_slots s "
           "left join pg_stat_replication r on r.pid = s.active_pid where slot_name = %s")
    return bool(direct.execute(sql, [end, slot]).fetchone()[0])


def active(direct, slot):
    return direct.execute("select active from pg_replication_slots where slot_name = %s", [slot]).fetchone()[0]


def bare(direct, primary, binaries, end):
    """Seconds of pg_recvlogical, and CPU seconds of the walsender that it reads from."""
    direct.execute("select pg_copy_logical_replication_slot('rektor', 'bare')")
    started = subprocess.Popen(
        [os.path.join(binaries, "pg_recvlogical"), "-d", primary.url, "--slot", "bare", "--start", "--endpos", end,
         "--no-loop", "-f", "/dev/null", "-o", "proto_version=1", "-o", "publication_names=rektor", "-o", "binary=true",
         "-o", "messages=true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trial.wait("pg_recvlogical", lambda: active(direct, "bare") or started.poll() is not None)
    sender = direct.execute("select active_pid from pg_replication_slots where slot_name = 'bare'").fetchone()[0]
    before, used = time.perf_counter(), {}
    while started.poll() is None:
        used = cpu(sender) or used
        time.sleep(trial.LOOK)
    seconds = time.perf_counter() - before
    direct.execute("select pg_drop_replication_slot('bare')")
    return seconds, since({}, used)[0]


def captured(direct, rektor, end, apply):
    """Seconds until the journal has it, CPU seconds of all threads and of the busiest until then, and seconds until searches
    see it."""
    rektor.start()
    trial.wait("the stream", lambda: active(direct, "rektor"))
    before, used = time.perf_counter(), cpu(rektor.process.pid)
    trial.wait("flush", lambda: reached(direct, "confirmed_flush_lsn", "rektor", end))
    flush = time.perf_counter() - before
    total, busiest = since(used, cpu(rektor.process.pid))
    if apply:
        trial.wait("apply", lambda: reached(direct, "replay_lsn", "rektor", end))
    return flush, total, busiest, time.perf_counter() - before


def stop(direct, rektor):
    trial.wait("readiness", rektor.is_ready)
    direct.execute("checkpoint")
    rektor.end(signal.SIGTERM)
    trial.wait("the slot to be free", lambda: not active(direct, "rektor"))


def line(name, rows, megabytes, seconds, reference, cpu_of=()):
    share = f"{reference / seconds:7.0%}" if reference else "      –"
    micros = "".join(f", {used / rows * 1e6:.1f} µs {what}" for what, used in cpu_of)
    print(f"  {name:<46}{rows / seconds:>9.0f} rows/s{megabytes / seconds:>7.0f} MB/s{share}{micros}", flush=True)


def streaming(arguments, primary, rektor, dimensions, rows):
    megabytes = rows * (dimensions * 4 + 12) / 1e6
    names = {False: f"plain_{dimensions}", True: f"indexed_{dimensions}"}
    figures = {key: [] for key in ("bare", False, True)}
    with primary.connect() as direct:
        for name in names.values():
            direct.execute(f"create table {name} (id integer primary key, v vector({dimensions}))")
        direct.execute(f"alter publication rektor add table {names[False]}")
        sql = f"create index {names[True]}_faiss on {names[True]} using faiss (v vector_l2_ops)"
        with rektor.connect() as connection:
            rektor.create_index(connection, sql, f"{names[True]}_faiss")
        stop(direct, rektor)
        for number in range(arguments.rounds):
            for indexed, table in names.items():
                write(direct, table, number * rows, rows, dimensions)
                end = direct.execute("select pg_current_wal_insert_lsn()::text").fetchone()[0]
                figures["bare"].append(bare(direct, primary, arguments.postgres, end))
                figures[indexed].append(captured(direct, rektor, end, indexed))
                stop(direct, rektor)
        rektor.start()
        trial.wait("readiness", rektor.is_ready)
        direct.execute(f"drop table {names[True]}, {names[False]}")
    medians = {key: np.median(np.array(value), axis=0) for key, value in figures.items()}
    reference = medians["bare"][0]
    print(f"streaming, {dimensions} dimensions, {rows} rows a run")
    line("pg_recvlogical, decodes nothing", rows, megabytes, reference, None,
         [("CPU a row of the walsender", medians["bare"][1])])
    for name, key in (("Rektor, no index: in the journal", False), ("Rektor, indexed: in the journal", True)):
        flush, total, busiest, _ = medians[key]
        line(name, rows, megabytes, flush, reference, [("CPU a row", total), ("of it the busiest thread", busiest)])
    line("Rektor, indexed: searchable", rows, megabytes, medians[True][3], reference)


def backfill(arguments, primary, rektor, dimensions, rows):
    megabytes = rows * (dimensions * 4 + 12) / 1e6
    table = f"copied_{dimensions}"
    figures = {key: [] for key in ("psql", "decoded", "copied", "linked")}
    with primary.connect() as direct, rektor.connect() as connection:
        direct.execute(f"create table {table} (id integer primary key, v vector({dimensions}))")
        write(direct, table, 0, rows, dimensions)
        direct.execute(f"analyze {table}")
        psql = [os.path.join(arguments.postgres, "psql"), primary.url, "-Xqc", f"copy {table} to stdout (format binary)"]
        decoder = ["cargo", "bench", "--quiet", "--bench", "capture", "--", primary.url, table, "id", "v"]
        for number in range(arguments.rounds):
            started = time.perf_counter()
            subprocess.run(psql, check=True, stdout=subprocess.DEVNULL)
            figures["psql"].append(time.perf_counter() - started)
            output = subprocess.run(decoder, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
            assert int(output[0]) == rows
            figures["decoded"].append(float(output[1]))
            started, name = time.perf_counter(), f"{table}_faiss_{number}"
            connection.execute(f"create index {name} on {table} using faiss (v vector_l2_ops)")
            phase = "select phase from rektor.stat_indexes where index_name = %s"
            trial.wait("the copy", lambda: (connection.execute(phase, [name]).fetchone() or ["copying"])[0] != "copying")
            figures["copied"].append(time.perf_counter() - started)
            trial.wait("all rows to be linked", lambda: time.sleep(0.05) or rektor.metric("rektor_index_unlinked_rows") == 0)
            figures["linked"].append(time.perf_counter() - started)
            connection.execute(f"drop index {name}")
        direct.execute(f"drop table {table}")
    medians = {key: np.median(value) for key, value in figures.items()}
    print(f"backfill, {dimensions} dimensions, {rows} rows")
    line("psql, COPY … TO STDOUT (FORMAT binary)", rows, megabytes, medians["psql"], None)
    line("Rektor, decoded and thrown away, one session", rows, megabytes, medians["decoded"], medians["psql"])
    line("Rektor, CREATE INDEX until copied", rows, megabytes, medians["copied"], medians["psql"])
    line("Rektor, CREATE INDEX until all linked", rows, megabytes, medians["linked"], medians["psql"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--megabytes", type=int, default=200, help="of vectors, a run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with trial.trial(arguments, ["max_wal_size = 16GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        for dimensions in DIMENSIONS:
            rows = arguments.megabytes * 1_000_000 // (dimensions * 4) // BATCH * BATCH
            streaming(arguments, primary, rektor, dimensions, rows)
            backfill(arguments, primary, rektor, dimensions, rows)


if __name__ == "__main__":
    main()
