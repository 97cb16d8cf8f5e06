//! The power fails at any moment: the database is then what some transaction left, and none that was acknowledged as
//! flushed is missing.

use std::{
    env,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, PageFormat,
    rusqlite::{self, Connection},
};

use crate::{
    disk,
    model::{Model, Random, SCHEMA, transaction},
    power::{Files, Machine, Shot, place},
    vault::{Fleet, among_others, run},
};

/// A database, and how it is used.
#[derive(Clone, Copy, Debug)]
struct Case {
    cipher: Cipher,
    format: PageFormat,
    synchronous: &'static str,
    /// The journal mode of a copy that is attached; nothing for a database of the fleet, which is in WAL mode.
    attached: Option<&'static str>,
}

impl Case {
    fn schema(&self) -> &'static str {
        if self.attached.is_some() { "copy" } else { "main" }
    }

    /// In WAL mode NORMAL does not flush at each commit.
    fn is_durable(&self) -> bool {
        self.synchronous != "NORMAL"
    }
}

/// The place of a database whose files are put there.
struct Store {
    case: Case,
    fleet: Fleet,
    /// The files of a database without a row.
    empty: Files,
}

impl Store {
    fn new(case: Case) -> Self {
        let fleet = Fleet::new(Some(case.cipher), case.format);
        let connection = fleet.connect();
        run(&connection, SCHEMA).unwrap();
        let (file, name) = if case.attached.is_some() {
            let copy = fleet.dir.path().join("copy.db");
            connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
            run(&connection, "DROP TABLE t; DROP TABLE state").unwrap();
            (copy, "copy.db")
        } else {
            (fleet.plane.database_path("vault").unwrap(), "data.db")
        };
        drop(connection);
        let empty = Files::from([(name.to_owned(), std::fs::read(file).unwrap())]);
        Self { case, fleet, empty }
    }

    fn dir(&self) -> PathBuf {
        match self.case.attached {
            Some(_) => self.fleet.dir.path().join("attached"),
            None => self.fleet.place(),
        }
    }

    fn open(&self, synchronous: &str) -> rusqlite::Result<Connection> {
        let connection = self.fleet.connect();
        let schema = self.case.schema();
        if let Some(mode) = self.case.attached {
            let path = self.dir().join("copy.db");
            connection.execute("ATTACH ?1 AS copy", [path.to_str().unwrap()])?;
            run(&connection, &format!("PRAGMA copy.journal_mode={mode}"))?;
        }
        run(
            &connection,
            &format!(
                "PRAGMA {schema}.synchronous={synchronous}; PRAGMA {schema}.cache_size=8; PRAGMA cache_spill=4;
                 PRAGMA wal_autocheckpoint=80"
            ),
        )?;
        Ok(connection)
    }
}

/// Puts an image into place and checks that the database can be used; answers with the transaction that it is after.
fn check(store: &Store, shot: &Shot, model: &mut Model) -> Result<u64, String> {
    place(&store.dir(), &shot.files);
    let schema = store.case.schema();
    let connection = store.open("OFF").map_err(|error| format!("opening: {error}"))?;
    let n = model.check(&connection, schema)?;
    if !(shot.least..=shot.most).contains(&n) {
        return Err(format!("it is after {n}, not within {} and {}", shot.least, shot.most));
    }
    // It goes on as if nothing had been.
    run(&connection, &transaction(n + 1, schema)).map_err(|error| format!("going on after {n}: {error}"))?;
    let on = model.check(&connection, schema)?;
    drop(connection);
    let again = store.open("OFF").map_err(|error| format!("opening again: {error}"))?;
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

/// Runs transactions, lets the power fail at random moments, checks what is left, and goes on from there.
fn survive(case: Case, images: usize, seed: u64) {
    let _turn = among_others();
    let context = |what: &str| format!("{what}\n{case:?}, seed {seed}");
    let mut random = Random::new(seed);
    let (store, other) = (Store::new(case), Store::new(case));
    let mut model = Model::new();
    let (mut files, mut n) = (store.empty.clone(), 0);
    let mut checked = 0;
    while checked < images {
        let machine = Arc::new(Machine::new(&store.dir(), &files, n, case.is_durable(), random.next()));
        let watch = disk::watch(Arc::clone(&machine) as _);
        let mut connection = store.open(case.synchronous).unwrap();
        let found = model.check(&connection, case.schema());
        assert_eq!(found, Ok(n), "{}", context("after a power loss"));
        let mut left = Vec::new();
        let mut look = |model: &mut Model, shots: Vec<Shot>| {
            for shot in shots {
                let n = check(&other, &shot, model)
                    .unwrap_or_else(|why| panic!("{}", context(&format!("{why}\n{}", shot.how))));
                checked += 1;
                left.push((shot.files, n));
            }
        };
        for _ in 0..=random.below(15) {
            n += 1;
            machine.begin(n);
            run(&connection, &transaction(n, case.schema())).unwrap();
            machine.acknowledge(n);
            connection = keep_house(&store, connection, &mut random);
            look(&mut model, machine.take());
        }
        drop(connection);
        look(&mut model, machine.take());
        look(&mut model, vec![machine.shoot()]);
        drop(watch);
        (files, n) = left.swap_remove(random.index(left.len()));
    }
}

/// Images of each case by default; with `LITEFLEET_SOAK` seconds, as many as go into that time.
fn survive_often(case: Case, images: usize, seed: u64) {
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
        survive_often(Case { cipher, format, synchronous: "FULL", attached: None }, 60, 1);
    }
}

#[test]
fn without_flushes_a_power_loss_takes_the_last_transactions_and_nothing_else() {
    for (cipher, format) in
        [(Cipher::ChaCha20Poly1305, PageFormat::Native), (Cipher::Aegis128L, PageFormat::Turso)]
    {
        survive_often(Case { cipher, format, synchronous: "NORMAL", attached: None }, 60, 2);
    }
}

#[test]
fn a_journal_that_is_left_by_a_power_loss_undoes_what_was_not_committed() {
    for (mode, synchronous) in [("DELETE", "EXTRA"), ("TRUNCATE", "FULL"), ("PERSIST", "FULL")] {
        let (cipher, format) = (Cipher::Aegis256X2, PageFormat::Native);
        survive_often(Case { cipher, format, synchronous, attached: Some(mode) }, 30, 3);
    }
}
