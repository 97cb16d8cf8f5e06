//! The workloads, which are equal for all peers: each program of this directory contains this file.
//!
//! `PROGRAM WORKLOAD DIR VARIANT SCALE` runs one workload on the databases in DIR, and prints one line of JSON. A run begins with
//! `bulk`, which creates the database that other workloads use. Durations are in seconds.

mod data;
mod report;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use data::{Data, Scale};
use report::{Report, processor_time};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A parameter of a statement.
#[derive(Clone, Copy)]
pub enum Value {
    Integer(i64),
    Text(&'static str),
    Blob(&'static [u8]),
}

/// Fills in the parameters of a statement, given the number of the step and the index of the statement.
pub type Bind<'a> = &'a mut dyn FnMut(u32, usize, &mut Vec<Value>);

/// An open connection of a peer.
pub trait Connection: Sized {
    /// Runs statements and ignores their rows.
    fn batch(&mut self, sql: &str) -> Outcome<()>;

    /// Prepares the statements once and runs them in order, `steps` times. Returns a checksum of all rows.
    fn each(&mut self, statements: &[&str], steps: u32, bind: Bind<'_>) -> Outcome<u64>;

    /// Copies the database with SQLite's backup API. Returns `false` if the peer does not have it.
    fn back_up_to(&mut self, target: &mut Self) -> Outcome<bool>;
}

/// Adds a value to a checksum. The checksum of one integer is the integer.
pub fn add(sum: u64, value: u64) -> u64 {
    sum.wrapping_mul(31).wrapping_add(value)
}

/// The part of a text or blob that enters a checksum: little, so that the checksum costs no peer much.
pub fn digest(bytes: &[u8]) -> u64 {
    let ends = [bytes.first(), bytes.last()].map(|byte| u64::from(byte.copied().unwrap_or_default()));
    bytes.len() as u64 + 1_000 * ends[0] + 1_000_000 * ends[1]
}

/// A library and one configuration of it.
pub trait Peer: Sized {
    type Connection: Connection;

    /// What precedes the first connection of a process.
    fn start(dir: &Path, variant: &str) -> Outcome<Self>;

    /// Creates an empty WAL database with pages of 4 KiB.
    fn create(&self, name: &str) -> Outcome<()>;

    /// Opens a database as a program does, with `synchronous=NORMAL` and foreign keys on.
    fn open(&self, name: &str) -> Outcome<Self::Connection>;

    /// Opens a file that `VACUUM INTO` has written.
    fn open_file(&self, path: &Path) -> Outcome<Self::Connection>;

    /// The path of the file of a database.
    fn path(&self, name: &str) -> Outcome<PathBuf>;

    /// Creates an independent copy. Returns `false` if the peer has no other way than a backup or `VACUUM INTO`.
    fn fork(&self, _name: &str, _copy: &str) -> Outcome<bool> {
        Ok(false)
    }

    /// Creates a copy as of an instant, in nanoseconds since 1970. Returns `false` if the peer cannot.
    fn restore(&self, _name: &str, _copy: &str, _instant: i64) -> Outcome<bool> {
        Ok(false)
    }

    /// Maintains the history of a database and returns its size in bytes, if it has one.
    fn maintained_history(&self, _name: &str) -> Outcome<Option<u64>> {
        Ok(None)
    }
}

/// Instants to which a restore is tried.
const INSTANTS: u32 = 11;

/// Commits per second of the paced writer.
const PACE: u32 = 200;

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, s TEXT, b BLOB)";
const INSERT: &str = "INSERT INTO t(k, s, b) VALUES (?1, ?2, ?3)";
const SUM: &str = "SELECT count(*), sum(k), sum(length(s)), sum(length(b)) FROM t";
const LEDGER: &str = "CREATE TABLE page(id INTEGER PRIMARY KEY, v INTEGER, b BLOB);
    CREATE TABLE ledger(seq INTEGER PRIMARY KEY, v INTEGER)";
/// A commit of about four pages: three rows of 1 KB change, and one row is added.
const COMMIT: [&str; 6] = [
    "BEGIN",
    "UPDATE page SET v = ?1, b = ?2 WHERE id = ?3",
    "UPDATE page SET v = ?1, b = ?2 WHERE id = ?3",
    "UPDATE page SET v = ?1, b = ?2 WHERE id = ?3",
    "INSERT INTO ledger(seq, v) VALUES (?1, ?2)",
    "COMMIT",
];
const LEDGER_SUM: &str = "SELECT (SELECT sum(v) FROM page), count(*), max(seq), sum(v) FROM ledger";

/// Runs the workload that the command line names.
pub fn main<P: Peer>() -> ExitCode {
    let started = (Instant::now(), processor_time());
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [workload, dir, variant, scale] = arguments.as_slice() else {
        eprintln!("PROGRAM WORKLOAD DIR VARIANT SCALE");
        return ExitCode::from(2);
    };
    let run = || -> Outcome<Report> {
        let dir = Path::new(dir);
        let scale = Scale::named(scale).ok_or("the scale is full, small or smoke")?;
        let mut run = Run { peer: P::start(dir, variant)?, dir, scale, report: Report::default() };
        if workload == "open cold" {
            run.open_cold(started)?;
        } else {
            run.workload(workload)?;
        }
        Ok(run.report)
    };
    match run() {
        Ok(report) => {
            report.print();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct Run<'a, P> {
    peer: P,
    dir: &'a Path,
    scale: Scale,
    report: Report,
}

impl<P: Peer> Run<'_, P> {
    fn workload(&mut self, name: &str) -> Outcome<()> {
        match name {
            "bulk insert" => self.bulk(),
            "autocommit NORMAL" => self.autocommit("normal", "NORMAL", self.scale.commits),
            "autocommit FULL" => self.autocommit("full", "FULL", self.scale.full_commits),
            "point reads" => self.point(),
            "scan" => self.scan(),
            "open warm" => self.open_warm(),
            "VACUUM INTO" => self.vacuum_into(),
            "backup" => self.copy("backup", false),
            "fork" => self.copy("fork", true),
            "updates" => self.updates(),
            "checkpoint" => self.checkpoint(),
            "VACUUM" => self.vacuum(),
            "fill ledger" => self.fill_ledger(),
            "paced" => self.paced(),
            "restore" => self.restore(),
            "sustained NORMAL" => self.sustained("NORMAL", self.scale.sustained),
            "sustained FULL" => self.sustained("FULL", self.scale.sustained_full),
            "stored before" | "stored" => self.stored(),
            name => Err(format!("unknown workload: {name}").into()),
        }
    }

    fn connect(&self, name: &str, cache_pages: u32) -> Outcome<P::Connection> {
        let mut connection = self.peer.open(name)?;
        connection.batch(&format!("PRAGMA cache_size={cache_pages}"))?;
        Ok(connection)
    }

    /// Reports the checksum of the table.
    fn check(&mut self, connection: &mut P::Connection) -> Outcome<()> {
        let checksum = connection.each(&[SUM], 1, &mut |_, _, _| ())?;
        self.report.check(checksum);
        Ok(())
    }

    /// Reports the size of the database's file.
    fn size(&mut self, name: &str) -> Outcome<()> {
        self.report.put("bytes", fs::metadata(self.peer.path(name)?)?.len());
        Ok(())
    }

    fn bulk(&mut self) -> Outcome<()> {
        self.peer.create("main")?;
        let mut connection = self.connect("main", 2000)?;
        connection.batch(TABLE)?;
        let mut data = Data::new(1);
        let rows = self.scale.rows;
        self.report.measure(|| {
            for start in (0..rows).step_by(1000) {
                connection.batch("BEGIN")?;
                connection.each(&[INSERT], 1000.min(rows - start), &mut |_, _, values| data.row(values))?;
                connection.batch("COMMIT")?;
            }
            Ok(())
        })?;
        self.check(&mut connection)?;
        connection.batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        drop(connection);
        self.size("main")
    }

    fn autocommit(&mut self, name: &str, synchronous: &str, commits: u32) -> Outcome<()> {
        self.peer.create(name)?;
        let mut connection = self.connect(name, 2000)?;
        connection.batch(&format!("PRAGMA synchronous={synchronous}"))?;
        connection.batch(TABLE)?;
        let mut data = Data::new(2);
        self.report.measure(|| connection.each(&[INSERT], commits, &mut |_, _, values| data.row(values)))?;
        self.check(&mut connection)
    }

    fn point(&mut self) -> Outcome<()> {
        let mut connection = self.connect("main", 256)?;
        let (mut data, rows, reads) = (Data::new(3), self.scale.rows, self.scale.reads);
        let select = ["SELECT k, s, b FROM t WHERE id = ?1"];
        let checksum = self.report.measure(|| {
            connection.each(&select, reads, &mut |_, _, values| {
                values.push(Value::Integer(i64::from(data.below(rows)) + 1));
            })
        })?;
        self.report.check(checksum);
        Ok(())
    }

    fn scan(&mut self) -> Outcome<()> {
        let mut connection = self.connect("main", 256)?;
        let checksum = self.report.measure(|| connection.each(&[SUM], 1, &mut |_, _, _| ()))?;
        self.report.check(checksum);
        Ok(())
    }

    fn open_and_query(&self) -> Outcome<P::Connection> {
        let mut connection = self.peer.open("main")?;
        connection.each(&["SELECT k FROM t WHERE id = ?1"], 1, &mut |_, _, values| {
            values.push(Value::Integer(7));
        })?;
        Ok(connection)
    }

    /// The median of many connections of one process.
    fn open_warm(&mut self) -> Outcome<()> {
        let (mut times, mut processor) = (Vec::new(), Vec::new());
        for _ in 0..self.scale.opens {
            let (start, before) = (Instant::now(), processor_time());
            let connection = self.open_and_query()?;
            times.push(start.elapsed().as_secs_f64());
            drop(connection);
            processor.push(processor_time().saturating_sub(before).as_secs_f64());
        }
        self.report.put("wall", median(times));
        self.report.put("cpu", median(processor));
        Ok(())
    }

    /// The first connection of a process, from the start of `main`.
    fn open_cold(&mut self, (start, processor): (Instant, Duration)) -> Outcome<()> {
        self.open_and_query()?;
        self.report.put("wall", start.elapsed().as_secs_f64());
        self.report.put("cpu", processor_time().saturating_sub(processor).as_secs_f64());
        Ok(())
    }

    fn vacuum_into(&mut self) -> Outcome<()> {
        let mut connection = self.connect("main", 2000)?;
        let path = self.dir.join("into.db");
        self.report.measure(|| connection.batch(&format!("VACUUM INTO '{}'", path.display())))?;
        let mut copy = self.peer.open_file(&path)?;
        self.check(&mut copy)?;
        drop(copy);
        fs::remove_file(path)?;
        Ok(())
    }

    /// An independent copy: with the backup API, or as the peer forks.
    fn copy(&mut self, name: &str, by_fork: bool) -> Outcome<()> {
        let mut connection = self.connect("main", 2000)?;
        if !by_fork {
            self.peer.create(name)?;
        }
        let peer = &self.peer;
        let path = self.dir.join("copy.db");
        let copied = self.report.measure(|| {
            if by_fork && peer.fork("main", name)? {
                return Ok(Some(peer.open(name)?));
            }
            if by_fork {
                peer.create(name)?;
            }
            let mut target = peer.open(name)?;
            if connection.back_up_to(&mut target)? {
                return Ok(Some(target));
            }
            if !by_fork {
                return Ok(None);
            }
            connection.batch(&format!("VACUUM INTO '{}'", path.display()))?;
            Ok(Some(peer.open_file(&path)?))
        })?;
        match copied {
            Some(mut copy) => self.check(&mut copy),
            None => Err("no backup API".into()),
        }
    }

    fn updates(&mut self) -> Outcome<()> {
        let mut connection = self.connect("main", 2000)?;
        let (rows, updates, data) = (self.scale.rows, self.scale.updates, Data::new(4));
        self.report.measure(|| update(&mut connection, rows, updates, data))?;
        self.check(&mut connection)
    }

    /// Writes back a long log.
    fn checkpoint(&mut self) -> Outcome<()> {
        let mut connection = self.connect("main", 2000)?;
        connection.batch("PRAGMA wal_autocheckpoint=0")?;
        update(&mut connection, self.scale.rows, self.scale.updates / 2, Data::new(5))?;
        self.report.measure(|| connection.batch("PRAGMA wal_checkpoint(TRUNCATE)"))?;
        self.check(&mut connection)
    }

    /// Compacts a database of which a quarter is free.
    fn vacuum(&mut self) -> Outcome<()> {
        let mut connection = self.connect("main", 2000)?;
        connection.batch("DELETE FROM t WHERE id % 4 = 0")?;
        self.report.measure(|| connection.batch("VACUUM"))?;
        self.check(&mut connection)?;
        connection.batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        drop(connection);
        self.size("main")
    }

    fn fill_ledger(&mut self) -> Outcome<()> {
        self.peer.create("ledger")?;
        let mut connection = self.connect("ledger", 2000)?;
        connection.batch(LEDGER)?;
        let (mut data, rows) = (Data::new(6), self.scale.ledger_rows);
        connection.batch("BEGIN")?;
        connection.each(&["INSERT INTO page(v, b) VALUES (0, ?1)"], rows, &mut |_, _, values| {
            let blob = data.blob(900);
            values.push(blob);
        })?;
        connection.batch("COMMIT")?;
        connection.batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        let checksum = connection.each(&[LEDGER_SUM], 1, &mut |_, _, _| ())?;
        self.report.put("wall", 0);
        self.report.check(checksum);
        Ok(())
    }

    /// Commits to the ledger, which counts commits. `before_commit` runs before each and is not timed.
    fn commit(&mut self, synchronous: &str, commits: u32, mut before_commit: impl FnMut(u32)) -> Outcome<()> {
        let mut connection = self.connect("ledger", 2000)?;
        connection.batch(&format!("PRAGMA synchronous={synchronous}"))?;
        let earlier = connection.each(&["SELECT count(*) FROM ledger"], 1, &mut |_, _, _| ())?;
        let (mut data, rows) = (Data::new(7 + earlier), self.scale.ledger_rows);
        let (mut times, mut begun) = (Vec::new(), None::<Instant>);
        let before = processor_time();
        connection.each(&COMMIT, commits, &mut |step, statement, values| match statement {
            0 => {
                times.extend(begun.map(|begun| begun.elapsed().as_secs_f64()));
                before_commit(step);
                begun = Some(Instant::now());
            }
            1..=3 => {
                let (blob, id) = (data.blob(900), data.below(rows));
                values.extend([Value::Integer(i64::from(step)), blob, Value::Integer(i64::from(id) + 1)]);
            }
            4 => values.extend([
                Value::Integer(earlier.cast_signed() + i64::from(step) + 1),
                Value::Integer(i64::from(step)),
            ]),
            _ => (),
        })?;
        times.extend(begun.map(|begun| begun.elapsed().as_secs_f64()));
        self.report.put("cpu", processor_time().saturating_sub(before).as_secs_f64());
        self.report.put("wall", times.iter().sum::<f64>());
        self.report.put("commits", commits);
        self.report.distribution(times);
        let checksum = connection.each(&[LEDGER_SUM], 1, &mut |_, _, _| ())?;
        self.report.check(checksum);
        Ok(())
    }

    fn sustained(&mut self, synchronous: &str, commits: u32) -> Outcome<()> {
        self.commit(synchronous, commits, |_| ())
    }

    /// A writer at a fixed rate. Notes instants between commits, and the number of commits before each.
    fn paced(&mut self) -> Outcome<()> {
        let commits = self.scale.paced;
        let mut instants = String::new();
        let start = Instant::now();
        self.commit("NORMAL", commits, |step| {
            let due = start + Duration::from_secs(1) * step / PACE;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if step % (commits / INSTANTS) == commits / INSTANTS / 2 {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                instants += &format!("{} {step}\n", now.as_nanos());
                // An instant between two commits, not that of one.
                std::thread::sleep(Duration::from_millis(1));
            }
        })?;
        fs::write(self.dir.join("instants"), instants)?;
        Ok(())
    }

    /// Restores to each instant that `paced` has noted. Exact restores have the commits before it and no other.
    fn restore(&mut self) -> Outcome<()> {
        let instants = fs::read_to_string(self.dir.join("instants"))?;
        let (mut times, mut copies, mut exact) = (Vec::new(), Vec::new(), 0);
        for (number, line) in instants.lines().enumerate() {
            let (instant, commits) = line.split_once(' ').ok_or("a line of two numbers")?;
            let copy = format!("restored-{number}");
            let start = Instant::now();
            if !self.peer.restore("ledger", &copy, instant.parse()?)? {
                return Err("no restore to an instant".into());
            }
            times.push(start.elapsed().as_secs_f64());
            let mut connection = self.peer.open(&copy)?;
            let counted = connection.each(&["SELECT count(*) FROM ledger"], 1, &mut |_, _, _| ())?;
            exact += u32::from(counted == commits.parse::<u64>()?);
            drop(connection);
            copies.push(time_copy(&self.peer.path(&copy)?, &self.dir.join("cp"))?);
        }
        self.report.put("first", times[0]);
        self.report.put("wall", median(times.split_off(1)));
        self.report.put("cp", median(copies));
        self.report.put("exact", exact);
        self.report.put("instants", instants.lines().count());
        Ok(())
    }

    /// The bytes of the history.
    fn stored(&mut self) -> Outcome<()> {
        let bytes = self.peer.maintained_history("ledger")?.ok_or("no history")?;
        self.report.put("bytes", bytes);
        Ok(())
    }
}

/// Updates random rows, a hundred in a transaction.
fn update(connection: &mut impl Connection, rows: u32, updates: u32, mut data: Data) -> Outcome<()> {
    for _ in 0..updates / 100 {
        connection.batch("BEGIN")?;
        connection.each(&["UPDATE t SET k = k + 1 WHERE id = ?1"], 100, &mut |_, _, values| {
            values.push(Value::Integer(i64::from(data.below(rows)) + 1));
        })?;
        connection.batch("COMMIT")?;
    }
    Ok(())
}

/// The time to copy a file and to flush the copy.
fn time_copy(from: &Path, to: &Path) -> Outcome<f64> {
    let start = Instant::now();
    fs::copy(from, to)?;
    fs::File::open(to)?.sync_all()?;
    let time = start.elapsed().as_secs_f64();
    fs::remove_file(to)?;
    Ok(time)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
