//! The power fails at any moment of a database with a history: it is what some commit left, each instant is answered right
//! or refused, and all goes on.

use std::{
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
    Cipher, ConnectOptions, ControlPlane, ControlPlaneBuilder, CreateDatabaseInput, EncryptionKey, Error,
    ErrorKind, RemoteEncryption, Result, Seed, Synchronous, Timestamp, VerifyOptions, explain,
    rusqlite::Connection, unwatched,
};

use crate::{
    disk,
    machine::{Machine, Shot},
    random::Random,
    support::{Contents, State, contains, contents, difference, files, read_contents},
};

/// The part of this test that runs in a process of its own: there the VFS beneath is in its place from the beginning.
const ROLE: &str = "LITEFLEET_POWER_CHILD";

/// How long it runs, unless the environment says more.
const SECONDS: u64 = 7;

/// What was answered, over all images.
#[derive(Default)]
struct Tally {
    images: u64,
    right: u64,
    refused: u64,
    /// Images that lost a commit that had returned.
    lost: u64,
    /// Generations that were pruned before the power failed, and logs that were compressed.
    pruned: u64,
    compressed: u64,
}

/// What is the same in all images of one database.
#[derive(Clone)]
struct Terms {
    synchronous: Synchronous,
    cipher: Option<Cipher>,
    /// Whether its logs outgrow it, and are pruned.
    is_maintained: bool,
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
    /// Whether the second connection is in the middle of reading.
    reads: bool,
    states: Vec<State>,
}

/// A root to which images of a database are put.
struct Image {
    root: PathBuf,
    template: PathBuf,
}

/// In microseconds.
const HOUR: i64 = 3_600_000_000;

impl Terms {
    fn any(random: &mut Random) -> Self {
        // What is kept for longer is compressed before it is pruned.
        let (window, step) = random.one_of(&[("10m", 1), ("120h", 26)]);
        Self {
            window,
            step,
            synchronous: random.one_of(&[Synchronous::Normal, Synchronous::Full]),
            cipher: random.one_of(&[None, None, Some(Cipher::Aegis256)]),
            is_maintained: random.below(2) == 0,
            ahead: Arc::default(),
        }
    }

    fn key(&self) -> Option<EncryptionKey> {
        self.cipher.map(|cipher| EncryptionKey::from_bytes(&vec![7; cipher.key_len()]).unwrap())
    }

    fn options(&self, synchronous: Synchronous) -> ConnectOptions {
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
    fn now(&self) -> Timestamp {
        let step = || thread::sleep(Duration::from_micros(20));
        step();
        let now = self.read_clock();
        step();
        now
    }

    fn builder(&self) -> ControlPlaneBuilder {
        let terms = self.clone();
        ControlPlane::builder().clock(Arc::new(move || terms.read_clock()))
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn checkpoint(connection: &Connection, mode: &str) {
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
        let number = self.states.len();
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
        self.connect(which);
        self.states.last_mut().unwrap().to = self.terms.now();
        self.connect(which).execute_batch(&sql).unwrap();
        self.machine.acknowledge(number);
        let from = self.terms.now();
        let contents = contents(self.connect(which));
        self.states.push(State { from, to: from, contents });
    }

    fn end_reading(&mut self) {
        if std::mem::take(&mut self.reads) {
            self.connect(1).execute_batch("COMMIT").unwrap();
        }
    }

    fn maintain(&mut self) {
        let done = self.plane.maintain_database("orders", &mut unwatched).unwrap();
        self.pruned += done.generations;
        self.compressed += done.compressed;
    }

    /// What a host does.
    fn act(&mut self) {
        match self.random.below(20) {
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

impl Image {
    /// Puts an image into a root of its own, and says what each instant is there.
    fn check(&self, terms: &Terms, shot: &Shot, states: &[State], random: &mut Random, tally: &mut Tally) {
        if self.root.exists() {
            fs::remove_dir_all(&self.root).unwrap();
        }
        copy_dir(&self.template, &self.root);
        shot.place(&self.root.join("default/orders"));
        check_compressed(&self.root.join("default/orders/archive"));
        let plane = terms.builder().open(&self.root).unwrap();
        let instants: Vec<(usize, Timestamp)> = (0..)
            .zip(&states[..=shot.acknowledged])
            .flat_map(|(number, state)| [(number, state.from), (number, state.to)])
            .collect();
        // Before anybody has written to it, and so without any repair.
        let before: Vec<_> =
            instants.iter().step_by(3).map(|(number, at)| (*number, *at, view(terms, &plane, *at))).collect();
        let connection = plane.connect("orders", &terms.options(Synchronous::Off)).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        let found = contents(&connection);
        let last =
            states.iter().position(|state| state.contents == found).expect("it is what no commit left");
        assert!(last >= shot.least, "it is after commit {last}, and {} was flushed", shot.least);
        tally.lost += u64::from(last < shot.acknowledged);
        let mut look = |number: usize, at: Timestamp, answer: Result<Contents>, when: &str| {
            // What was lost was not made, as far as the database is concerned.
            let wanted = &states[number.min(last)].contents;
            match answer {
                Ok(found) => {
                    tally.right += 1;
                    assert!(
                        found == *wanted,
                        "{when}: state {number} of {last} at {at}: {}",
                        difference(&found, wanted)
                    );
                }
                Err(error) => {
                    tally.refused += 1;
                    assert!(is_a_refusal(&error), "{when}: state {number} at {at}: {error}");
                }
            }
        };
        for (number, at, answer) in before {
            look(number, at, answer, "as it was found");
        }
        let mut later = vec![];
        for _ in 0..2 {
            let sql = "BEGIN; CREATE TABLE IF NOT EXISTS later(a); INSERT INTO later VALUES (1); COMMIT";
            connection.execute_batch(sql).unwrap();
            later.push((terms.now(), contents(&connection)));
            if random.below(2) == 0 {
                checkpoint(&connection, random.one_of(&["PASSIVE", "RESTART", "TRUNCATE"]));
            }
        }
        if random.below(2) == 0 {
            drop(connection);
        }
        for (at, wanted) in &later {
            let found =
                view(terms, &plane, *at).unwrap_or_else(|error| panic!("a later commit at {at}: {error}"));
            assert!(found == *wanted, "a later commit at {at}: {}", difference(&found, wanted));
        }
        let windows = plane.points("orders", ..).unwrap().windows;
        // There are many of them, and they are large.
        let every = if terms.is_maintained { 3 } else { 1 };
        let first = usize::try_from(random.below(every)).unwrap();
        for (number, at) in instants.iter().skip(first).step_by(usize::try_from(every).unwrap()) {
            let answer = view(terms, &plane, *at);
            if let Err(error) = &answer {
                let is_promised = contains(&windows, *at) && error.kind() == ErrorKind::OutsideWindow;
                assert!(!is_promised, "state {number} at {at} is in a window: {error}, {windows:?}");
            }
            look(*number, *at, answer, "later");
        }
        let (number, at) = instants[usize::try_from(random.below(instants.len() as u64)).unwrap()];
        look(number, at, restore(terms, &plane, at), "restored");
        plane.verify_database("orders", &VerifyOptions::default(), &mut unwatched).unwrap();
        if let Err(error) = plane.maintain_database("orders", &mut unwatched) {
            assert!(is_a_refusal(&error), "{error}");
        }
        tally.images += 1;
    }
}

/// A log goes when it is compressed, and what is compressed is on the disk by then.
fn check_compressed(archive: &Path) {
    let names = if archive.exists() { files(archive) } else { Vec::new() };
    for name in names.iter().filter(|name| name.ends_with(".wal.zst")) {
        let is_whole = || zstd::decode_all(&fs::read(archive.join(name)).unwrap()[..]).is_ok();
        assert!(names.iter().any(|log| format!("{log}.zst") == *name) || is_whole(), "{name}");
    }
}

/// Whether it says what is missing: a file, or a span of time.
fn is_a_refusal(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Corrupt => {
            [".stamps", ".wal", ".db", ".sum"].iter().any(|file| error.to_string().contains(file))
        }
        kind => kind == ErrorKind::OutsideWindow,
    }
}

fn view(terms: &Terms, plane: &ControlPlane, at: Timestamp) -> Result<Contents> {
    let (view, _) = plane.connect_at("orders", at, &terms.options(Synchronous::Off))?;
    read_contents(&view).map_err(|error| explain(&view, error))
}

fn restore(terms: &Terms, plane: &ControlPlane, at: Timestamp) -> Result<Contents> {
    let mut input =
        CreateDatabaseInput::new("restored", "default").with_seed(Seed::database_at("orders", at));
    if let Some(key) = terms.key() {
        input = input.with_encryption(RemoteEncryption::of_source(key));
    }
    plane.create_database(input)?;
    let connection = plane.connect("restored", &terms.options(Synchronous::Off))?;
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    Ok(contents(&connection))
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
    let plane = terms.builder().on_step(Arc::new(hook)).open(&root).unwrap();
    let first = plane.connect("orders", &terms.options(synchronous)).unwrap();
    let states = vec![State { from: terms.now(), to: terms.now(), contents: contents(&first) }];
    drop(first);
    let connections = [None, None];
    let mut bench =
        Bench { plane, machine, terms, pruned: 0, compressed: 0, random, connections, reads: false, states };
    bench.states[0].to = bench.terms.now();
    bench.connect(0).execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, value)").unwrap();
    bench.machine.acknowledge(1);
    let from = bench.terms.now();
    let contents = contents(bench.connect(0));
    bench.states.push(State { from, to: from, contents });
    let mut shots = Vec::new();
    let acts = if bench.terms.is_maintained { 40 } else { 10 };
    for _ in 0..acts + bench.random.below(40) {
        bench.act();
    }
    bench.connections = [None, None];
    tally.pruned += bench.pruned;
    tally.compressed += bench.compressed;
    shots.extend(bench.machine.take());
    for (number, shot) in shots.iter().enumerate() {
        let check = || image.check(&bench.terms, shot, &bench.states, &mut Random::new(seed), tally);
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
            eprintln!(
                "LITEFLEET_SEED={seed}, {synchronous:?}, {:?}, image {number} after commit {}: {}",
                bench.terms.cipher, shot.acknowledged, shot.how
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
    let first = env::var("LITEFLEET_SEED").ok().map_or(160, |seed| seed.parse().unwrap());
    let mut tally = Tally::default();
    let begin = Instant::now();
    for seed in first.. {
        survive(seed, &mut tally);
        let is_over = |times| begin.elapsed() > Duration::from_secs(times * soak);
        // On a slow machine a few of them may have nothing in them.
        if is_over(1) && (tally.lost > 0 && tally.pruned > 0 && tally.compressed > 0 || is_over(10)) {
            break;
        }
    }
    let Tally { images, right, refused, lost, pruned, compressed } = tally;
    eprintln!(
        "{images} images, of which {lost} lost commits; {right} answers, {refused} refusals; {pruned} pruned, {compressed} \
         compressed"
    );
    // Otherwise nothing was put to the test.
    assert!(lost > 0 && refused > 0 && right > refused, "{lost}, {refused}, {right}");
    assert!(pruned > 0 && compressed > 0, "{pruned}, {compressed}");
}
