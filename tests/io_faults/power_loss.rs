//! Power failures at random moments: the database is then in the state of some transaction, and no transaction that
//! was reported as durable is missing.

use std::{
    env,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, PageFormat,
    rusqlite::{self, Connection},
};

use crate::{
    fault_vfs,
    model::{Model, Random, SCHEMA, number, transaction},
    simulated_disk::{CrashImage, Files, SimulatedDisk, write_files},
    support::{Fleet, query, run, shared_turn},
};

/// The configuration of a test database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) cipher: Cipher,
    pub(crate) format: PageFormat,
    pub(crate) synchronous: &'static str,
    /// The journal mode of an external copy that is attached by path; `None` for a database of the fleet, which is in
    /// WAL mode.
    pub(crate) copy: Option<&'static str>,
}

impl Case {
    pub(crate) fn schema(&self) -> &'static str {
        if self.copy.is_some() { "copy" } else { "main" }
    }

    fn is_in_wal_mode(&self) -> bool {
        self.copy.is_none_or(|mode| mode == "wal")
    }

    /// Whether every acknowledged commit is durable. In WAL mode, NORMAL does not flush at each commit.
    fn is_durable(&self) -> bool {
        self.synchronous != "NORMAL"
    }
}

/// A database whose files the test replaces.
pub(crate) struct TestDatabase {
    pub(crate) case: Case,
    fleet: Rc<Fleet>,
    /// The name of the database, and of the directory of a copy.
    name: &'static str,
    /// The files of the database without rows.
    pub(crate) empty: Files,
}

impl TestDatabase {
    pub(crate) fn new(case: Case) -> Self {
        let fleet = Fleet::new(Some(case.cipher), case.format);
        let connection = fleet.connect();
        run(&connection, SCHEMA).unwrap();
        let (file, name) = if case.copy.is_some() {
            let copy = fleet.dir.path().join("copy.db");
            connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
            run(&connection, "DROP TABLE t; DROP TABLE state").unwrap();
            (copy, "copy.db")
        } else {
            (fleet.plane.database_path("vault").unwrap(), "data.db")
        };
        drop(connection);
        let empty = Files::from([(name.to_owned(), std::fs::read(file).unwrap())]);
        Self { case, fleet: Rc::new(fleet), name: "vault", empty }
    }

    /// A second database that accepts these files.
    pub(crate) fn sibling(&self) -> Self {
        self.fleet.fork("another");
        Self { fleet: Rc::clone(&self.fleet), name: "another", empty: self.empty.clone(), ..*self }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        match self.case.copy {
            Some(_) => self.fleet.dir.path().join(self.name),
            None => self.fleet.database_dir_of(self.name),
        }
    }

    pub(crate) fn open(&self, synchronous: &str) -> Result<Connection, String> {
        // Conflicting locks belong to this thread, so waiting is futile.
        let mut options = self.fleet.options().busy_timeout(Duration::ZERO);
        if self.case.copy.is_some() {
            options = options.unfenced();
        }
        let opened = self.fleet.plane.connect(self.name, options.clone());
        let connection = opened.map_err(|error| format!("opening: {error}"))?;
        let schema = self.case.schema();
        let prepare = || -> rusqlite::Result<()> {
            if let Some(mode) = self.case.copy {
                let path = self.dir().join("copy.db");
                connection.execute("ATTACH ?1 AS copy", [path.to_str().unwrap()])?;
                assert_eq!(query::<String>(&connection, &format!("PRAGMA copy.journal_mode={mode}"))?, mode);
            }
            run(
                &connection,
                &format!(
                    "PRAGMA {schema}.synchronous={synchronous}; PRAGMA {schema}.cache_size=8; PRAGMA cache_spill=4;
                     PRAGMA wal_autocheckpoint=80; PRAGMA busy_timeout=0"
                ),
            )
        };
        prepare().map_err(|error| format!("opening: {error}"))?;
        Ok(connection)
    }
}

/// Installs an image, checks that the database is usable, and returns the number of its last transaction.
fn check(database: &TestDatabase, image: &CrashImage, model: &mut Model) -> Result<u64, String> {
    write_files(&database.dir(), &image.files);
    let schema = database.case.schema();
    let connection = database.open("OFF")?;
    let n = model.check(&connection, schema)?;
    if !(image.earliest..=image.latest).contains(&n) {
        return Err(format!(
            "found the state after transaction {n}, expected {}..={}",
            image.earliest, image.latest
        ));
    }
    // The database accepts the next transaction.
    run(&connection, &transaction(n + 1, schema))
        .map_err(|error| format!("the transaction after {n}: {error}"))?;
    let on = model.check(&connection, schema)?;
    drop(connection);
    let again = database.open("OFF")?;
    let reached = model.check(&again, schema)?;
    if (on, reached) == (n + 1, n + 1) {
        Ok(n)
    } else {
        Err(format!("transaction {n} was followed by {on}, and by {reached} after a reopen"))
    }
}

/// A random maintenance operation between transactions.
fn maintain(database: &TestDatabase, connection: Connection, random: &mut Random) -> Connection {
    let schema = database.case.schema();
    let sql = match random.below(14) {
        0 => format!("PRAGMA {schema}.wal_checkpoint(PASSIVE)"),
        1 => format!("PRAGMA {schema}.wal_checkpoint(RESTART)"),
        2 => format!("PRAGMA {schema}.wal_checkpoint(TRUNCATE)"),
        3 => format!("VACUUM {schema}"),
        4 => format!("PRAGMA {schema}.incremental_vacuum"),
        5 => "BEGIN; UPDATE t SET word = word || 'undone', bytes = bytes || word; ROLLBACK".into(),
        6 => {
            drop(connection);
            return database.open(database.case.synchronous).unwrap();
        }
        _ => return connection,
    };
    run(&connection, &sql).unwrap();
    connection
}

/// Opens or closes a reader. A checkpoint proceeds no further than the oldest reader, which keeps its snapshot.
fn read(
    database: &TestDatabase,
    reader: &mut Option<(Connection, u64)>,
    model: &mut Model,
    random: &mut Random,
) {
    let schema = database.case.schema();
    match random.below(8) {
        0 => {
            if let Some((connection, n)) = reader.take() {
                assert_eq!(model.check(&connection, schema), Ok(n), "a reader; {:?}", database.case);
            }
        }
        1 if database.case.is_in_wal_mode() => {
            let connection = database.open(database.case.synchronous).unwrap();
            run(&connection, "BEGIN").unwrap();
            let n = number(&connection).unwrap();
            *reader = Some((connection, n));
        }
        _ => {}
    }
}

/// Runs transactions with simulated power failures, checks every image, and continues from one of them.
fn run_case(case: Case, images: u64, seed: u64) {
    let _turn = shared_turn();
    let context = |what: &str| format!("{what}\n{case:?}, seed {seed}");
    let mut random = Random::new(seed);
    let database = TestDatabase::new(case);
    let other = database.sibling();
    let mut model = Model::new();
    let (mut files, mut n) = (database.empty.clone(), 0);
    // Images checked; those that lack the last begun transaction; those that lack an acknowledged one.
    let (mut checked, mut unfinished, mut lost) = (0, 0, 0);
    while checked < images {
        let simulated_disk =
            Arc::new(SimulatedDisk::new(&database.dir(), &files, n, case.is_durable(), random.next()));
        let watch = fault_vfs::watch(Arc::clone(&simulated_disk) as _);
        let mut connection = database.open(case.synchronous).unwrap();
        let found = model.check(&connection, case.schema());
        assert_eq!(found, Ok(n), "{}", context("after a power failure"));
        let mut reader = None;
        let mut left = Vec::new();
        let mut check_images = |model: &mut Model, images: Vec<CrashImage>| {
            for image in images {
                let n = check(&other, &image, model)
                    .unwrap_or_else(|why| panic!("{}", context(&format!("{why}\n{}", image.how))));
                checked += 1;
                unfinished += u64::from(n < image.latest);
                lost += u64::from(n < image.acknowledged);
                left.push((image.files, n));
            }
        };
        for _ in 0..=random.below(15) {
            n += 1;
            simulated_disk.begin(n);
            run(&connection, &transaction(n, case.schema())).unwrap();
            simulated_disk.acknowledge(n);
            // With a rollback journal, a reader would block writers.
            read(&database, &mut reader, &mut model, &mut random);
            connection = maintain(&database, connection, &mut random);
            check_images(&mut model, simulated_disk.take_images());
        }
        drop((reader, connection));
        check_images(&mut model, simulated_disk.take_images());
        check_images(&mut model, vec![simulated_disk.take_image()]);
        drop(watch);
        (files, n) = left.swap_remove(random.index(left.len()));
    }
    // Otherwise the run has not tested what it claims to.
    assert!(unfinished > images / 10, "{}", context("too few transactions were interrupted"));
    assert_eq!(lost > 0, !case.is_durable(), "{}", context(&format!("{lost} images lost a transaction")));
}

/// Checks `images` images, and with `LITEFLEET_SOAK` set, further runs for that many seconds.
fn run_case_or_soak(case: Case, images: u64, seed: u64) {
    run_case(case, images, seed);
    let Some(soak) = env::var("LITEFLEET_SOAK").ok().map(|seconds| seconds.parse().unwrap()) else { return };
    let begin = Instant::now();
    for seed in seed + 1000.. {
        if begin.elapsed() > Duration::from_secs(soak) {
            break;
        }
        run_case(case, images, seed);
    }
}

#[test]
fn acknowledged_commits_survive_power_loss_with_synchronous_full() {
    for (cipher, format) in [(Cipher::Aegis256, PageFormat::Native), (Cipher::Aes128Gcm, PageFormat::Turso)] {
        run_case_or_soak(Case { cipher, format, synchronous: "FULL", copy: None }, 150, 1);
    }
}

#[test]
fn power_loss_with_synchronous_normal_loses_only_last_commits() {
    for (cipher, format) in
        [(Cipher::ChaCha20Poly1305, PageFormat::Native), (Cipher::Aegis128L, PageFormat::Turso)]
    {
        run_case_or_soak(Case { cipher, format, synchronous: "NORMAL", copy: None }, 150, 2);
    }
}

#[test]
fn external_copy_survives_power_loss_in_every_journal_mode() {
    // With a deleted journal only EXTRA flushes the directory; otherwise the journal may reappear.
    for (mode, synchronous) in
        [("delete", "EXTRA"), ("truncate", "FULL"), ("persist", "FULL"), ("wal", "FULL"), ("wal", "NORMAL")]
    {
        let (cipher, format) = (Cipher::Aegis256X2, PageFormat::Native);
        run_case_or_soak(Case { cipher, format, synchronous, copy: Some(mode) }, 80, 3);
    }
}
