//! The power fails at any moment of a database with a history: it is what some commit left, each instant is answered right
//! or refused, and all goes on.
//!
//! What must hold, whatever was lost:
//!
//! - **An answer** is what the database was at that instant; where the newest commits were lost, it is the last one that is
//!   there, the same for all instants behind it. Anything else is an error that names a file or a span of time.
//! - **What was in the archive when all was flushed last** is answered, until it is pruned: each instant between two commits
//!   that both stand there. So is, where nothing was lost, all that is in the archive.
//! - **An instant in a window** that `points` tells is not refused for want of time: what is wrong is a file.
//! - **A stranger**, who writes to a plain database without this crate's VFS, makes a gap. An instant after its commit and
//!   before the next one is refused and in no window, unless that commit was lost. The last stamp before it, and what is
//!   behind the gap, are answered.
//! - **`synchronous=NORMAL` and `FULL`**: the database is sound, and at some commit: in `FULL` the last one or a later one than
//!   had returned. More is committed to it, and each later commit is answered.
//! - **`synchronous=OFF`**: SQLite promises nothing of the database. Its file may be torn, or of another time than its log. So
//!   the first three hold, with the commit up to which the history goes in the place of the database's own; and only
//!   where the database is sound and `verify` finds nothing, later commits are answered too. The first commit of all is
//!   flushed here: that nobody has written to a database is told by a note that it removes, and by the time of change of
//!   the file, and in this mode neither need be on the disk before what is written.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, ControlPlaneBuilder, CreateDatabaseInput, EncryptionKey,
    RemoteEncryption, Synchronous, Timestamp, no_progress,
    rusqlite::{Connection, config::DbConfig},
};

use crate::{
    disk,
    image::{self, Image, Moment, copy_dir},
    machine::Machine,
    random::Random,
    support::contents,
};

/// The part of this test that runs in a process of its own: there the VFS beneath is in its place from the beginning.
const ROLE: &str = "LITEFLEET_POWER_CHILD";

/// How long it runs, unless the environment says more.
const SECONDS: u64 = 7;

/// What was answered, over all images.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    pub(crate) right: u64,
    pub(crate) refused: u64,
    /// Images that lost a commit that had returned, not counting those without any flush.
    pub(crate) lost: u64,
    /// Answers of which it was certain that they must be given.
    pub(crate) kept: u64,
    /// Images with right answers before a stranger's commit and behind it.
    pub(crate) spanned: u64,
    /// Of those without any flush: databases that SQLite cannot use any more, and those in which all was well.
    pub(crate) unsound: u64,
    pub(crate) went_on: u64,
    /// Generations that were pruned before the power failed, and logs that were compressed.
    pruned: u64,
    compressed: u64,
}

/// What is the same in all images of one database.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) synchronous: Synchronous,
    cipher: Option<Cipher>,
    /// Whether its logs outgrow it, and are pruned.
    pub(crate) is_maintained: bool,
    /// Whether strangers write to it.
    is_shared: bool,
    /// How much of the past is kept then, and how far the clock is put forward each time, in hours.
    window: &'static str,
    step: i64,
    /// What the clock is ahead, in microseconds.
    ahead: Arc<AtomicI64>,
}

/// A database that is written to, on a machine.
struct Bench {
    plane: ControlPlane,
    machine: Arc<Machine>,
    terms: Terms,
    pruned: u64,
    compressed: u64,
    random: Random,
    connections: [Option<Connection>; 2],
    /// A connection of another program's.
    stranger: Option<Connection>,
    /// Whether the second connection is in the middle of reading.
    reads: bool,
    moments: Vec<Moment>,
}

/// In microseconds.
const HOUR: i64 = 3_600_000_000;

impl Terms {
    fn any(random: &mut Random) -> Self {
        // What is kept for longer is compressed before it is pruned.
        let (window, step) = random.one_of(&[("10m", 1), ("120h", 26)]);
        let synchronous = random.one_of(&[Synchronous::Normal, Synchronous::Full, Synchronous::Off]);
        let cipher = random.one_of(&[None, None, None, Some(Cipher::Aegis256)]);
        Self {
            window,
            step,
            synchronous,
            cipher,
            is_maintained: random.below(2) == 0,
            is_shared: cipher.is_none() && random.below(2) == 0,
            ahead: Arc::default(),
        }
    }

    pub(crate) fn key(&self) -> Option<EncryptionKey> {
        self.cipher.map(|cipher| EncryptionKey::from_bytes(&vec![7; cipher.key_len()]).unwrap())
    }

    pub(crate) fn options(&self, synchronous: Synchronous) -> ConnectOptions {
        // Whoever is in the way is on this very thread.
        let options = ConnectOptions::default().synchronous(synchronous).busy_timeout(Duration::ZERO);
        match self.key() {
            Some(key) => options.encryption_key(key),
            None => options,
        }
    }

    fn read_clock(&self) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().as_micros() + self.ahead.load(SeqCst)).unwrap()
    }

    /// The instants are told apart by more than the clock's step.
    pub(crate) fn now(&self) -> Timestamp {
        let step = || thread::sleep(Duration::from_micros(20));
        step();
        let now = self.read_clock();
        step();
        now
    }

    pub(crate) fn builder(&self) -> ControlPlaneBuilder {
        let terms = self.clone();
        ControlPlane::builder().clock(Arc::new(move || terms.read_clock()))
    }
}

pub(crate) fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

impl Bench {
    fn connect(&mut self, which: usize) -> &Connection {
        self.connections[which].get_or_insert_with(|| {
            let connection =
                self.plane.connect("orders", &self.terms.options(self.terms.synchronous)).unwrap();
            connection.execute_batch("PRAGMA wal_autocheckpoint=25; PRAGMA cache_size=20").unwrap();
            connection
        })
    }

    fn commit(&mut self) {
        let which = usize::from(self.connections[1].is_some() && self.random.below(2) == 0);
        let number = self.moments.len();
        let (len, times) = (self.random.one_of(&[10, 100, 3000, 9000]), self.random.one_of(&[1, 1, 1, 2, 8]));
        let also = self.random.one_of(&[
            "",
            "",
            "UPDATE t SET value = value || 'u' WHERE id % 3 = 0;",
            "DELETE FROM t WHERE id % 4 = 1 AND id < (SELECT max(id) FROM t);",
            "CREATE TABLE IF NOT EXISTS u(a); INSERT INTO u SELECT length(value) FROM t;",
        ]);
        // The log of a few of these is longer than the database.
        let big = "CREATE TABLE IF NOT EXISTS big(a); INSERT OR REPLACE INTO big(rowid, a) VALUES (1, hex(randomblob(200000)));";
        let also = if self.terms.is_maintained && self.random.below(3) > 0 { big } else { also };
        let insert = format!("INSERT INTO t(value) VALUES ('{number} ' || hex(randomblob({len})));");
        let sql = format!("BEGIN IMMEDIATE; {}{also} COMMIT", insert.repeat(times));
        if which == 1 {
            self.end_reading();
        }
        self.commit_sql(which, &sql);
    }

    fn commit_sql(&mut self, which: usize, sql: &str) {
        let number = self.moments.len();
        self.connect(which);
        self.moments.last_mut().unwrap().to = self.terms.now();
        self.connect(which).execute_batch(sql).unwrap();
        self.machine.acknowledge(number);
        let from = self.terms.now();
        let contents = contents(self.connect(which));
        let generation = image::live(&self.dir());
        self.moments.push(Moment { from, to: from, contents, generation });
    }

    fn dir(&self) -> PathBuf {
        self.plane.root().join("default/orders")
    }

    /// What another program does.
    fn intrude(&mut self) {
        // What it writes in the same tick of the file system's clock as somebody else is not noticed.
        thread::sleep(Duration::from_millis(12));
        match self.random.below(8) {
            0 => self.leave(),
            1 => {
                let mode = self.random.one_of(&["PASSIVE", "RESTART", "TRUNCATE"]);
                checkpoint(self.stranger(), mode);
            }
            _ => self.commit_as_a_stranger(),
        }
    }

    fn leave(&mut self) {
        let checkpoints = self.random.below(3) > 0;
        if let Some(stranger) = self.stranger.take() {
            stranger.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !checkpoints).unwrap();
        }
    }

    fn stranger(&mut self) -> &Connection {
        let path = self.dir().join("data.db");
        let synchronous = self.terms.synchronous;
        self.stranger.get_or_insert_with(|| {
            let stranger = Connection::open(path).unwrap();
            stranger.busy_timeout(Duration::ZERO).unwrap();
            let sql = format!("PRAGMA synchronous={synchronous:?}; PRAGMA wal_autocheckpoint=25");
            stranger.execute_batch(&sql).unwrap();
            stranger
        })
    }

    fn commit_as_a_stranger(&mut self) {
        let number = self.moments.len();
        // Of what lies between two commits, the second of which is a stranger's, only the first one's instant is known.
        let stamp = self.plane.points("orders", ..).unwrap().points.last().map(|point| point.at);
        if let [.., before, last] = &mut self.moments[..] {
            let stamp = stamp.filter(|stamp| *stamp > before.to && last.generation.is_some());
            last.to = stamp.unwrap_or(last.from);
        }
        let len = self.random.one_of(&[10, 3000, 90_000]);
        let sql = format!("INSERT INTO t(value) VALUES ('{number} strange ' || hex(randomblob({len})))");
        self.stranger().execute_batch(&sql).unwrap();
        self.machine.acknowledge(number);
        let from = self.terms.now();
        let contents = contents(self.stranger());
        self.moments.push(Moment { from, to: from, contents, generation: None });
    }

    fn end_reading(&mut self) {
        if std::mem::take(&mut self.reads) {
            self.connect(1).execute_batch("COMMIT").unwrap();
        }
    }

    fn maintain(&mut self) {
        let done = self.plane.maintain_database("orders", &mut no_progress).unwrap();
        self.pruned += done.generations;
        self.compressed += done.compressed;
    }

    /// What a host does.
    fn act(&mut self) {
        match self.random.below(24) {
            20 if self.random.below(2) == 0 => self.machine.flush_all(image::archived(&self.dir())),
            21..24 if self.terms.is_shared => self.intrude(),
            0..3 => {
                let mode = self.random.one_of(&["PASSIVE", "FULL", "RESTART", "RESTART", "TRUNCATE"]);
                checkpoint(self.connect(0), mode);
            }
            3 => self.connections[0] = None,
            4 => {
                self.connect(1);
            }
            5 => {
                self.reads = false;
                self.connections[1] = None;
            }
            6 if !self.reads => {
                self.connect(1).execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
                self.reads = true;
            }
            7 => self.end_reading(),
            8 => {
                self.connect(0)
                    .execute_batch("BEGIN; UPDATE t SET value = value || hex(randomblob(2000)); ROLLBACK")
                    .unwrap();
            }
            9 => self.maintain(),
            10..12 if self.terms.is_maintained => {
                self.maintain();
                self.terms.ahead.fetch_add(self.terms.step * HOUR, SeqCst);
            }
            _ => self.commit(),
        }
    }
}

/// Writes to a database, takes images meanwhile, and checks each.
fn survive(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let terms = Terms::any(&mut random);
    let synchronous = terms.synchronous;
    let temporary = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(temporary.path()).unwrap();
    let root = dir.join("root");
    let plane = terms.builder().open(&root).unwrap();
    plane.create_group("default").unwrap();
    if terms.is_maintained {
        plane.set_group_history_window("default", terms.window.parse().unwrap()).unwrap();
    }
    let mut input = CreateDatabaseInput::new("orders", "default");
    if let (Some(key), Some(cipher)) = (terms.key(), terms.cipher) {
        input = input.with_encryption(RemoteEncryption::new(key, cipher).unwrap());
    }
    plane.create_database(input).unwrap();
    drop(plane);
    let image = Image { root: dir.join("image"), template: dir.join("template") };
    copy_dir(&root, &image.template);
    let dir_of_it = root.join("default/orders");
    let is_durable = synchronous == Synchronous::Full;
    let every = if terms.is_maintained { 900 } else { 120 };
    let machine = Arc::new(Machine::new(&dir_of_it, is_durable, every, random.below(1 << 40)));
    let _watch = disk::watch(Arc::clone(&machine) as _);
    let told = Arc::clone(&machine);
    let hook = move |step, path: &Path| {
        told.step(step, path);
        Ok(())
    };
    let plane = terms.builder().fault_hook(Arc::new(hook)).open(&root).unwrap();
    let first = plane.connect("orders", &terms.options(synchronous)).unwrap();
    let (now, contents) = (terms.now(), contents(&first));
    drop(first);
    let mut bench = Bench {
        plane,
        machine,
        terms,
        pruned: 0,
        compressed: 0,
        random,
        connections: [None, None],
        stranger: None,
        reads: false,
        moments: vec![Moment { from: now, to: now, contents, generation: Some(0) }],
    };
    bench.commit_sql(0, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    if synchronous == Synchronous::Off {
        bench.machine.flush_all(BTreeSet::new());
    }
    let mut shots = Vec::new();
    let acts = if bench.terms.is_maintained { 40 } else { 10 };
    for _ in 0..acts + bench.random.below(40) {
        bench.act();
    }
    bench.connections = [None, None];
    bench.leave();
    tally.pruned += bench.pruned;
    tally.compressed += bench.compressed;
    shots.extend(bench.machine.take());
    for (number, shot) in shots.iter().enumerate() {
        let check = || image.check(&bench.terms, shot, &bench.moments, &mut Random::new(seed), tally);
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
            eprintln!(
                "LITEFLEET_SEED={seed}, {synchronous:?}, {:?}, shared {}, image {number} after commit {}: {}",
                bench.terms.cipher, bench.terms.is_shared, shot.acknowledged, shot.how
            );
            if env::var_os("LITEFLEET_KEEP").is_some() {
                eprintln!("kept in {}", temporary.keep().display());
            }
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_power_loss_makes_no_answer_wrong_and_stops_nobody() {
    if env::var_os(ROLE).is_none() {
        let name = "power::a_power_loss_makes_no_answer_wrong_and_stops_nobody";
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return;
    }
    disk::slide_beneath();
    let soak = env::var("LITEFLEET_SOAK").ok().map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let first = env::var("LITEFLEET_SEED").ok().map_or(300, |seed| seed.parse().unwrap());
    let mut tally = Tally::default();
    let begin = Instant::now();
    for seed in first.. {
        survive(seed, &mut tally);
        let Tally { lost, pruned, compressed, kept, spanned, unsound, went_on, .. } = tally;
        let is_each_there = ![lost, pruned, compressed, kept, spanned, unsound, went_on].contains(&0);
        let is_over = |times| begin.elapsed() > Duration::from_secs(times * soak);
        // On a slow machine a few of them may have nothing in them.
        if is_over(1) && (is_each_there || is_over(10)) {
            break;
        }
    }
    eprintln!("{tally:?}");
    let Tally { right, refused, lost, pruned, compressed, kept, spanned, unsound, went_on, .. } = tally;
    // Otherwise nothing was put to the test.
    assert!(lost > 0 && refused > 0 && right > refused, "{lost}, {refused}, {right}");
    assert!(pruned > 0 && compressed > 0, "{pruned}, {compressed}");
    assert!(kept > 0 && spanned > 0 && unsound > 0 && went_on > 0, "{kept}, {spanned}, {unsound}, {went_on}");
}
