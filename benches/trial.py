"""A primary and a Rektor of a bench's own → started, stopped, killed, measured; nothing of them is left behind.

Not a bench itself. Runs PostgreSQL as the user `postgres` (where there is none, `nobody`) when started as root, which
PostgreSQL refuses.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import psycopg

# How often a condition is looked at: finer than any figure that a bench prints.
LOOK = 0.002
# What nothing here may take, on the slowest machine.
LIMIT = 1200
# Whom PostgreSQL runs as, started by root.
ACCOUNT = "postgres" if any(account.pw_name == "postgres" for account in pwd.getpwall()) else "nobody"


def wait(what, condition, limit=LIMIT):
    """Seconds until the condition is true."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > limit:
            raise TimeoutError(what)
        time.sleep(LOOK)
    return time.perf_counter() - started


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unprivileged(command):
    if os.geteuid() != 0:
        return command
    group = pwd.getpwnam(ACCOUNT).pw_gid
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={group}", "--init-groups", "--", *command]


class Primary:
    """A PostgreSQL with its files in `folder`. Durable writes are off: the bench measures Rektor, not this disk."""

    def __init__(self, folder, binaries, settings=()):
        self.folder, self.binaries, self.port = folder, binaries, free_port()
        self.data = os.path.join(folder, "primary")
        os.makedirs(self.data, mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)
            shutil.chown(self.data, ACCOUNT)
        self.run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync",
                 "--pgdata", self.data)
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\n"
                "wal_level = logical\nfsync = off\nmax_wal_size = 4GB\ncheckpoint_timeout = 1h\nautovacuum = off\n"
                + "".join(f"{line}\n" for line in settings)
            )
        self.start()

    def run(self, program, *arguments, check=True):
        command = unprivileged([os.path.join(self.binaries, program), *arguments])
        return subprocess.run(command, check=check, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self):
        self.run("pg_ctl", "start", "-w", "-D", self.data, "-l", os.path.join(self.folder, "log"))

    def stop(self, mode="immediate"):
        self.run("pg_ctl", "stop", "-w", "-D", self.data, "-m", mode, check=False)

    @property
    def url(self):
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def connect(self):
        return psycopg.connect(self.url, autocommit=True)


class Rektor:
    """A `rektor serve` beside a primary."""

    def __init__(self, folder, program, primary):
        self.program, self.primary = program, primary
        self.port, self.http_port = free_port(), free_port()
        self.folder, self.process = os.path.join(folder, "rektor"), None
        self.log = open(os.path.join(folder, "rektor.log"), "ab")
        subprocess.run([program, "setup", "--upstream", primary.url], check=True, stdout=subprocess.DEVNULL)

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "serve", "--upstream", self.primary.url, "--listen", f"127.0.0.1:{self.port}",
             "--http", f"127.0.0.1:{self.http_port}", "--data-dir", self.folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log)

    def end(self, how):
        """Sends SIGTERM or SIGKILL, and waits for the end."""
        self.process.send_signal(how)
        self.process.wait()
        self.process = None

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/readyz", timeout=1) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def metric(self, prefix):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix))

    def connect(self):
        return psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True)

    def memory(self, field="VmRSS"):
        """Bytes of a field of /proc/PID/status."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        return 0

    def create_index(self, connection, sql, name):
        """Seconds until the index serves with every row linked."""
        connection.execute(sql)
        phase = "select phase, error from rektor.stat_indexes where index_name = %s"

        def done():
            state = connection.execute(phase, [name]).fetchone()
            if state and state[0] == "failed":
                raise RuntimeError(state[1])
            time.sleep(0.05)
            return state and state[0] == "ready" and self.metric("rektor_index_unlinked_rows") == 0

        return wait(name, done)


@contextmanager
def trial(arguments, settings=()):
    """A primary and a Rektor that is not started yet, in a directory that goes when the bench ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what follows is undone then too
    if arguments.folder:
        os.makedirs(arguments.folder, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="rektor-bench-", dir=arguments.folder)
    os.chmod(folder, 0o755)
    primary, rektor = None, None
    try:
        primary = Primary(folder, arguments.postgres, settings)
        with primary.connect() as connection:
            connection.execute("create extension if not exists vector")
        rektor = Rektor(folder, arguments.rektor, primary)
        yield primary, rektor
    finally:
        if rektor and rektor.process:
            rektor.end(signal.SIGKILL)
        if primary:
            primary.stop()
        shutil.rmtree(folder, ignore_errors=True)


def add_arguments(parser):
    # Programs of it are run elsewhere.
    parser.add_argument("--postgres", required=True, type=os.path.abspath, help="bin directory of a PostgreSQL with pgvector")
    parser.add_argument("--rektor", default="target/release/rektor", help="the program")
    parser.add_argument("--folder", default=None, help="where the trial's files go; the default is the system's for such")


def binary_rows(numbers, vectors):
    """Rows of (integer, vector) as COPY's binary form has them, without header and trailer."""
    wire = vectors.astype(">f4")
    width = wire.shape[1] * 4 + 4
    head = b"\0\2" + b"\0\0\0\4"
    tail = width.to_bytes(4, "big") + wire.shape[1].to_bytes(2, "big") + b"\0\0"
    return b"".join(
        head + int(number).to_bytes(4, "big") + tail + row.tobytes() for number, row in zip(numbers, wire)
    )


def copy_rows(connection, sql, first, vectors, batch=4096):
    """COPYs rows numbered from `first` on, in the binary form."""
    with connection.cursor().copy(f"{sql} (format binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for start in range(0, len(vectors), batch):
            part = vectors[start:start + batch]
            copy.write(binary_rows(range(first + start, first + start + len(part)), part))
        copy.write(b"\xff\xff")
