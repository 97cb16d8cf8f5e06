//! Single calls compared with their lower bounds: create with the flushes that it needs, connect with SQLite opening
//! the file.

#![expect(clippy::unwrap_used, reason = "a failed bench panics")]

use std::{
    fs::{self, File},
    hint::black_box,
    io::Write,
};

use criterion::{Criterion, criterion_group, criterion_main};
use litefleet::{ConnectOptions, ControlPlane, CreateDatabaseInput, rusqlite::Connection};

/// The flushes of one create: the database file, its directory, the staging directory, and the catalog's WAL.
const FLUSHES: usize = 4;

fn first_query(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

fn create(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    let mut group = criterion.benchmark_group("create");
    let mut at = 0;
    group.bench_function("an empty database", |bencher| {
        bencher.iter(|| {
            at += 1;
            plane.create_database(CreateDatabaseInput::new(format!("db-{at}"), "default")).unwrap()
        });
    });
    let flushed = dir.path().join("flushed");
    fs::create_dir(&flushed).unwrap();
    group.bench_function("its flushes alone", |bencher| {
        bencher.iter(|| {
            at += 1;
            for part in 0..FLUSHES {
                let mut file = File::create(flushed.join(format!("{at}-{part}"))).unwrap();
                file.write_all(&[0; 4096]).unwrap();
                file.sync_all().unwrap();
            }
        });
    });
    plane.create_database(CreateDatabaseInput::new("source", "default")).unwrap();
    group.bench_function("a fork of an empty database", |bencher| {
        bencher.iter(|| {
            at += 1;
            plane.create_database(CreateDatabaseInput::fork(format!("db-{at}"), "source")).unwrap()
        });
    });
    group.finish();
}

fn connect(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
    let options = ConnectOptions::default();
    plane
        .connect("orders", options.clone())
        .unwrap()
        .execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
        .unwrap();
    let path = plane.database_path("orders").unwrap();
    let mut group = criterion.benchmark_group("open and first query");
    group.bench_function("plain SQLite", |bencher| {
        bencher.iter(|| black_box(first_query(&Connection::open(&path).unwrap())));
    });
    group.bench_function("the plane's connect", |bencher| {
        bencher.iter(|| black_box(first_query(&plane.connect("orders", options.clone()).unwrap())));
    });
    group.finish();

    let mut group = criterion.benchmark_group("one row in a transaction of its own");
    let plain = Connection::open(&path).unwrap();
    let ours = plane.connect("orders", options.clone()).unwrap();
    plain.execute_batch("PRAGMA synchronous=NORMAL").unwrap();
    for (name, connection) in [("plain SQLite", &plain), ("the plane's connection", &ours)] {
        group.bench_function(format!("read, {name}"), |bencher| {
            let mut select = connection.prepare("SELECT a FROM t WHERE rowid = 1").unwrap();
            bencher.iter(|| black_box(select.query_row([], |row| row.get::<_, i64>(0)).unwrap()));
        });
        group.bench_function(format!("update, {name}"), |bencher| {
            let mut update = connection.prepare("UPDATE t SET a = a + 1 WHERE rowid = 1").unwrap();
            bencher.iter(|| black_box(update.execute([]).unwrap()));
        });
    }
    group.finish();
}

criterion_group!(calls, create, connect);
criterion_main!(calls);
