#!/usr/bin/env python3
"""Runs the workloads of all peers that are built, interleaved and in rotating order, and writes the results.

run.sh calls it: run.py BUILD_DIR [--smoke] [--rounds N] [--dir DIR] [--peers NAME,...] [--write]
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import report

# The program of each peer, and what it measures.
PEERS = {
    "plain": "plain",
    "litestream": "plain",
    "turso": "turso",
    "litefleet": "litefleet",
    "litefleet-history": "litefleet",
    "sqlcipher": "sqlcipher",
    "sqlite3mc-aegis256": "sqlite3mc",
    "sqlite3mc-chacha20": "sqlite3mc",
    "turso-aes256gcm": "turso",
    "litefleet-sealed": "litefleet",
    "litefleet-sealed-history": "litefleet",
}

# In order of execution: each builds on the databases that the earlier ones leave.
WORKLOADS = [
    "bulk insert", "point reads", "scan", "open warm", "open cold", "VACUUM INTO", "backup", "fork", "updates",
    "checkpoint", "VACUUM", "autocommit NORMAL", "autocommit FULL", "fill ledger", "stored before", "paced", "restore",
    "sustained NORMAL", "sustained FULL", "stored",
]

# What runs beside a replicator.
LEDGER = ["paced", "sustained NORMAL", "sustained FULL"]

# What a peer lacks, as its program says.
LACKS = ["no backup API", "no restore to an instant", "no history"]

COLD_STARTS = 15


class Failed(Exception):
    """A workload that did not complete."""


class Litestream:
    """The replicator beside the plain program, and its archive."""

    def __init__(self, program, directory):
        self.program = program
        self.database = directory / "ledger.db"
        self.replica = directory / "replica"
        self.url = f"file://{self.replica}"

    def size(self):
        return sum(file.stat().st_size for file in self.replica.rglob("*") if file.is_file())

    def settle(self):
        """Waits until the archive has files and no longer grows."""
        before, deadline = -1, time.monotonic() + 60
        while time.monotonic() < deadline:
            now = self.size()
            if now > 0 and now == before:
                return
            before = now
            time.sleep(1.5)
        raise Failed("the replicator does not settle")

    def beside(self, run):
        """Runs a workload beside the replicator. Its processor time counts."""
        process = subprocess.Popen([self.program, "replicate", self.database, self.url], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            self.settle()
            started = cpu_of(process.pid)
            first_size = self.size()
            measured = run()
            self.settle()
            measured["cpu"] += cpu_of(process.pid) - started
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        return measured, first_size

    def restore(self, directory):
        """Restores to each instant that the writer has noted, as the programs of the other peers do."""
        times, copies, exact = [], [], 0
        lines = (directory / "instants").read_text().splitlines()
        for line in lines:
            nanos, commits = map(int, line.split())
            stamp = datetime.fromtimestamp(nanos // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
            target = directory / "restored.db"
            start = time.perf_counter()
            done = subprocess.run(
                [self.program, "restore", "-o", target, "-timestamp", f"{stamp}.{nanos % 10**9:09}Z", self.url],
                capture_output=True, text=True, check=False)
            times.append(time.perf_counter() - start)
            if done.returncode == 0:
                exact += count_commits(target) == commits
                copies.append(time_copy(target, directory / "cp"))
            for file in directory.glob("restored.db*"):
                file.unlink()
        if not copies:
            raise Failed("no instant can be restored")
        return {"first": times[0], "wall": report.median(times[1:]), "cp": report.median(copies), "exact": exact,
                "instants": len(lines)}


def count_commits(path):
    import sqlite3
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM ledger").fetchone()[0]
    finally:
        connection.close()


def time_copy(source, target):
    start = time.perf_counter()
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    taken = time.perf_counter() - start
    target.unlink()
    return taken


def cpu_of(pid):
    """The processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Peer:
    def __init__(self, name, build, scale):
        self.name, self.scale = name, scale
        self.program = build / "bin" / f"peer-{PEERS[name]}"
        self.replicator = build / "litestream" / "bin" / "litestream"

    def is_built(self):
        return self.program.exists() and (self.name != "litestream" or self.replicator.exists())

    def begin(self, directory):
        self.directory = directory / self.name
        self.directory.mkdir()
        self.litestream = Litestream(self.replicator, self.directory) if self.name == "litestream" else None

    def run(self, workload):
        """Runs a workload. Returns what it measured, or None where the peer does not take part."""
        if self.litestream is None:
            if workload == "open cold":
                runs = [self.call(workload) for _ in range(COLD_STARTS)]
                return {key: report.median([run[key] for run in runs]) for key in ("wall", "cpu")}
            return self.call(workload)
        if workload == "fill ledger":
            return self.call(workload)
        if workload in LEDGER:
            measured, first_size = self.litestream.beside(lambda: self.call(workload))
            if workload == "paced":
                self.first_size = first_size
            return measured
        if workload == "restore":
            return self.litestream.restore(self.directory)
        if workload == "stored before":
            return None
        if workload == "stored":
            return {"bytes": self.litestream.size(), "before": self.first_size}
        return None

    def call(self, workload):
        done = subprocess.run([self.program, workload, self.directory, self.name, self.scale], capture_output=True,
                              text=True, check=False)
        if done.returncode != 0:
            raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
        return json.loads(done.stdout)


def check(workload, results):
    """Fails unless all peers have computed the same."""
    checks = {name: result["check"] for name, result in results.items() if result and "check" in result}
    if len(set(checks.values())) > 1:
        sys.exit(f"the results of {workload} differ: {checks}")


def show(progress):
    """Shows what is running, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def run_round(number, peers, directory, failures):
    """Runs every workload on every peer, and returns the measurements by workload and peer."""
    measured = {}
    for peer in peers:
        peer.begin(directory)
    for index, workload in enumerate(WORKLOADS):
        turn = (number + index) % len(peers)
        results = {}
        for peer in peers[turn:] + peers[:turn]:
            show(f"round {number + 1}: {workload}, {peer.name}")
            try:
                results[peer.name] = peer.run(workload)
            except Failed as failed:
                failures.setdefault((peer.name, workload), str(failed))
        check(workload, results)
        measured[workload] = {name: result for name, result in results.items() if result}
    show("")
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round; its figures mean nothing")
    parser.add_argument("--small", action="store_true", help="a tenth of the full sizes")
    parser.add_argument("--rounds", type=int, help="default: 5, and 1 for --smoke")
    parser.add_argument("--dir", type=Path, help="where the databases are; default: the build directory")
    parser.add_argument("--peers", help="names, separated by commas; default: all that are built")
    parser.add_argument("--note", default="", help="a sentence about this run, for the page")
    parser.add_argument("--write", action="store_true", help="write src/docs/benchmarks.md")
    arguments = parser.parse_args()
    scale = "smoke" if arguments.smoke else "small" if arguments.small else "full"
    rounds = arguments.rounds or (1 if arguments.smoke else 5)
    names = arguments.peers.split(",") if arguments.peers else list(PEERS)
    peers = [Peer(name, arguments.build, scale) for name in names]
    for peer in peers:
        if not peer.is_built():
            print(f"{peer.name}: skipped, because it is not built", file=sys.stderr)
    peers = [peer for peer in peers if peer.is_built()]
    if not any(peer.name == "plain" for peer in peers):
        sys.exit("without the peer plain there is nothing to compare with")
    started, failures, measured = time.monotonic(), {}, []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="peers-", dir=arguments.dir or arguments.build) as directory:
            measured.append(run_round(number, peers, Path(directory), failures))
    lacks = {key: why for key, why in failures.items() if why in LACKS}
    failures = {key: why for key, why in failures.items() if key not in lacks}
    results = report.Results(measured, [peer.name for peer in peers], failures)
    page = report.page(results, arguments.build, scale, arguments.note)
    print(page)
    print(f"{time.monotonic() - started:.0f} s; the results of all peers agree", file=sys.stderr)
    if arguments.write:
        report.write(page, results)
    for (name, workload), why in failures.items():
        print(f"FAILED {name}, {workload}: {why}", file=sys.stderr)
    if any(name == "plain" or name.startswith("litefleet") for name, _ in failures):
        sys.exit(1)


if __name__ == "__main__":
    main()
