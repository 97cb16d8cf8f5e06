//! Forks and imports of a large database compared with `cp` and fsync of the same bytes: medians of interleaved
//! rounds.
//!
//! `LITEFLEET_BENCH_MB` sets the size (default 1024), `LITEFLEET_BENCH_DIR` the directory (default: cargo's target
//! directory), `LITEFLEET_BENCH_SMOKE` reduces the bench to one small round.

#![expect(clippy::unwrap_used, reason = "a failed bench panics")]

use std::{
    env,
    fs::{self, File},
    ops::ControlFlow,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, Phase, Upload,
    rusqlite::{self, Connection},
};

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn fill(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)")?;
    connection.execute(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO t SELECT i, randomblob(3000) FROM n",
        [i64::try_from(bytes / 4096).unwrap()],
    )?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// The baseline: a copy by hand.
fn cp(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["--reflink=never"]).args([from, to]).status().unwrap().success());
    File::open(to).unwrap().sync_all().unwrap();
}

/// Flushes everything, so that no run pays for the previous one.
fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let smoke = env::var_os("LITEFLEET_BENCH_SMOKE").is_some();
    let megabytes =
        env::var("LITEFLEET_BENCH_MB").ok().map_or(if smoke { 4 } else { 1024 }, |mb| mb.parse().unwrap());
    let rounds = if smoke { 1 } else { 5 };
    let dir = tempfile::tempdir_in(
        env::var("LITEFLEET_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").into()),
    )
    .unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("source", "default")).unwrap();
    // Stays open, as a database in use does.
    let source = plane.connect("source", ConnectOptions::default()).unwrap();
    fill(&source, megabytes << 20).unwrap();
    let data = plane.database_path("source").unwrap();
    let file = dir.path().join("file.db");
    cp(&data, &file);
    let bytes = fs::metadata(&data).unwrap().len();

    let [mut copies, mut forks, mut imports, mut streams, mut checks] = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        let copy = dir.path().join("copy");
        settle();
        copies.push(timed(|| cp(&data, &copy)));
        fs::remove_file(&copy).unwrap();
        settle();
        forks.push(timed(|| _ = plane.create_database(CreateDatabaseInput::fork("fork", "source")).unwrap()));
        plane.destroy_database("fork").unwrap();
        for (times, stream) in [(&mut imports, false), (&mut streams, true)] {
            settle();
            let mut began = None;
            let mut checked = Duration::ZERO;
            let watch = |progress: litefleet::Progress| {
                match progress.phase {
                    Phase::Check => _ = began.get_or_insert_with(Instant::now),
                    Phase::Sync => checked = began.map_or(Duration::ZERO, |began| began.elapsed()),
                    _ => {}
                }
                ControlFlow::Continue(())
            };
            let input = CreateDatabaseInput::new("import", "default");
            let took = timed(|| {
                let made = if stream {
                    let mut reader = File::open(&file).unwrap();
                    plane.import_database(input.progress(watch), Upload::Reader(&mut reader))
                } else {
                    plane.import_database(input.progress(watch), file.as_path())
                };
                made.unwrap();
            });
            times.push(took.saturating_sub(checked));
            checks.push(checked);
            plane.destroy_database("import").unwrap();
        }
    }
    let cp = median(copies);
    println!("{} MB, median of {rounds} interleaved rounds\n", bytes >> 20);
    println!("| call | time | ratio to cp and a flush |\n|---|---:|---:|");
    for (name, times) in [
        ("`cp --reflink=never` and a flush", vec![cp]),
        ("fork", forks),
        ("import from a path, without the integrity check", imports),
        ("import from a stream, without the integrity check", streams),
        ("the integrity check of an import", checks),
    ] {
        let time = median(times);
        println!("| {name} | {:.3} s | {:.2} |", time.as_secs_f64(), time.as_secs_f64() / cp.as_secs_f64());
    }
}
