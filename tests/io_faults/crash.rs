//! The power fails at any moment: the database is then what some transaction left, and none that was acknowledged as
//! flushed is missing.

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
    disk,
    model::{Model, Random, SCHEMA, number, transaction},
    power::{Files, Machine, Shot, place},
    vault::{Fleet, among_others, ask, run},
};

/// A database, and how it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) cipher: Cipher,
    pub(crate) format: PageFormat,
    pub(crate) synchronous: &'static str,
    /// The journal mode of a copy that is attached by its path; nothing for a database of the fleet, which is in WAL mode.
    pub(crate) copy: Option<&'static str>,
}

impl Case {
    pub(crate) fn schema(&self) -> &'static str {
        if self.copy.is_some() { "copy" } else { "main" }
    }

    fn is_in_wal_mode(&self) -> bool {
        self.copy.is_none_or(|mode| mode == "wal")
    }

    /// In WAL mode NORMAL does not flush at each commit.
    fn is_durable(&self) -> bool {
        self.synchronous != "NORMAL"
    }
}

/// The place of a database whose files are put there.
pub(crate) struct Store {
    pub(crate) case: Case,
    fleet: Rc<Fleet>,
    /// Its name, which is that of the directory for a copy too.
    name: &'static str,
    /// The files of a database without a row.
    pub(crate) empty: Files,
}

impl Store {
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

    /// Another place where the same files may be put.
    pub(crate) fn another(&self) -> Self {
        self.fleet.fork("another");
        Self { fleet: Rc::clone(&self.fleet), name: "another", empty: self.empty.clone(), ..*self }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        match self.case.copy {
            Some(_) => self.fleet.dir.path().join(self.name),
            None => self.fleet.place_of(self.name),
        }
    }

    pub(crate) fn open(&self, synchronous: &str) -> Result<Connection, String> {
        // Whoever is in the way is on this very thread.
        let mut options = self.fleet.options().busy_timeout(Duration::ZERO);
        if self.case.copy.is_some() {
            options = options.unfenced();
        }
        let opened = self.fleet.plane.connect(self.name, &options);
        let connection = opened.map_err(|error| format!("opening: {error}"))?;
        let schema = self.case.schema();
        let prepare = || -> rusqlite::Result<()> {
            if let Some(mode) = self.case.copy {
                let path = self.dir().join("copy.db");
                connection.execute("ATTACH ?1 AS copy", [path.to_str().unwrap()])?;
                assert_eq!(ask::<String>(&connection, &format!("PRAGMA copy.journal_mode={mode}"))?, mode);
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

/// Puts an image into place and checks that the database can be used; answers with the transaction that it is after.
fn check(store: &Store, shot: &Shot, model: &mut Model) -> Result<u64, String> {
    place(&store.dir(), &shot.files);
    let schema = store.case.schema();
    let connection = store.open("OFF")?;
    let n = model.check(&connection, schema)?;
    if !(shot.least..=shot.most).contains(&n) {
        return Err(format!("it is after {n}, not within {} and {}", shot.least, shot.most));
    }
    // It goes on as if nothing had been.
    run(&connection, &transaction(n + 1, schema)).map_err(|error| format!("going on after {n}: {error}"))?;
    let on = model.check(&connection, schema)?;
    drop(connection);
    let again = store.open("OFF")?;
    let reached = model.check(&again, schema)?;
    if (on, reached) == (n + 1, n + 1) { Ok(n) } else { Err(format!("{reached} and {on} after {n}")) }
}

/// What a host does between transactions.
fn keep_house(store: &Store, connection: Connection, random: &mut Random) -> Connection {
    let schema = store.case.schema();
    let sql = match random.below(14) {
        0 => format!("PRAGMA {schema}.wal_checkpoint(PASSIVE)"),
        1 => format!("PRAGMA {schema}.wal_checkpoint(RESTART)"),
        2 => format!("PRAGMA {schema}.wal_checkpoint(TRUNCATE)"),
        3 => format!("VACUUM {schema}"),
        4 => format!("PRAGMA {schema}.incremental_vacuum"),
        5 => "BEGIN; UPDATE t SET word = word || 'undone', bytes = bytes || word; ROLLBACK".into(),
        6 => {
            drop(connection);
            return store.open(store.case.synchronous).unwrap();
        }
        _ => return connection,
    };
    run(&connection, &sql).unwrap();
    connection
}

/// Readers begin and end: a checkpoint goes no further than the oldest, which finds what was there when it began.
fn read(store: &Store, reader: &mut Option<(Connection, u64)>, model: &mut Model, random: &mut Random) {
    let schema = store.case.schema();
    match random.below(8) {
        0 => {
            if let Some((connection, n)) = reader.take() {
                assert_eq!(model.check(&connection, schema), Ok(n), "a reader; {:?}", store.case);
            }
        }
        1 if store.case.is_in_wal_mode() => {
            let connection = store.open(store.case.synchronous).unwrap();
            run(&connection, "BEGIN").unwrap();
            let n = number(&connection).unwrap();
            *reader = Some((connection, n));
        }
        _ => {}
    }
}

/// Runs transactions, lets the power fail at random moments, checks what is left, and goes on from there.
fn survive(case: Case, images: u64, seed: u64) {
    let _turn = among_others();
    let context = |what: &str| format!("{what}\n{case:?}, seed {seed}");
    let mut random = Random::new(seed);
    let store = Store::new(case);
    let other = store.another();
    let mut model = Model::new();
    let (mut files, mut n) = (store.empty.clone(), 0);
    // Images, and those which had lost a transaction that was begun, or acknowledged.
    let (mut checked, mut unfinished, mut lost) = (0, 0, 0);
    while checked < images {
        let machine = Arc::new(Machine::new(&store.dir(), &files, n, case.is_durable(), random.next()));
        let watch = disk::watch(Arc::clone(&machine) as _);
        let mut connection = store.open(case.synchronous).unwrap();
        let found = model.check(&connection, case.schema());
        assert_eq!(found, Ok(n), "{}", context("after a power loss"));
        let mut reader = None;
        let mut left = Vec::new();
        let mut look = |model: &mut Model, shots: Vec<Shot>| {
            for shot in shots {
                let n = check(&other, &shot, model)
                    .unwrap_or_else(|why| panic!("{}", context(&format!("{why}\n{}", shot.how))));
                checked += 1;
                unfinished += u64::from(n < shot.most);
                lost += u64::from(n < shot.acknowledged);
                left.push((shot.files, n));
            }
        };
        for _ in 0..=random.below(15) {
            n += 1;
            machine.begin(n);
            run(&connection, &transaction(n, case.schema())).unwrap();
            machine.acknowledge(n);
            // Where there is a journal, none may read who does not let others write.
            read(&store, &mut reader, &mut model, &mut random);
            connection = keep_house(&store, connection, &mut random);
            look(&mut model, machine.take());
        }
        drop((reader, connection));
        look(&mut model, machine.take());
        look(&mut model, vec![machine.shoot()]);
        drop(watch);
        (files, n) = left.swap_remove(random.index(left.len()));
    }
    // Otherwise nothing was put to the test.
    assert!(unfinished > images / 10, "{}", context("hardly a transaction was interrupted"));
    assert_eq!(lost > 0, !case.is_durable(), "{}", context(&format!("{lost} images lost a transaction")));
}

/// Images of each case by default; with `LITEFLEET_SOAK` seconds, as many as go into that time.
fn survive_often(case: Case, images: u64, seed: u64) {
    survive(case, images, seed);
    let Some(soak) = env::var("LITEFLEET_SOAK").ok().map(|seconds| seconds.parse().unwrap()) else { return };
    let begin = Instant::now();
    for seed in seed + 1000.. {
        if begin.elapsed() > Duration::from_secs(soak) {
            break;
        }
        survive(case, images, seed);
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_loss() {
    for (cipher, format) in [(Cipher::Aegis256, PageFormat::Native), (Cipher::Aes128Gcm, PageFormat::Turso)] {
        survive_often(Case { cipher, format, synchronous: "FULL", copy: None }, 150, 1);
    }
}

#[test]
fn without_flushes_a_power_loss_takes_the_last_transactions_and_nothing_else() {
    for (cipher, format) in
        [(Cipher::ChaCha20Poly1305, PageFormat::Native), (Cipher::Aegis128L, PageFormat::Turso)]
    {
        survive_often(Case { cipher, format, synchronous: "NORMAL", copy: None }, 150, 2);
    }
}

#[test]
fn a_copy_outside_of_the_fleet_survives_a_power_loss_in_every_journal_mode() {
    // Where a journal is deleted, EXTRA flushes the directory too: otherwise it may be there again.
    for (mode, synchronous) in
        [("delete", "EXTRA"), ("truncate", "FULL"), ("persist", "FULL"), ("wal", "FULL"), ("wal", "NORMAL")]
    {
        let (cipher, format) = (Cipher::Aegis256X2, PageFormat::Native);
        survive_often(Case { cipher, format, synchronous, copy: Some(mode) }, 80, 3);
    }
}
