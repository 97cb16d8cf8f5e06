//! Power failures at random moments: the database is in the state of some commit, each instant is restored exactly or
//! refused, and writes continue.
//!
//! Guarantees that are checked, whatever was lost:
//!
//! - **A restore** returns the contents at the instant. If the newest commits were lost, all instants after the last
//!   surviving commit resolve to that commit. Otherwise it fails with an error that names a file or a span of time.
//! - **Generations that were archived and flushed** are restorable until they are pruned: every instant between two
//!   commits in them. If nothing was lost, this holds for the whole archive.
//! - **An instant in a range that `points` reports** never fails as outside the window, only because of a damaged
//!   file.
//! - **A foreign commit** to a plain database, made without this crate's VFS, causes a gap. Instants between it and
//!   the next commit are refused and outside every range, unless the commit was lost. The last stamp before the gap
//!   and instants after it are restorable.
//! - **`synchronous=NORMAL` and `FULL`**: the database passes its integrity check and is in the state of a commit, in
//!   `FULL` at least that of the last commit that returned. It accepts commits, and each is restorable.
//! - **`synchronous=OFF`**: SQLite guarantees nothing. The database file may be torn or older than the WAL. The first
//!   three guarantees hold with the last commit of the history in place of that of the database. New commits must be
//!   restorable only if the integrity check passes and `verify` finds nothing. The test flushes the first commit: a
//!   pristine database is recognised by a mark that this commit removes and by the file's modification time, and in
//!   this mode neither is ordered before the data.

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
    GroupChanges, MaintainOptions, RemoteEncryption, Synchronous, Timestamp,
    rusqlite::{Connection, config::DbConfig},
};

use crate::{
    crash_image::{self, ImageRoot, KnownState, copy_dir},
    fault_vfs,
    random::Random,
    simulated_disk::SimulatedDisk,
    support::contents,
};

/// Set in the child process, in which the fault-injecting VFS is installed before SQLite opens a file.
const ROLE: &str = "LITEFLEET_POWER_CHILD";

/// Duration of the test in seconds, unless `LITEFLEET_SOAK` overrides it.
const SECONDS: u64 = 7;

/// Counts over all images.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    pub(crate) right: u64,
    pub(crate) refused: u64,
    /// Instants that a limit on the history had removed.
    pub(crate) limited: u64,
    /// Images that lost a commit that had returned, except in `synchronous=OFF`.
    pub(crate) lost: u64,
    /// Restores that were guaranteed to succeed.
    pub(crate) kept: u64,
    /// Images with correct restores before and after a foreign commit.
    pub(crate) spanned: u64,
    /// In `synchronous=OFF`: databases that fail the integrity check, and those that pass it and `verify`.
    pub(crate) unsound: u64,
    pub(crate) continued: u64,
    /// Snapshots that refer to older ones.
    pub(crate) deltas: u64,
    /// Generations pruned and logs compressed before the failure.
    pruned: u64,
    compressed: u64,
}

/// The parameters of one run.
#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) synchronous: Synchronous,
    cipher: Option<Cipher>,
    /// Whether the run is long enough for snapshots and pruning.
    pub(crate) is_maintained: bool,
    /// Whether a foreign process writes to the database.
    pub(crate) is_shared: bool,
    /// The retention window, and the hours by which the clock advances at each maintenance.
    window: &'static str,
    /// The limit on the size of the history.
    limit: &'static str,
    step: i64,
    /// Offset of the clock in microseconds.
    ahead: Arc<AtomicI64>,
}

/// A database under load, on a simulated disk.
struct Workload {
    plane: ControlPlane,
    simulated_disk: Arc<SimulatedDisk>,
    scenario: Scenario,
    pruned: u64,
    compressed: u64,
    random: Random,
    connections: [Option<Connection>; 2],
    /// A connection outside the fleet's VFS.
    foreign: Option<Connection>,
    /// Whether the second connection has an open read transaction.
    reads: bool,
    states: Vec<KnownState>,
}

/// One hour in microseconds.
const HOUR: i64 = 3_600_000_000;

impl Scenario {
    fn any(random: &mut Random) -> Self {
        // A long window lets logs be compressed before they are pruned.
        let (window, step) = random.one_of(&[("10m", 1), ("120h", 26)]);
        let synchronous = random.one_of(&[Synchronous::Normal, Synchronous::Full, Synchronous::Off]);
        let cipher = random.one_of(&[None, None, None, Some(Cipher::Aegis256)]);
        Self {
            window,
            limit: "none",
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
        // Conflicting locks belong to this thread, so waiting is futile.
        let options = ConnectOptions::default().synchronous(synchronous).busy_timeout(Duration::ZERO);
        match self.key() {
            Some(key) => options.encryption_key(key),
            None => options,
        }
    }

    fn read_clock(&self) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().as_micros() + self.ahead.load(SeqCst)).unwrap()
    }

    /// The current time, at least 20 µs from any commit before or after the call, so that instants and
    /// stamps differ.
    pub(crate) fn now(&self) -> Timestamp {
        let step = || thread::sleep(Duration::from_micros(20));
        step();
        let now = self.read_clock();
        step();
        now
    }

    pub(crate) fn builder(&self) -> ControlPlaneBuilder {
        let scenario = self.clone();
        ControlPlane::builder().clock(Arc::new(move || scenario.read_clock()))
    }
}

pub(crate) fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

impl Workload {
    fn connect(&mut self, which: usize) -> &Connection {
        self.connections[which].get_or_insert_with(|| {
            let connection =
                self.plane.connect("orders", self.scenario.options(self.scenario.synchronous)).unwrap();
            connection.execute_batch("PRAGMA wal_autocheckpoint=25; PRAGMA cache_size=20").unwrap();
            connection
        })
    }

    fn commit(&mut self) {
        let which = usize::from(self.connections[1].is_some() && self.random.below(2) == 0);
        let number = self.states.len();
        let (len, times) = (self.random.one_of(&[10, 100, 3000, 9000]), self.random.one_of(&[1, 1, 1, 2, 8]));
        let also = self.random.one_of(&[
            "",
            "",
            "UPDATE t SET value = value || 'u' WHERE id % 3 = 0;",
            "DELETE FROM t WHERE id % 4 = 1 AND id < (SELECT max(id) FROM t);",
            "CREATE TABLE IF NOT EXISTS u(a); INSERT INTO u SELECT length(value) FROM t;",
        ]);
        // A few of these outgrow the database, which makes a snapshot due.
        let big = "CREATE TABLE IF NOT EXISTS big(a); INSERT OR REPLACE INTO big(rowid, a) VALUES (1, hex(randomblob(200000)));";
        let also = if self.scenario.is_maintained && self.random.below(3) > 0 { big } else { also };
        let insert = format!("INSERT INTO t(value) VALUES ('{number} ' || hex(randomblob({len})));");
        let sql = format!("BEGIN IMMEDIATE; {}{also} COMMIT", insert.repeat(times));
        if which == 1 {
            self.end_reading();
        }
        self.commit_sql(which, &sql);
    }

    fn commit_sql(&mut self, which: usize, sql: &str) {
        let number = self.states.len();
        self.connect(which);
        self.states.last_mut().unwrap().to = self.scenario.now();
        self.connect(which).execute_batch(sql).unwrap();
        self.simulated_disk.acknowledge(number);
        let from = self.scenario.now();
        let contents = contents(self.connect(which));
        let generation = crash_image::live(&self.dir());
        self.states.push(KnownState { from, to: from, contents, generation });
    }

    fn dir(&self) -> PathBuf {
        self.plane.root().join("default/orders")
    }

    /// A random action of the foreign process.
    fn act_as_foreign_process(&mut self) {
        // A foreign write within one tick of the file system's clock is not detected.
        thread::sleep(Duration::from_millis(12));
        match self.random.below(8) {
            0 => self.close_foreign(),
            1 => {
                let mode = self.random.one_of(&["PASSIVE", "RESTART", "TRUNCATE"]);
                checkpoint(self.foreign(), mode);
            }
            _ => self.commit_as_foreign_process(),
        }
    }

    fn close_foreign(&mut self) {
        let checkpoints = self.random.below(3) > 0;
        if let Some(foreign) = self.foreign.take() {
            foreign.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !checkpoints).unwrap();
        }
    }

    fn foreign(&mut self) -> &Connection {
        let path = self.dir().join("data.db");
        let synchronous = self.scenario.synchronous;
        self.foreign.get_or_insert_with(|| {
            let foreign = Connection::open(path).unwrap();
            foreign.busy_timeout(Duration::ZERO).unwrap();
            let sql = format!("PRAGMA synchronous={synchronous:?}; PRAGMA wal_autocheckpoint=25");
            foreign.execute_batch(&sql).unwrap();
            foreign
        })
    }

    fn commit_as_foreign_process(&mut self) {
        let number = self.states.len();
        // Before a foreign commit, only the stamp itself is certain to resolve to the last commit.
        let stamp = self.plane.points("orders", ..).unwrap().points.last().map(|point| point.at);
        if let [.., before, last] = &mut self.states[..] {
            let stamp = stamp.filter(|stamp| *stamp > before.to && last.generation.is_some());
            last.to = stamp.unwrap_or(last.from);
        }
        let len = self.random.one_of(&[10, 3000, 90_000]);
        let sql = format!("INSERT INTO t(value) VALUES ('{number} foreign ' || hex(randomblob({len})))");
        self.foreign().execute_batch(&sql).unwrap();
        self.simulated_disk.acknowledge(number);
        let from = self.scenario.now();
        let contents = contents(self.foreign());
        self.states.push(KnownState { from, to: from, contents, generation: None });
    }

    fn end_reading(&mut self) {
        if std::mem::take(&mut self.reads) {
            self.connect(1).execute_batch("COMMIT").unwrap();
        }
    }

    fn maintain(&mut self) {
        let done = self.plane.maintain_database("orders", MaintainOptions::default()).unwrap();
        self.pruned += done.generations;
        self.compressed += done.compressed;
    }

    /// A random action of the host.
    fn act(&mut self) {
        match self.random.below(24) {
            20 if self.random.below(2) == 0 => {
                let archived = crash_image::archived(&self.dir(), self.scenario.is_shared);
                self.simulated_disk.flush_all(archived);
            }
            21..24 if self.scenario.is_shared => self.act_as_foreign_process(),
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
            10..12 if self.scenario.is_maintained => {
                self.maintain();
                self.scenario.ahead.fetch_add(self.scenario.step * HOUR, SeqCst);
            }
            _ => self.commit(),
        }
    }
}

/// One run: writes to a database, takes images meanwhile, and checks each.
fn run_seed(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let mut scenario = Scenario::any(&mut random);
    // A separate sequence, so that runs without a limit do not depend on it.
    scenario.limit = Random::new(!seed).one_of(&["none", "none", "300kb", "1500kb"]);
    let synchronous = scenario.synchronous;
    let temporary = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(temporary.path()).unwrap();
    let root = dir.join("root");
    let plane = scenario.builder().open(&root).unwrap();
    plane.create_group("default").unwrap();
    if scenario.is_maintained {
        plane
            .configure_group(
                "default",
                GroupChanges::default()
                    .history_window(scenario.window.parse().unwrap())
                    .history_limit(scenario.limit.parse().unwrap()),
            )
            .unwrap();
    }
    let mut input = CreateDatabaseInput::new("orders", "default");
    if let (Some(key), Some(cipher)) = (scenario.key(), scenario.cipher) {
        input = input.with_encryption(RemoteEncryption::new(key, cipher).unwrap());
    }
    plane.create_database(input).unwrap();
    drop(plane);
    let image_root = ImageRoot { root: dir.join("image"), template: dir.join("template") };
    copy_dir(&root, &image_root.template);
    let database_dir = root.join("default/orders");
    let is_durable = synchronous == Synchronous::Full;
    let every = if scenario.is_maintained { 900 } else { 120 };
    let simulated_disk =
        Arc::new(SimulatedDisk::new(&database_dir, is_durable, every, random.below(1 << 40)));
    let _watch = fault_vfs::watch(Arc::clone(&simulated_disk) as _);
    let recorder = Arc::clone(&simulated_disk);
    let hook = move |step, path: &Path| {
        recorder.step(step, path);
        Ok(())
    };
    let plane = scenario.builder().fault_hook(Arc::new(hook)).open(&root).unwrap();
    let first = plane.connect("orders", scenario.options(synchronous)).unwrap();
    let (now, contents) = (scenario.now(), contents(&first));
    drop(first);
    let mut workload = Workload {
        plane,
        simulated_disk,
        scenario,
        pruned: 0,
        compressed: 0,
        random,
        connections: [None, None],
        foreign: None,
        reads: false,
        states: vec![KnownState { from: now, to: now, contents, generation: Some(0) }],
    };
    workload.commit_sql(0, "CREATE TABLE t(id INTEGER PRIMARY KEY, value)");
    if synchronous == Synchronous::Off {
        workload.simulated_disk.flush_all(BTreeSet::new());
    }
    let mut images = Vec::new();
    let acts = if workload.scenario.is_maintained { 40 } else { 10 };
    for _ in 0..acts + workload.random.below(40) {
        workload.act();
    }
    workload.connections = [None, None];
    workload.close_foreign();
    tally.pruned += workload.pruned;
    tally.compressed += workload.compressed;
    images.extend(workload.simulated_disk.finish());
    for (number, image) in images.iter().enumerate() {
        let check =
            || image_root.check(&workload.scenario, image, &workload.states, &mut Random::new(seed), tally);
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
            eprintln!(
                "LITEFLEET_SEED={seed}, {synchronous:?}, {:?}, shared {}, image {number} after commit {}: {}",
                workload.scenario.cipher, workload.scenario.is_shared, image.acknowledged, image.how
            );
            if env::var_os("LITEFLEET_KEEP").is_some() {
                eprintln!("kept in {}", temporary.keep().display());
            }
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn power_loss_makes_no_restore_wrong_and_writes_continue() {
    if env::var_os(ROLE).is_none() {
        let name = "power::power_loss_makes_no_restore_wrong_and_writes_continue";
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, "1");
        assert!(child.status().unwrap().success());
        return;
    }
    fault_vfs::install();
    let soak = env::var("LITEFLEET_SOAK").ok().map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let first = env::var("LITEFLEET_SEED").ok().map_or(300, |seed| seed.parse().unwrap());
    let mut tally = Tally::default();
    let begin = Instant::now();
    for seed in first.. {
        run_seed(seed, &mut tally);
        let Tally { lost, limited, pruned, compressed, kept, spanned, unsound, continued, .. } = tally;
        let is_each_there =
            ![lost, limited, pruned, compressed, kept, spanned, unsound, continued].contains(&0);
        let is_over = |times| begin.elapsed() > Duration::from_secs(times * soak);
        // On a slow computer some of the counts may stay zero.
        if is_over(1) && (is_each_there || is_over(10)) {
            break;
        }
    }
    eprintln!("{tally:?}");
    let Tally { right, refused, lost, pruned, compressed, kept, spanned, unsound, continued, .. } = tally;
    // Otherwise the run has not tested what it claims to. On a slow computer it has few seeds, whose crashes may come early.
    assert!(lost > 0 && refused > 0 && 2 * right > refused, "{lost}, {refused}, {right}");
    assert!(pruned > 0 && compressed > 0, "{pruned}, {compressed}");
    assert!(
        kept > 0 && spanned > 0 && unsound > 0 && continued > 0,
        "{kept}, {spanned}, {unsound}, {continued}"
    );
}
