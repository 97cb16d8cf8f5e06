//! A root that grows to 100,000 databases: the cost of create, list, connect and open.
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
    time::{Duration, Instant},
};

use litefleet::{ConnectOptions, ControlPlane, CreateDatabaseInput, ListDatabases, rusqlite::Connection};

fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = run();
    (start.elapsed(), result)
}

fn median(rounds: usize, mut run: impl FnMut(usize)) -> Duration {
    let mut times: Vec<_> = (0..rounds).map(|round| timed(|| run(round)).0).collect();
    times.sort();
    times[times.len() / 2]
}

/// A field of this process's status, such as `VmRSS` in kB.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let smoke = env::var_os("LITEFLEET_BENCH_SMOKE").is_some();
    let databases: usize = env::var("LITEFLEET_BENCH_DATABASES")
        .ok()
        .map_or(if smoke { 200 } else { 100_000 }, |count| count.parse().unwrap());
    let dir = tempfile::tempdir_in(
        env::var("LITEFLEET_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").into()),
    )
    .unwrap();
    let root = dir.path().join("root");
    let empty = dir.path().join("empty");
    drop(ControlPlane::open(&empty).unwrap());
    let plane = ControlPlane::open(&root).unwrap();
    plane.create_group("default").unwrap();
    let name = |at: usize| format!("db-{at:06}");

    let tenth = databases / 10;
    let mut tenths = Vec::new();
    for part in 0..10 {
        let (took, ()) = timed(|| {
            for at in part * tenth..(part + 1) * tenth {
                plane.create_database(CreateDatabaseInput::new(name(at), "default")).unwrap();
            }
        });
        tenths.push(took);
        eprintln!("{} databases", (part + 1) * tenth);
    }
    let rate = |time: Duration| tenth as f64 / time.as_secs_f64();
    println!("{databases} databases in one root\n\n| | |\n|---|---:|");
    println!("| creates a second, first tenth | {:.0} |", rate(tenths[0]));
    println!("| creates a second, last tenth | {:.0} |", rate(tenths[9]));
    println!("| last tenth / first tenth | {:.2} |", tenths[0].as_secs_f64() / tenths[9].as_secs_f64());

    let (list, listed) = timed(|| plane.list_databases(ListDatabases::default()).unwrap().len());
    assert_eq!(listed, tenth * 10);
    println!("| list them all | {list:.1?} |");
    let page = ListDatabases::default().group("default").after(name(databases / 2)).limit(100);
    println!(
        "| list a page of 100 from the middle | {:.1?} |",
        median(101, |_| drop(plane.list_databases(page.clone()).unwrap()))
    );

    let pick = |round: usize| name(round * 7919 % (tenth * 10));
    let paths: Vec<_> = (0..201).map(|round| plane.database_path(&pick(round)).unwrap()).collect();
    let query = |connection: Connection| {
        let count: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0);
    };
    for path in &paths {
        query(Connection::open(path).unwrap());
    }
    let options = ConnectOptions::default();
    let plain = median(201, |round| query(Connection::open(&paths[round]).unwrap()));
    let ours = median(201, |round| query(plane.connect(&pick(round), options.clone()).unwrap()));
    println!("| open and first query, plain SQLite | {plain:.1?} |");
    println!("| connect and first query | {ours:.1?} |");
    println!("| connect / plain | {:.2} |", ours.as_secs_f64() / plain.as_secs_f64());

    let open_empty = median(21, |_| drop(ControlPlane::open(&empty).unwrap()));
    let open_full = median(21, |_| drop(ControlPlane::open(&root).unwrap()));
    println!("| open an empty root | {open_empty:.1?} |");
    println!("| open this root | {open_full:.1?} |");
    println!("| this root / empty root | {:.2} |", open_full.as_secs_f64() / open_empty.as_secs_f64());
    println!("| resident memory of this process | {} kB |", status("VmRSS"));
    println!("| file descriptors open | {} |", fs::read_dir("/proc/self/fd").unwrap().count() - 1);
    println!("| `control.db` | {} kB |", fs::metadata(root.join("control.db")).unwrap().len() / 1024);
    let destroyed = median(101, |round| plane.destroy_database(&name(round)).unwrap());
    println!("| destroy one | {destroyed:.1?} |");
}
