"""Tables and charts of the measurements."""

import os
import platform
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "src/docs/benchmarks.md"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"

# Rows of the tables, in order: the workload and its label.
ROWS = [
    ("bulk insert", "bulk insert"), ("autocommit NORMAL", "autocommit, NORMAL"), ("autocommit FULL", "autocommit, FULL"),
    ("sustained NORMAL", "sustained commits, NORMAL"), ("sustained FULL", "sustained commits, FULL"),
    ("paced", "commits at 200 per second"), ("point reads", "point reads"), ("scan", "scan"), ("updates", "updates"),
    ("checkpoint", "checkpoint"), ("VACUUM", "VACUUM"), ("VACUUM INTO", "VACUUM INTO"), ("backup", "backup API"),
    ("fork", "independent copy"), ("open warm", "open and first query"), ("open cold", "the same in a new process"),
]
UNENCRYPTED = ["litestream", "turso", "litefleet", "litefleet-history"]
ENCRYPTED = ["sqlcipher", "sqlite3mc-aegis256", "sqlite3mc-chacha20", "turso-aes256gcm", "litefleet-sealed",
             "litefleet-sealed-history"]
# A slower row is one beyond the noise of the medians.
NOISE = 1.05


def median(values):
    return statistics.median(values)


class Results:
    """The measurements of all rounds."""

    def __init__(self, rounds, peers, failures):
        self.rounds, self.peers, self.failures = rounds, peers, failures

    def values(self, workload, peer, field):
        found = (measured.get(workload, {}).get(peer, {}).get(field) for measured in self.rounds)
        return [value for value in found if value is not None]

    def median(self, workload, peer, field):
        values = self.values(workload, peer, field)
        return median(values) if values else None

    def ratios(self, workload, peer, field):
        """The ratio to plain SQLite in each round."""
        ratios = []
        for measured in self.rounds:
            row = measured.get(workload, {})
            if peer in row and "plain" in row and row["plain"].get(field):
                ratios.append(row[peer][field] / row["plain"][field])
        return ratios

    def ratio(self, workload, peer, field):
        ratios = self.ratios(workload, peer, field)
        return median(ratios) if ratios else None


def seconds(value):
    if value is None:
        return "–"
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.2g} µs"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ratio_table(results, peers, field, with_spread):
    peers = [peer for peer in peers if peer in results.peers]
    if not peers:
        return "No peer of this table is built."
    rows = []
    for workload, label in ROWS:
        cells = []
        for peer in peers:
            ratios = results.ratios(workload, peer, field)
            if not ratios:
                cells.append("–")
            elif with_spread and len(ratios) > 1:
                cells.append(f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
            else:
                cells.append(f"{median(ratios):.2f}")
        rows.append([label, seconds(results.median(workload, "plain", field)), *cells])
    return table(["", "plain SQLite", *peers], rows)


def history_table(results):
    peers = [peer for peer in ("litestream", "litefleet-history", "litefleet-sealed-history") if peer in results.peers]
    rows = {"restore to an instant, first": [], "later ones": [], "later ones, to `cp` and a flush": [],
            "exact": [], "stored per commit": [], "p99 of a commit, sustained NORMAL, to plain": []}
    for peer in peers:
        first, later = results.median("restore", peer, "first"), results.median("restore", peer, "wall")
        copy = results.median("restore", peer, "cp")
        exact, instants = results.values("restore", peer, "exact"), results.values("restore", peer, "instants")
        stored = []
        for measured in results.rounds:
            end = measured.get("stored", {}).get(peer)
            if end:
                before = end.get("before", measured.get("stored before", {}).get(peer, {}).get("bytes"))
                commits = sum(measured[name][peer]["commits"] for name in ("paced", "sustained NORMAL", "sustained FULL"))
                stored.append((end["bytes"] - before) / commits)
        p99 = results.ratio("sustained NORMAL", peer, "p99")
        cells = [seconds(first), seconds(later), f"{later / copy:.2f} ×" if later and copy else "–",
                 f"{sum(exact)} of {sum(instants)}" if instants else "–",
                 f"{median(stored) / 1000:.1f} KB" if stored else "–", f"{p99:.2f} ×" if p99 else "–"]
        for row, cell in zip(rows.values(), cells):
            row.append(cell)
    if not peers:
        return "No peer with a history is built."
    return table(["", *peers], [[label, *cells] for label, cells in rows.items()])


def size_table(results):
    rows = []
    for peer in results.peers:
        sizes = [results.median(workload, peer, "bytes") for workload in ("bulk insert", "VACUUM")]
        if all(sizes):
            rows.append([peer, *(f"{size / 1e6:.1f} MB" for size in sizes)])
    return table(["database file", "after the bulk insert", "after DELETE and VACUUM"], rows)


def slower_rows(results):
    """The rows in which litefleet is slower than plain SQLite, or than the fastest comparable peer."""
    lines = []
    for peers in (UNENCRYPTED, ENCRYPTED):
        for peer in (peer for peer in peers if peer.startswith("litefleet") and peer in results.peers):
            slower, compared = [], 0
            for workload, label in ROWS:
                own = results.ratio(workload, peer, "wall")
                others = {other: results.ratio(workload, other, "wall") for other in peers if not other.startswith("litefleet")}
                others = {other: ratio for other, ratio in others.items() if ratio}
                best = min(others, key=others.get, default=None)
                if own is None or not (best or peers is UNENCRYPTED):
                    continue
                compared += 1
                if best and own > NOISE * others[best]:
                    slower.append(f"{label} ({own:.2f}, {best} {others[best]:.2f})")
                elif peers is UNENCRYPTED and own > NOISE:
                    slower.append(f"{label} ({own:.2f}, plain SQLite 1)")
            found = ", ".join(slower) or ("none" if compared else "not compared, because no other encrypted peer is built")
            lines.append(f"- `{peer}`: {found}")
    return "\n".join(lines)


def hardware(directory):
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    flags = set((re.search(r"flags\s*: (.*)", info) or [None, ""])[1].split())
    notable = [flag for flag in ("aes", "vaes", "avx2", "avx512f", "sha_ni") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores ({' '.join(notable)}), {memory:.0f} GiB, "
            f"{file_system(directory)}, Linux {platform.release().split('-')[0]}")


def file_system(directory):
    best = ("", "unknown file system")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind = line.split()[:3]
        if str(directory.resolve()).startswith(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


SIZES = {
    "smoke": "A smoke run with tiny sizes: its figures mean nothing.",
    "small": "A tenth of the full sizes: 42,000 rows of 240 bytes (10 MB), a ledger of 5 MB, 6,000 sustained commits.",
    "full": "420,000 rows of 240 bytes (105 MB), a ledger of 50 MB, 60,000 sustained commits with NORMAL and 6,000 with FULL.",
}


def page(results, build, scale, note):
    versions = build / "versions.txt"
    parts = [
        f"`benches/peers/run.sh`, {len(results.rounds)} interleaved round{'s' if len(results.rounds) > 1 else ''} in rotating order. {SIZES[scale]} {note}".strip(),
        f"Hardware: {hardware(build)}.",
        "Versions and flags:\n\n" + (versions.read_text().strip() if versions.exists() else "unknown"),
        "Pages of 4 KiB, WAL, `synchronous` NORMAL where not named, autocheckpoint as each peer sets it, a cache of 2,000 pages (256 for point "
        "reads and scans), raw keys of 256 bits. The results of all peers agree, by checksum.",
        "Elapsed time, as a ratio to plain SQLite: the median of the rounds (minimum–maximum). Smaller is faster.",
        ratio_table(results, UNENCRYPTED, "wall", True), ratio_table(results, ENCRYPTED, "wall", True),
        "Processor time, as a ratio to plain SQLite. That of Litestream includes the replicator.",
        ratio_table(results, UNENCRYPTED, "cpu", False), ratio_table(results, ENCRYPTED, "cpu", False),
        "History: 11 instants between commits, at 200 commits per second.", history_table(results), size_table(results),
        "Rows in which litefleet is more than 5 % slower than the fastest peer of its table, or unencrypted than plain SQLite:",
        slower_rows(results),
    ]
    if results.failures:
        failed = (f"- `{name}`, {workload}: {why}" for (name, workload), why in results.failures.items())
        parts += ["Workloads that failed:", "\n".join(failed)]
    return "\n\n".join(parts)


def chart(results, peers, title):
    """Bars of the ratios of elapsed time, one group for each workload."""
    peers = [peer for peer in peers if peer in results.peers]
    colors = dict(zip(peers, ["#8c959f", "#bf8700", "#80ccff", "#0969da"] if len(peers) <= 4 else
                      ["#8c959f", "#bf8700", "#e16f24", "#a475f9", "#80ccff", "#0969da"]))
    label, bar, line, most = 210, 520, 12, 5.0
    groups = [(text, [(peer, results.ratio(workload, peer, "wall")) for peer in peers]) for workload, text in ROWS]
    groups = [(text, [(peer, ratio) for peer, ratio in bars if ratio]) for text, bars in groups]
    groups = [group for group in groups if group[1]]
    height = 70 + sum(line * len(bars) + 10 for _, bars in groups)
    width = label + bar + 60
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="system-ui, sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="#ffffff"/>',
           f'<text x="16" y="20" font-size="14" font-weight="600" fill="#1f2328">{title}</text>']
    x = 16
    for peer in peers:
        svg.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{colors[peer]}"/>'
                   f'<text x="{x + 14}" y="41" fill="#1f2328">{peer}</text>')
        x += 30 + 6.3 * len(peer)
    one, y = label + bar / most, 60
    for text, bars in groups:
        middle = y + line * len(bars) / 2 + 4
        svg.append(f'<text x="{label - 8}" y="{middle}" text-anchor="end" fill="#1f2328">{text}</text>')
        for peer, ratio in bars:
            length = bar * min(ratio, most) / most
            svg.append(f'<rect x="{label}" y="{y}" width="{length:.1f}" height="{line - 2}" fill="{colors[peer]}"/>'
                       f'<text x="{label + length + 4:.1f}" y="{y + 9}" font-size="9" fill="#57606a">{ratio:.2f}</text>')
            y += line
        y += 10
    svg.append(f'<line x1="{one}" y1="52" x2="{one}" y2="{height - 8}" stroke="#cf222e" stroke-dasharray="3 3"/></svg>')
    return "\n".join(svg) + "\n"


def write(text, results):
    """Replaces the part of the page between the markers: the charts and the tables."""
    page_text = PAGE.read_text()
    before, rest = page_text.split(BEGIN)
    after = rest.split(END)[1]
    title = "Elapsed time, to plain SQLite (dashed line); bars end at 5"
    charts = chart(results, UNENCRYPTED, title) + chart(results, ENCRYPTED, title + "; encrypted")
    PAGE.write_text(f'{before}{BEGIN}\n<div style="overflow-x: auto">\n{charts}</div>\n\n{text}\n{END}{after}')
