//! Stamps are unique and ordered if the clock steps back, stops, or is far off.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, InstantPosition, Seed, Timestamp,
    rusqlite::Connection,
};

use crate::support::contains;

const HOUR: i64 = 3_600_000_000;

struct ClockedPlane {
    dir: tempfile::TempDir,
    plane: ControlPlane,
    now: Arc<AtomicI64>,
    restored: u32,
}

fn instant(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

impl ClockedPlane {
    /// A plane whose clock the test sets, with a database created at `at`.
    fn new(at: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(at));
        let read = Arc::clone(&now);
        let plane = ControlPlane::builder()
            .clock(Arc::new(move || instant(read.load(SeqCst))))
            .open(dir.path().join("root"))
            .unwrap();
        plane.create_group("default").unwrap();
        plane.create_database(CreateDatabaseInput::new("orders", "default")).unwrap();
        Self { dir, plane, now, restored: 0 }
    }

    fn connect(&self) -> Connection {
        self.plane.connect("orders", ConnectOptions::default()).unwrap()
    }

    fn stamps(&self) -> Vec<i64> {
        self.plane.points("orders", ..).unwrap().points.iter().map(|point| point.at.as_micros()).collect()
    }

    /// The number of rows and tables at an instant, and the position of the instant among the commits.
    fn rows_at(&mut self, at: i64) -> litefleet::Result<(usize, InstantPosition)> {
        self.restored += 1;
        let name = format!("restored-{}", self.restored);
        let input =
            CreateDatabaseInput::new(&name, "default").with_seed(Seed::database_at("orders", instant(at)));
        let reached = self.plane.create_database(input)?.reached.unwrap();
        let connection = self.plane.connect(&name, ConnectOptions::default()).unwrap();
        let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let tables = count("SELECT count(*) FROM sqlite_schema");
        let rows = if tables == 0 { 0 } else { count("SELECT count(*) FROM t") };
        Ok((usize::try_from(tables + rows).unwrap(), reached.kind))
    }

    /// Commits once per clock reading, ends the WAL in different ways in between, and checks stamps, ranges and
    /// restores.
    fn check(&mut self, readings: &[i64]) {
        let mut connection = self.connect();
        for (number, reading) in readings.iter().enumerate() {
            self.now.store(*reading, SeqCst);
            let sql = if number == 0 { "CREATE TABLE t(a)" } else { "INSERT INTO t VALUES (1)" };
            connection.execute_batch(sql).unwrap();
            match number % 5 {
                1 => connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap(),
                2 => connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap(),
                3 => {
                    drop(connection);
                    connection = self.connect();
                }
                _ => {}
            }
        }
        let born = self.plane.get_database("orders").unwrap().created_at.as_micros();
        let stamps = self.stamps();
        assert_eq!(stamps.len(), readings.len());
        let mut last = born;
        for (stamp, reading) in stamps.iter().zip(readings) {
            assert_eq!(*stamp, (last + 1).max(*reading), "stamps increase and follow the clock");
            last = *stamp;
        }
        let windows = self.plane.points("orders", ..).unwrap().windows;
        assert_eq!((windows.len(), windows[0].from.as_micros(), windows[0].to), (1, born, None));
        for (number, stamp) in stamps.iter().enumerate() {
            assert_eq!(self.rows_at(*stamp).unwrap(), (number + 1, InstantPosition::Exact));
            if *stamp > born && !stamps.contains(&(stamp - 1)) {
                let kind = if number == 0 { InstantPosition::BeforeFirst } else { InstantPosition::Between };
                assert_eq!(self.rows_at(stamp - 1).unwrap(), (number, kind));
            }
        }
        assert_eq!(self.rows_at(last + 1).unwrap(), (stamps.len(), InstantPosition::AfterLast));
        assert_eq!(self.rows_at(born - 1).unwrap_err().kind(), ErrorKind::OutsideWindow);
    }
}

#[test]
fn stamps_increase_while_clock_steps_back_and_forward() {
    let start = 1_764_000_000_000_000;
    let mut readings: Vec<i64> = (1..8).map(|step| start + step * 1000).collect();
    readings.extend((0..7).map(|step| start - 5 * HOUR + step));
    readings.extend((0..7).map(|step| start + 9 * HOUR + step * 1_000_000));
    readings.extend([start; 4]);
    ClockedPlane::new(start).check(&readings);
}

#[test]
fn stopped_clock_gives_each_commit_its_own_stamp() {
    let start = 1_764_000_000_000_000;
    ClockedPlane::new(start).check(&[start; 16]);
}

#[test]
fn clock_before_1970_or_after_2106_is_accepted() {
    let leap = "2106-02-07T06:28:16Z".parse::<Timestamp>().unwrap().as_micros();
    let long_ago = "1901-12-13T20:45:52Z".parse::<Timestamp>().unwrap().as_micros();
    for start in [-3, long_ago, leap - 4] {
        let readings: Vec<i64> = (0..12).map(|step| start + step).collect();
        ClockedPlane::new(start).check(&readings);
    }
    // From one extreme to the other.
    ClockedPlane::new(long_ago).check(&[long_ago, -1, 0, 1, leap - 1, leap, leap + HOUR, -1, 0]);
}

#[test]
fn gap_follows_earlier_stamps_if_clock_stops_or_steps_back() {
    let start = 1_764_000_000_000_000;
    for step in [0, -HOUR] {
        let mut clocked = ClockedPlane::new(start);
        clocked.connect().execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
        let before = clocked.stamps();
        let data = clocked.dir.path().join("root/default/orders/data.db");
        Connection::open(data).unwrap().execute_batch("INSERT INTO t VALUES (2)").unwrap();
        clocked.now.fetch_add(step, SeqCst);
        clocked.connect().execute_batch("INSERT INTO t VALUES (3)").unwrap();
        let stamps = clocked.stamps();
        assert_eq!(stamps[..2], before);
        assert!(stamps.is_sorted_by(|one, next| one < next));
        for (stamp, rows) in stamps.iter().zip([1, 2, 4]) {
            assert_eq!(clocked.rows_at(*stamp).unwrap(), (rows, InstantPosition::Exact), "{step}");
        }
    }
}

#[test]
fn lost_stamps_leave_a_gap_up_to_their_latest_possible_instant() {
    let start = 1_764_000_000_000_000;
    let mut clocked = ClockedPlane::new(start);
    let connection = clocked.connect();
    for (reading, sql) in [
        (start + 10, "CREATE TABLE t(a)"),
        (start + HOUR, "INSERT INTO t VALUES (1)"),
        (start + 1000, "PRAGMA wal_checkpoint(RESTART)"),
        (start + 1000, "INSERT INTO t VALUES (2)"),
    ] {
        clocked.now.store(reading, SeqCst);
        connection.execute_batch(sql).unwrap();
    }
    assert_eq!(clocked.stamps(), [start + 10, start + HOUR, start + HOUR + 1]);
    let stamps = clocked.dir.path().join("root/default/orders/archive/000000000001.stamps");
    let mut bytes = fs::read(&stamps).unwrap();
    bytes[128..].fill(0);
    fs::write(&stamps, bytes).unwrap();
    let windows = clocked.plane.points("orders", ..).unwrap().windows;
    for (at, rows) in [
        (start, Some(0)),
        (start + 10, None),
        (start + 999, None),
        // The next generation began here, but a lost stamp of this one may be later.
        (start + 1000, None),
        (start + HOUR - 1, None),
        (start + HOUR, Some(2)),
        (start + HOUR + 1, Some(3)),
    ] {
        let found = clocked.rows_at(at);
        assert_eq!(found.as_ref().ok().map(|(rows, _)| *rows), rows, "{at}: {found:?}");
        assert_eq!(contains(&windows, instant(at)), rows.is_some(), "{at}: {windows:?}");
    }
}
