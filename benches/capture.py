"""Rows written and rows that are there → rows and megabytes a second into Rektor, beside what PostgreSQL's own clients reach.

    python benches/capture.py --postgres BIN [--megabytes 200] [--rounds 3]

For 384 and 1536 dimensions, each in the same run and interleaved:
streaming: what was written while nobody listened is read by `pg_recvlogical` (binary, into /dev/null: it decodes
nothing), and by Rektor, without an index on the table and with one, until its journal has it (`flush`); with an index
also until searches see it (`apply`). All read copies of the same slot.
backfill: `COPY … TO STDOUT (FORMAT binary)` by psql into /dev/null, Rektor's copy with its rows decoded and thrown away
(benches/capture.rs, one session as COPY), and CREATE INDEX until the copy is complete and until all is linked.
Prints medians; CPU is what the reader itself used for a row, which holds on a busy machine too.
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
    """Seconds of CPU that a process has used."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


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
    """Seconds and CPU seconds of pg_recvlogical."""
    direct.execute("select pg_copy_logical_replication_slot('rektor', 'bare')")
    started = subprocess.Popen(
        [os.path.join(binaries, "pg_recvlogical"), "-d", primary.url, "--slot", "bare", "--start", "--endpos", end,
         "--no-loop", "-f", "/dev/null", "-o", "proto_version=1", "-o", "publication_names=rektor", "-o", "binary=true",
         "-o", "messages=true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trial.wait("pg_recvlogical", lambda: active(direct, "bare") or started.poll() is not None)
    before = time.perf_counter()
    used = cpu(started.pid)
    while started.poll() is None:
        used = max(used, cpu(started.pid))
        time.sleep(trial.LOOK)
    seconds = time.perf_counter() - before
    direct.execute("select pg_drop_replication_slot('bare')")
    return seconds, used


def captured(direct, rektor, end, apply):
    """Seconds until the journal has it, CPU seconds until then, and seconds until searches see it."""
    rektor.start()
    trial.wait("the stream", lambda: active(direct, "rektor"))
    before, used = time.perf_counter(), cpu(rektor.process.pid)
    trial.wait("flush", lambda: reached(direct, "confirmed_flush_lsn", "rektor", end))
    flush, used = time.perf_counter() - before, cpu(rektor.process.pid) - used
    if apply:
        trial.wait("apply", lambda: reached(direct, "replay_lsn", "rektor", end))
    apply = time.perf_counter() - before
    return flush, used, apply


def stop(direct, rektor):
    trial.wait("readiness", rektor.is_ready)
    direct.execute("checkpoint")
    rektor.end(signal.SIGTERM)
    trial.wait("the slot to be free", lambda: not active(direct, "rektor"))


def line(name, rows, megabytes, seconds, used, reference):
    share = f"{reference / seconds:7.0%}" if reference else "      –"
    micros = f"{used / rows * 1e6:9.1f}" if used else "        –"
    print(f"  {name:<44}{rows / seconds:>10.0f} rows/s{megabytes / seconds:>8.0f} MB/s{share}{micros} µs CPU a row", flush=True)


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
    line("pg_recvlogical, decodes nothing", rows, megabytes, *medians["bare"], None)
    line("Rektor, no index: in the journal", rows, megabytes, medians[False][0], medians[False][1], reference)
    line("Rektor, indexed: in the journal", rows, megabytes, medians[True][0], medians[True][1], reference)
    line("Rektor, indexed: searchable", rows, megabytes, medians[True][2], None, reference)


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
    line("psql, COPY … TO STDOUT (FORMAT binary)", rows, megabytes, medians["psql"], None, None)
    line("Rektor, decoded and thrown away, one session", rows, megabytes, medians["decoded"], None, medians["psql"])
    line("Rektor, CREATE INDEX until copied", rows, megabytes, medians["copied"], None, medians["psql"])
    line("Rektor, CREATE INDEX until all linked", rows, megabytes, medians["linked"], None, medians["psql"])


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
