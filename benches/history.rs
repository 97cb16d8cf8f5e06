//! The cost of history to a writer, and the time of a restore compared with `cp` and fsync of the same bytes.
//!
//! Two databases alternate, one with a history and one without. A transaction updates three random rows of about 1 KB
//! and inserts one. The results are medians of the rounds' ratios. `LITEFLEET_BENCH_ROUNDS` sets the number of rounds
//! (default 7), `LITEFLEET_BENCH_COMMITS` the transactions per round (20,000), `LITEFLEET_BENCH_MB` the size of the
//! database (50), `LITEFLEET_BENCH_IDLE` the number of additional idle connections (0), `LITEFLEET_BENCH_DIR` the
//! directory (default: cargo's target directory), `LITEFLEET_BENCH_SMOKE` reduces the bench to one small round.

#![expect(clippy::unwrap_used, reason = "a failed bench panics")]

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, MaintainOptions, Retention, Seed,
    Synchronous, Timestamp,
    rusqlite::{Connection, Statement},
};

fn number(name: &str, normal: u32, small: u32) -> u32 {
    let smoke = env::var_os("LITEFLEET_BENCH_SMOKE").is_some();
    env::var(name).ok().map_or(if smoke { small } else { normal }, |text| text.parse().unwrap())
}

/// A deterministic pseudo-random generator, equal for both databases.
fn random(state: &mut u32, below: u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) % below + 1
}

fn fill(connection: &Connection, rows: u32) {
    connection
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB); CREATE TABLE ledger(id INTEGER PRIMARY KEY, at TEXT)")
        .unwrap();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO t SELECT i, randomblob(500) || zeroblob(480) FROM n",
            [rows],
        )
        .unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

struct Writer<'a> {
    begin: Statement<'a>,
    update: Statement<'a>,
    insert: Statement<'a>,
    commit: Statement<'a>,
    rows: u32,
    state: u32,
}

impl<'a> Writer<'a> {
    fn new(connection: &'a Connection, rows: u32) -> Self {
        let prepare = |sql| connection.prepare(sql).unwrap();
        Self {
            begin: prepare("BEGIN IMMEDIATE"),
            update: prepare("UPDATE t SET a = randomblob(500) || zeroblob(480) WHERE id = ?1"),
            insert: prepare("INSERT INTO ledger(at) VALUES ('now')"),
            commit: prepare("COMMIT"),
            rows,
            state: 7,
        }
    }

    /// Runs one transaction and returns its duration.
    fn transaction(&mut self) -> Duration {
        let start = Instant::now();
        self.begin.execute([]).unwrap();
        for _ in 0..3 {
            self.update.execute([random(&mut self.state, self.rows)]).unwrap();
        }
        self.insert.execute([]).unwrap();
        self.commit.execute([]).unwrap();
        start.elapsed()
    }
}

fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn cp(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["--reflink=never"]).args([from, to]).status().unwrap().success());
    File::open(to).unwrap().sync_all().unwrap();
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bytes_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap();
    files
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(fs::Metadata::is_file)
        .map(|found| found.len())
        .sum()
}

/// Runs transactions on both databases in alternating batches, and prints the cost of the history.
fn capture(plane: &ControlPlane, synchronous: Synchronous, rows: u32, commits: u32, rounds: u32) {
    let connect =
        |name: &str| plane.connect(name, ConnectOptions::default().synchronous(synchronous)).unwrap();
    let connections = [connect("off"), connect("on")];
    // Idle peers, which have the WAL open while it is moved.
    let others = number("LITEFLEET_BENCH_IDLE", 0, 0);
    let idle: Vec<_> = (0..others).flat_map(|_| [connect("off"), connect("on")]).collect();
    for other in &idle {
        other.query_row("SELECT count(*) FROM ledger", [], |_| Ok(())).unwrap();
    }
    let mut writers = connections.each_ref().map(|connection| Writer::new(connection, rows));
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        let mut times = [const { Vec::new() }; 2];
        // Alternate the order, so that both see the same disk state on average.
        for turn in 0..2 {
            let which = ((round + turn) % 2) as usize;
            settle();
            times[which] = (0..commits).map(|_| writers[which].transaction()).collect::<Vec<_>>();
        }
        let [off, on] = times.map(|mut times| {
            let total: Duration = times.iter().sum();
            times.sort();
            [total, times[times.len() / 2], times[times.len() * 99 / 100]].map(|time| time.as_secs_f64())
        });
        for (ratios, (on, off)) in ratios.iter_mut().zip(on.iter().zip(off)) {
            ratios.push(on / off);
        }
        println!(
            "  {synchronous:?}: off {:.0} commits/s, on {:.0}; p50 {:.1} µs, {:.1}; p99 {:.1} µs, {:.1}",
            f64::from(commits) / off[0],
            f64::from(commits) / on[0],
            off[1] * 1e6,
            on[1] * 1e6,
            off[2] * 1e6,
            on[2] * 1e6
        );
    }
    let [total, p50, p99] = ratios.each_mut().map(|ratios| median(ratios));
    println!("capture, synchronous={synchronous:?}: {total:.3} × in all, p50 {p50:.3} ×, p99 {p99:.3} ×");
}

fn main() {
    let (rounds, commits) =
        (number("LITEFLEET_BENCH_ROUNDS", 7, 1), number("LITEFLEET_BENCH_COMMITS", 20_000, 200));
    let rows = number("LITEFLEET_BENCH_MB", 50, 1) * 1024;
    let dir = tempfile::tempdir_in(
        env::var("LITEFLEET_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").into()),
    )
    .unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    for name in ["off", "on"] {
        plane.create_database(CreateDatabaseInput::new(name, "default")).unwrap();
        if name == "off" {
            let off = DatabaseChanges::default().history_window(Retention::OFF);
            plane.configure_database(name, off).unwrap();
        }
        fill(&plane.connect(name, ConnectOptions::default()).unwrap(), rows);
    }
    for synchronous in [Synchronous::Normal, Synchronous::Full] {
        let commits = if synchronous == Synchronous::Full { commits / 5 } else { commits };
        capture(&plane, synchronous, rows, commits, rounds);
    }
    let archive = |name| plane.database_path(name).unwrap().with_file_name("archive");
    assert!(!archive("off").exists(), "a database without history has no archive");
    let data = plane.database_path("on").unwrap();
    println!(
        "database {} bytes, archive {} bytes",
        fs::metadata(&data).unwrap().len(),
        bytes_in(&archive("on"))
    );
    restore(&plane, dir.path(), rounds);
    plane.maintain_database("on", MaintainOptions::default()).unwrap();
    println!("after maintenance: archive {} bytes", bytes_in(&archive("on")));
    restore(&plane, dir.path(), rounds);
}

/// Opens views of instants throughout the history.
fn open_views(plane: &ControlPlane, instants: &[Timestamp]) {
    let open = |at: &Timestamp| {
        let start = Instant::now();
        plane.connect_at("on", *at, ConnectOptions::default()).unwrap();
        start.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<_> = instants.iter().map(open).collect();
    println!("  views open in {:.1?} ms, median {:.1}", times.clone(), median(&mut times));
}

/// Opens a view of the latest instant, and scans it and the live database.
fn view(plane: &ControlPlane, at: Timestamp, rounds: u32) {
    let scan = |connection: &Connection| {
        let start = Instant::now();
        let sql = "SELECT sum(length(a)) FROM t";
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        start.elapsed().as_secs_f64()
    };
    let options = ConnectOptions::default();
    let (mut opens, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(3) {
        let start = Instant::now();
        let (past, _) = plane.connect_at("on", at, options.clone()).unwrap();
        opens.push(start.elapsed().as_secs_f64() * 1e3);
        let now = plane.connect("on", options.clone()).unwrap();
        ratios.push(scan(&past) / scan(&now));
    }
    println!("view: opens in {:.1} ms, scans at {:.2} × plain", median(&mut opens), median(&mut ratios));
}

/// Restores to the commit in the middle of the history, and copies the result with `cp`.
fn restore(plane: &ControlPlane, dir: &Path, rounds: u32) {
    let start = Instant::now();
    let points = plane.points("on", ..).unwrap().points;
    println!("points: {} in {:.1} ms", points.len(), start.elapsed().as_secs_f64() * 1e3);
    let at: Timestamp = points[points.len() / 2].at;
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        settle();
        let input = CreateDatabaseInput::new("past", "default").with_seed(Seed::database_at("on", at));
        let start = Instant::now();
        plane.create_database(input).unwrap();
        let restored = start.elapsed();
        let result = plane.database_path("past").unwrap();
        let copy = dir.join("copy");
        settle();
        let start = Instant::now();
        cp(&result, &copy);
        let copied = start.elapsed();
        ratios.push(restored.as_secs_f64() / copied.as_secs_f64());
        println!("  restore {:.0} ms, cp {:.0} ms", restored.as_secs_f64() * 1e3, copied.as_secs_f64() * 1e3);
        fs::remove_file(&copy).unwrap();
        plane.destroy_database("past").unwrap();
    }
    let instants: Vec<_> = (0..8).map(|part| points[points.len() * (2 * part + 1) / 16].at).collect();
    open_views(plane, &instants);
    println!("restore to the middle of the log: {:.2} × cp and flush", median(&mut ratios));
    view(plane, at, rounds);
}
