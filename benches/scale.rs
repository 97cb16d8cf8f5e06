//! A root that grows to 100,000 databases: the cost of create, list, connect and open at a hundredth, a tenth and all of
//! them, how it grows, and what ten times as many would need.
//!
//! `LITEFLEET_BENCH_DATABASES` sets their number, `LITEFLEET_BENCH_DIR` the directory (default: cargo's target
//! directory), `LITEFLEET_BENCH_SMOKE` makes it small.

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a failed bench panics, and its counts are small"
)]

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use litefleet::{ConnectOptions, ControlPlane, CreateDatabaseInput, ListDatabases, rusqlite::Connection};

/// The unit of a row.
#[derive(Clone, Copy)]
enum Unit {
    PerSecond,
    Micros,
    Ratio,
    Count,
    KiB,
}

/// How a row grows with the number of databases, for the extrapolation.
#[derive(Clone, Copy)]
enum Growth {
    /// By the same factor for each tenfold.
    Factor,
    /// By the same amount for each database.
    Amount,
}

/// A row of the table. The measurements are in the order of the steps.
struct Row {
    name: &'static str,
    unit: Unit,
    growth: Growth,
    values: Vec<f64>,
}

impl Row {
    /// The factor by which the value grows for each tenfold of databases.
    fn slope(&self) -> f64 {
        let [first, .., last] = self.values.as_slice() else { panic!("several steps") };
        (last / first).powf(1.0 / (self.values.len() - 1) as f64)
    }

    /// The value for ten times as many databases as in the last step.
    fn extrapolated(&self) -> f64 {
        let [.., before, last] = self.values.as_slice() else { panic!("several steps") };
        match self.growth {
            Growth::Factor => last * self.slope(),
            Growth::Amount => last + (last - before) * 10.0,
        }
    }

    fn shown(&self, value: f64) -> String {
        match self.unit {
            Unit::PerSecond => format!("{value:.0} per s"),
            Unit::Micros if value >= 10_000.0 => format!("{:.0} ms", value / 1e3),
            Unit::Micros => format!("{value:.0} µs"),
            Unit::Ratio => format!("{value:.2} ×"),
            Unit::Count => format!("{value:.0}"),
            Unit::KiB if value >= 10.0 * 1024.0 * 1024.0 => format!("{:.1} GiB", value / 1024.0 / 1024.0),
            Unit::KiB if value >= 10.0 * 1024.0 => format!("{:.1} MiB", value / 1024.0),
            Unit::KiB => format!("{value:.0} KiB"),
        }
    }
}

fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = run();
    (start.elapsed(), result)
}

/// The median duration in microseconds.
fn median(rounds: usize, mut run: impl FnMut(usize)) -> f64 {
    let mut times: Vec<_> = (0..rounds).map(|round| timed(|| run(round)).0).collect();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// A field of this process's status, such as `VmRSS` in KiB.
fn status(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The files and directories below `dir`, and the space that they occupy in KiB.
fn occupied(dir: &Path) -> (f64, f64) {
    let (mut count, mut kib) = (0.0, 0.0);
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        count += 1.0;
        kib += metadata.blocks() as f64 / 2.0;
        if metadata.is_dir() {
            let (inner, space) = occupied(&entry.path());
            count += inner;
            kib += space;
        }
    }
    (count, kib)
}

fn query(connection: Connection) {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0);
}

fn name(at: usize) -> String {
    format!("db-{at:06}")
}

/// Measures a root of `count` databases. `rate` is that of the last creates.
fn measure(plane: &ControlPlane, count: usize, rate: f64) -> Vec<(&'static str, Unit, Growth, f64)> {
    let (list, listed) = timed(|| plane.list_databases(ListDatabases::default()).unwrap().len());
    assert_eq!(listed, count);
    let page = ListDatabases::default().group("default").after(name(count / 2)).limit(100);
    let listed = median(101, |_| drop(plane.list_databases(page.clone()).unwrap()));
    let pick = |round: usize| name(round * 7919 % count);
    let paths: Vec<_> = (0..201).map(|round| plane.database_path(&pick(round)).unwrap()).collect();
    for path in &paths {
        query(Connection::open(path).unwrap());
    }
    let options = ConnectOptions::default();
    let plain = median(201, |round| query(Connection::open(&paths[round]).unwrap()));
    let connect = median(201, |round| query(plane.connect(&pick(round), options.clone()).unwrap()));
    let open = median(21, |_| drop(ControlPlane::open(plane.root()).unwrap()));
    let (files, space) = occupied(plane.root());
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count() - 1;
    let catalog = fs::metadata(plane.root().join("control.db")).unwrap().len() as f64 / 1024.0;
    vec![
        ("create, the last tenth", Unit::PerSecond, Growth::Factor, rate),
        ("list all", Unit::Micros, Growth::Amount, list.as_secs_f64() * 1e6),
        ("list a page of 100 from the middle", Unit::Micros, Growth::Factor, listed),
        ("open and first query, plain SQLite", Unit::Micros, Growth::Factor, plain),
        ("connect and first query", Unit::Micros, Growth::Factor, connect),
        ("connect / plain SQLite", Unit::Ratio, Growth::Factor, connect / plain),
        ("open the root", Unit::Micros, Growth::Factor, open),
        ("resident memory of the process", Unit::KiB, Growth::Amount, status("VmRSS")),
        ("file descriptors open", Unit::Count, Growth::Amount, descriptors as f64),
        ("`control.db`", Unit::KiB, Growth::Amount, catalog),
        ("files and directories", Unit::Count, Growth::Amount, files),
        ("space on disk, empty databases", Unit::KiB, Growth::Amount, space),
    ]
}

fn main() {
    let smoke = env::var_os("LITEFLEET_BENCH_SMOKE").is_some();
    let databases: usize = env::var("LITEFLEET_BENCH_DATABASES")
        .ok()
        .map_or(if smoke { 1_000 } else { 100_000 }, |count| count.parse().unwrap());
    let steps = [databases / 100, databases / 10, databases];
    assert!(steps[0] >= 10, "LITEFLEET_BENCH_DATABASES is at least 1000");
    let dir = tempfile::tempdir_in(
        env::var("LITEFLEET_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").into()),
    )
    .unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();

    let mut rows: Vec<Row> = Vec::new();
    let mut created = 0;
    for step in steps {
        let create = |range: std::ops::Range<usize>| {
            for at in range {
                plane.create_database(CreateDatabaseInput::new(name(at), "default")).unwrap();
            }
        };
        let last = step / 10;
        create(created..step - last);
        let (took, ()) = timed(|| create(step - last..step));
        created = step;
        let measured = measure(&plane, step, last as f64 / took.as_secs_f64());
        for (at, (name, unit, growth, value)) in measured.into_iter().enumerate() {
            if at == rows.len() {
                rows.push(Row { name, unit, growth, values: Vec::new() });
            }
            rows[at].values.push(value);
        }
        eprintln!("{step} databases");
    }

    print!("| databases |");
    for step in steps {
        print!(" {step} |");
    }
    println!(" each tenfold | {}, extrapolated |\n|---|---:|---:|---:|---:|---:|", databases * 10);
    for row in rows {
        print!("| {} |", row.name);
        for value in &row.values {
            print!(" {} |", row.shown(*value));
        }
        println!(" {:.2} × | {} |", row.slope(), row.shown(row.extrapolated()));
    }
    let destroyed = median(101.min(databases), |round| plane.destroy_database(&name(round)).unwrap());
    println!("\nDestroying one of {databases} takes {destroyed:.0} µs.");
}
