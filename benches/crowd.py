"""Eight connections, each asking again as soon as it is answered → recall against server CPU and queries a second, Rektor and pgvector.

    python benches/crowd.py --postgres BIN --data DIR [--seconds 4] [--rounds 3]

The rows are real embeddings (`vectors.i8` in DIR, see packages.py), in one table with both indexes (m 16, ef_construction
100). Both are asked the same statement by the same program (benches/upserts.rs), in turn; server, Rektor and that program
share the machine. Server CPU is that of PostgreSQL's backends, which the postmaster counts when they have ended, and of
Rektor's process. Medians of the rounds; values at a recall are between the two nearest efforts measured.
"""

import argparse
import os
import time

import numpy as np

import packages
import trial
import upserts

K = 10
EFFORTS = [12, 20, 32, 48, 64, 100, 160, 250, 400]
RECALLS = [0.9, 0.95, 0.98, 0.99]
TICK = os.sysconf("SC_CLK_TCK")


def ended_children(process):
    """Seconds of processor time of the children that have ended."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / TICK


class Side:
    """One of the two, asked at one effort after the other."""

    def __init__(self, name, url, connect, primary, process=None):
        self.name, self.url, self.connect, self.process = name, url, connect, process
        with open(os.path.join(primary.data, "postmaster.pid"), encoding="ascii") as file:
            self.postmaster = int(file.readline())
        self.primary, self.rounds = primary, {effort: [] for effort in EFFORTS}

    def cpu(self):
        others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and query like 'select id from t%'"
        with self.primary.connect() as sql:
            trial.wait("backends", lambda: sql.execute(others).fetchone()[0] == 0)
        own = time.clock_gettime(~self.process << 3 | 2) if self.process else 0
        return ended_children(self.postmaster) + own

    def recall(self, effort, nearest, queries):
        found = 0
        with self.connect() as sql:
            sql.execute(f"set hnsw.ef_search = {effort}")
            for query, places in zip(queries, nearest):
                rows = sql.execute(
                    f"select id from t order by v <=> %s::vector limit {K}", [packages.text(query)]).fetchall()
                found += len({row[0] for row in rows} & {int(place) for place in places})
        return found / (K * len(queries))

    def run(self, load, effort, seconds):
        load.task["rektor"] = f"{self.url}?options=-c%20hnsw.ef_search%3D{effort}"
        before = self.cpu()
        outcome = load.run(seconds=seconds)
        self.rounds[effort].append(((self.cpu() - before) * 1e6 / outcome["searched"], outcome["searched"] / outcome["seconds"],
                                    outcome["search_ms"]["p99"]))

    def at(self, recalls, wanted):
        """CPU µs a query, queries a second and p99 at that recall, between the efforts beside it."""
        medians = np.median(np.array([self.rounds[effort] for effort in EFFORTS]), axis=1)
        if not recalls[0] <= wanted <= max(recalls):
            return None
        return [float(np.interp(wanted, np.maximum.accumulate(recalls), medians[:, column])) for column in range(3)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trial.add_arguments(parser)
    parser.add_argument("--data", required=True, help="folder of real embeddings")
    parser.add_argument("--seconds", type=float, default=4, help="at each effort")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    vectors, queries = packages.load_data(arguments.data, upserts.HELD_OUT)[1:]
    nearest = upserts.exact(vectors, queries)
    with trial.trial(arguments, ["shared_buffers = 1GB", "maintenance_work_mem = 1GB"]) as (primary, rektor):
        rektor.start()
        trial.wait("rektor", rektor.is_ready)
        with primary.connect() as direct, rektor.connect() as connection:
            direct.execute(f"create table t (id integer primary key, v vector({vectors.shape[1]}))")
            trial.copy_rows(direct, "copy t from stdin", 0, vectors)
            direct.execute("vacuum analyze t")
            direct.execute("create index t_hnsw on t using hnsw (v vector_cosine_ops) with (m = 16, ef_construction = 100)")
            rektor.create_index(connection, "create index t_faiss on t using faiss (v vector_cosine_ops)", "t_faiss")
        load = upserts.Load(os.path.dirname(primary.data), primary, rektor, vectors, queries)
        there = f"postgresql://postgres@127.0.0.1:{rektor.port}/postgres"
        sides = [Side("Rektor", there, rektor.connect, primary, rektor.process.pid),
                 Side("pgvector", primary.url, primary.connect, primary)]
        recalls = {side.name: [side.recall(effort, nearest, queries) for effort in EFFORTS] for side in sides}
        for _ in range(arguments.rounds):
            for effort in EFFORTS:
                for side in sides:
                    side.run(load, effort, arguments.seconds)
        print(f"{len(vectors)} rows × {vectors.shape[1]}, cosine, k = {K}, 8 connections, {len(queries)} queries\n"
              f"{'recall':<10}{'':<12}{'CPU µs':>8}{'QPS':>10}{'p99 ms':>8}")
        for wanted in RECALLS:
            found = [side.at(recalls[side.name], wanted) for side in sides]
            for side, values in zip(sides, found):
                row = "not reached" if values is None else f"{values[0]:>8.0f}{values[1]:>10,.0f}{values[2]:>8.2f}"
                print(f"{wanted:<10}{side.name:<12}{row}")
            if None not in found:
                print(f"{'':<10}{'ratio':<12}{found[1][0] / found[0][0]:>7.1f}×{found[0][1] / found[1][1]:>9.1f}×")


if __name__ == "__main__":
    main()
