//! Damage to the files of a history: a restore returns the exact contents or an error that names the damaged file,
//! and the database itself continues to accept commits.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ControlPlane, Error, ErrorKind, MaintainOptions, Timestamp,
    rusqlite::{Connection, config::DbConfig},
};

use crate::{
    maintain::{CIPHERS, maintain, maintain_a_day_later, set_window, with_history},
    random::Random,
    support::{Ledger, contents, files, is_index, now, read_contents},
};

/// One kind of damage to a file.
type Damage = Box<dyn Fn(&Path)>;

/// A fleet with known states and copies of its files to restore them from after each damage.
struct Fixture {
    ledger: Ledger,
    pristine: tempfile::TempDir,
    /// A copy of the fleet that diverged after half of the commits.
    sibling: tempfile::TempDir,
    /// An earlier version of the archive.
    older: tempfile::TempDir,
    reads: usize,
}

/// Restores are slower than views and give equal results, so only one read in this many is a restore.
const RESTORE_EVERY: usize = 16;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// A few commits, with the WAL ended in every way.
fn some_commits(ledger: &mut Ledger, connection: &mut Connection, mark: &str) {
    for (round, mode) in ["RESTART", "TRUNCATE", "CLOSE"].into_iter().enumerate() {
        for value in 0..2 {
            let sql = format!(
                "INSERT INTO t VALUES ('{mark} {round} {value}', randomblob(700)); UPDATE t SET a = a || '.' WHERE rowid % 3 = {value}"
            );
            ledger.commit(connection, &sql);
        }
        match mode {
            "CLOSE" => {
                let next = ledger.connect();
                drop(std::mem::replace(connection, next));
            }
            mode => checkpoint(connection, mode),
        }
    }
}

impl Fixture {
    fn new(cipher: Option<Cipher>, at_rest: bool) -> Self {
        let mut ledger = Ledger::new(cipher);
        let mut connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a, b)");
        some_commits(&mut ledger, &mut connection, "early");
        if cipher.is_none() {
            // A foreign process causes a gap, and the next commit a second snapshot.
            drop(connection);
            // Before the gap, only the stamp itself is certain to resolve to the last commit.
            let stamp = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
            let last = ledger.states.last_mut().unwrap();
            (last.from, last.to) = (stamp, stamp);
            Connection::open(ledger.database_dir().join("data.db"))
                .unwrap()
                .execute_batch("INSERT INTO t VALUES ('foreign', 0)")
                .unwrap();
            connection = ledger.connect();
            connection.execute_batch("INSERT INTO t VALUES ('after the gap', 0)").unwrap();
            let from = now();
            let contents = contents(&connection);
            ledger.states.push(crate::support::State { from, to: from, contents });
        }
        some_commits(&mut ledger, &mut connection, "middle");
        drop(connection);
        let older = tempfile::tempdir().unwrap();
        copy(&ledger.database_dir().join("archive"), &older.path().join("archive"));
        let sibling = tempfile::tempdir().unwrap();
        copy(ledger.plane.root(), &sibling.path().join("root"));
        let finish = |ledger: &mut Ledger, mark: &str| {
            let mut connection = ledger.connect();
            some_commits(ledger, &mut connection, mark);
            ledger.commit(&connection, &format!("INSERT INTO t VALUES ('{mark} last', 0)"));
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !at_rest).unwrap();
        };
        // Write the sibling first: its states are not part of the expectation.
        let (ours, states) = (ledger.plane.clone(), ledger.states.clone());
        ledger.plane = ControlPlane::open(sibling.path().join("root")).unwrap();
        finish(&mut ledger, "elsewhere");
        (ledger.plane, ledger.states) = (ours, states);
        finish(&mut ledger, "late");
        ledger.states.last_mut().unwrap().to = now();
        if at_rest {
            // Logs before the gap serve older instants only, so those of a plain database are compressed after a day.
            set_window(&ledger, "7d");
            let compressed = if cipher.is_none() { 3 } else { 0 };
            assert_eq!(maintain_a_day_later(&ledger).compressed, compressed);
        }
        let pristine = tempfile::tempdir().unwrap();
        copy(&ledger.database_dir(), &pristine.path().join("orders"));
        Self { ledger, pristine, sibling, older, reads: 0 }
    }

    fn archive(&self) -> PathBuf {
        self.ledger.database_dir().join("archive")
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.pristine.path().join("orders/archive"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn reset(&self) {
        let dir = self.ledger.database_dir();
        fs::remove_dir_all(&dir).unwrap();
        assert!(
            Command::new("cp")
                .arg("-rp")
                .arg(self.pristine.path().join("orders"))
                .arg(&dir)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Reads known states, checks the contents, and returns the number of instants that failed.
    fn check_states(&mut self, damage: &str, every: usize) -> usize {
        let mut refused = 0;
        for (number, state) in self.ledger.states.clone().into_iter().enumerate() {
            if number % every != 0 && number + 3 < self.ledger.states.len() {
                continue;
            }
            for at in [state.from, state.to] {
                self.reads += 1;
                let found = if self.reads.is_multiple_of(RESTORE_EVERY) {
                    self.ledger.restored_at(at)
                } else {
                    self.ledger.viewed_at(at)
                };
                match found {
                    Ok(found) => {
                        assert!(
                            found == state.contents,
                            "{damage}: wrong contents for state {number} at {at}"
                        );
                    }
                    Err(error) => {
                        refused += 1;
                        let (kind, text) = (error.kind(), error.to_string());
                        assert!(
                            matches!(kind, ErrorKind::Corrupt | ErrorKind::OutsideWindow),
                            "{damage}: {kind}: {text}"
                        );
                        let names = text.contains("/archive/")
                            || text.contains("data.db-wal")
                            || kind == ErrorKind::OutsideWindow;
                        assert!(names, "{damage}: {text}");
                    }
                }
            }
        }
        refused
    }

    /// Checks one kind of damage: reads before any write, then commits, then reads again.
    fn check_damage(&mut self, damage: &str, every: usize) -> usize {
        let starts_new_history =
            ["no damage", "live.stamps", "the archive"].iter().any(|name| damage.starts_with(name));
        let refused = self.check_states(damage, every);
        let _may_fail = self.ledger.plane.points("orders", ..);
        let states = self.ledger.states.clone();
        let last = states.last().unwrap().contents.clone();
        {
            let connection = self.ledger.connect();
            assert!(contents(&connection) == last, "{damage}: the live database changed");
            for value in 0..2 {
                let answer = connection.execute_batch(&format!("INSERT INTO t VALUES ('went on', {value})"));
                answer.unwrap_or_else(|error| panic!("{damage}: {}", Error::from_sqlite(&connection, error)));
                let from = now();
                self.ledger.states.push(crate::support::State {
                    from,
                    to: from,
                    contents: contents(&connection),
                });
                if value == 0 {
                    checkpoint(&connection, "TRUNCATE");
                }
            }
        }
        // New commits are restorable, unless their history depends on the damaged file.
        for state in &self.ledger.states.clone()[states.len()..] {
            match self.ledger.viewed_at(state.from) {
                Ok(found) => assert!(found == state.contents, "{damage}: a commit after the damage"),
                Err(error) => {
                    assert!(
                        !starts_new_history && error.to_string().contains("/archive/"),
                        "{damage}: a commit after the damage: {error}"
                    );
                }
            }
        }
        self.check_states(&format!("{damage}, after further commits"), every);
        self.ledger.states = states;
        self.reset();
        refused
    }
}

/// Lengths to truncate a file to: at record boundaries, within records, and in the middle.
fn cuts(name: &str, len: u64) -> BTreeSet<u64> {
    let (header, record) = match name.rsplit('.').next().unwrap() {
        "stamps" => (128, 32),
        "wal" => (32, 24 + 4096),
        "db" => (100, 4096),
        _ => (8, 8),
    };
    let records = (0..6).map(|record_number| header + record_number * record);
    let last = len.saturating_sub(record);
    let mut cuts: BTreeSet<u64> = records.chain([0, 1, header / 2, len / 2, last, len - 1]).collect();
    cuts.extend(cuts.clone().into_iter().map(|cut| cut + 9));
    cuts.retain(|cut| *cut < len);
    cuts
}

fn flip(bit: u64) -> Damage {
    Box::new(move |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
    })
}

fn damage_cases(fixture: &Fixture, name: &str, random: &mut Random) -> Vec<(String, Damage)> {
    let path = fixture.archive().join(name);
    let len = fs::metadata(&path).unwrap().len();
    let mut damage_cases: Vec<(String, Damage)> = vec![
        ("removed".into(), Box::new(|path| fs::remove_file(path).unwrap())),
        ("emptied".into(), Box::new(|path| fs::write(path, b"").unwrap())),
        (
            "zeroed".into(),
            Box::new(move |path| fs::write(path, vec![0; usize::try_from(len).unwrap()]).unwrap()),
        ),
    ];
    for cut in cuts(name, len) {
        let damage: Damage = Box::new(move |path| {
            fs::File::options().write(true).open(path).unwrap().set_len(cut).unwrap();
        });
        damage_cases.push((format!("truncated to {cut} of {len}"), damage));
    }
    // The rest of a stamp file is unused space.
    let end =
        if path.extension().is_some_and(|extension| extension == "stamps") { len.min(360) } else { len };
    for _ in 0..12 {
        let bit = random.below(end * 8);
        damage_cases.push((format!("bit {bit} flipped"), flip(bit)));
    }
    for from in
        [&fixture.older.path().join("archive"), &fixture.sibling.path().join("root/default/orders/archive")]
    {
        let from = from.join(name);
        if from.exists() && fs::read(&from).unwrap() != fs::read(&path).unwrap() {
            let what = format!("replaced by {}", from.display());
            damage_cases.push((what, Box::new(move |path| _ = fs::copy(&from, path).unwrap())));
        }
    }
    damage_cases
}

fn kind_of(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

fn matrix(cipher: Option<Cipher>, at_rest: bool) {
    let mut fixture = Fixture::new(cipher, at_rest);
    let mut random = Random::new(3);
    let files = fixture.files();
    // Outside of a soak test, a sample: every file, and every kind of damage.
    let is_soak = env::var_os("LITEFLEET_SOAK").is_some();
    assert_eq!(fixture.check_states("no damage", 1), 0);
    assert_eq!(fixture.check_damage("no damage", 1), 0);
    for name in &files {
        for (number, (what, damage)) in damage_cases(&fixture, name, &mut random).into_iter().enumerate() {
            let one_of = if name == "live.stamps" { 3 } else { 24 };
            if !is_soak && number > 0 && random.below(one_of) > 0 {
                continue;
            }
            damage(&fixture.archive().join(name));
            fixture.check_damage(&format!("{name} {what}"), 4);
        }
    }
    // Swap two files of one kind.
    for (at, one) in files.iter().enumerate() {
        if let Some(other) = files[at + 1..].iter().find(|other| kind_of(other) == kind_of(one)) {
            let archive = fixture.archive();
            let (first, second) =
                (fs::read(archive.join(one)).unwrap(), fs::read(archive.join(other)).unwrap());
            fs::write(archive.join(one), second).unwrap();
            fs::write(archive.join(other), first).unwrap();
            fixture.check_damage(&format!("{one} and {other} swapped"), 2);
        }
    }
    // Remove the newest generations.
    let numbers: BTreeSet<_> =
        files.iter().filter_map(|name| name.split('.').next().unwrap().parse::<u64>().ok()).collect();
    for count in 1..=numbers.len() {
        for live_too in [false, true] {
            // Without any file, the database is indistinguishable from a pristine one.
            if live_too && count == numbers.len() {
                continue;
            }
            let cut: Vec<_> = numbers.iter().rev().take(count).collect();
            for name in &files {
                let number = name.split('.').next().unwrap().parse::<u64>();
                if number.map_or(live_too, |number| cut.contains(&&number)) {
                    fs::remove_file(fixture.archive().join(name)).unwrap();
                }
            }
            fixture.check_damage(&format!("the last {count} generations removed, live {live_too}"), 2);
        }
    }
    // Replace the archive with an older version or with that of another fleet.
    for from in
        [fixture.older.path().join("archive"), fixture.sibling.path().join("root/default/orders/archive")]
    {
        fs::remove_dir_all(fixture.archive()).unwrap();
        copy(&from, &fixture.archive());
        fixture.check_damage(&format!("the archive is {}", from.display()), 1);
    }
}

#[test]
fn damaged_history_after_last_close_restores_exactly_or_fails() {
    matrix(None, true);
}

#[test]
fn damaged_history_with_live_wal_restores_exactly_or_fails() {
    matrix(None, false);
}

#[test]
fn damaged_history_of_encrypted_database_restores_exactly_or_fails() {
    matrix(Some(Cipher::Aegis256), true);
}

#[test]
fn pruning_keeps_fallback_for_a_damaged_snapshot() {
    let (mut ledger, connection) = with_history(None, 4);
    assert_eq!(maintain(&ledger).snapshots, 1);
    let snapshot = ledger.database_dir().join("archive/000000000004.db");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    thread::sleep(Duration::from_millis(1100));
    set_window(&ledger, "1s");
    let done = maintain(&ledger);
    assert_eq!((done.generations, done.bytes_freed), (0, 0));
    for (number, state) in ledger.states.clone().into_iter().enumerate() {
        for at in [state.from, state.to] {
            assert!(ledger.contents_at(at).unwrap() == state.contents, "state {number} at {at}");
        }
    }
    drop(connection);
}

#[test]
fn open_view_falls_back_when_its_snapshot_is_damaged_later() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 4);
        assert_eq!(maintain(&ledger).snapshots, 1);
        let snapshot = ledger.database_dir().join("archive/000000000004.db");
        let whole = fs::read(&snapshot).unwrap();
        // A view of a future instant must not include commits made after it was opened.
        let at = Timestamp::from_micros(now().as_micros() + 3_600_000_000).unwrap();
        let expected = ledger.states.last().unwrap().contents.clone();
        let (view, _) = ledger.plane.connect_at("orders", at, ledger.options()).unwrap();
        // Damage every page but the first, which the view has read.
        let broken: Vec<u8> =
            whole.iter().zip(0..).map(|(byte, at)| if at < 4096 { *byte } else { byte ^ 1 }).collect();
        fs::write(&snapshot, broken).unwrap();
        // Archive the view's last commits and two later ones.
        for _ in 0..2 {
            ledger.commit(&connection, "UPDATE t SET value = randomblob(100000)");
            checkpoint(&connection, "RESTART");
        }
        assert!(contents(&view) == expected);
        // Without a fallback the error names the newest snapshot. The later logs do not hold all of its pages.
        let (view, _) = ledger.plane.connect_at("orders", ledger.states[21].from, ledger.options()).unwrap();
        fs::remove_file(ledger.database_dir().join("archive/000000000001.sum")).unwrap();
        let error = read_contents(&view).map_err(|error| Error::from_sqlite(&view, error)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("000000000004.db is damaged"), "{error}");
    }
}

#[test]
fn maintenance_names_damaged_log_and_the_instants_that_need_it() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 5);
        let segment = ledger.database_dir().join("archive/000000000002.wal");
        let whole = fs::read(&segment).unwrap();
        fs::write(&segment, &whole[..whole.len() - 10]).unwrap();
        let before = files(&ledger.database_dir().join("archive"));
        let error = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let message = error.to_string();
        assert!(message.contains("no new snapshot") && message.contains("000000000002.wal"), "{message}");
        let after = files(&ledger.database_dir().join("archive"));
        assert!(
            after.iter().all(|name| before.contains(name) || is_index(name) || name == "wanted"),
            "{after:?}"
        );
        let (_, from) = message.split_once("instants after ").unwrap();
        let from: Timestamp = from.split(' ').next().unwrap().parse().unwrap();
        let (mut right, mut refused) = (0, 0);
        for state in ledger.states.clone() {
            match ledger.contents_at(state.from) {
                Ok(contents) => {
                    assert!(contents == state.contents);
                    right += 1;
                }
                Err(error) => {
                    assert!(state.from > from, "{} is not after {from}: {error}", state.from);
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    refused += 1;
                }
            }
        }
        // No instant before the damaged log fails: the first log has the table and six commits.
        assert!(right >= 7 && refused >= 6, "{right} {refused}");
        let first_refused = ledger.states[right].from;
        assert!(from < first_refused && from > ledger.states[right - 2].from, "{from} {first_refused}");
        // The database accepts commits, and once the file is restored every instant is restorable.
        ledger.commit(&connection, "INSERT INTO t(value) VALUES ('goes on')");
        fs::write(&segment, &whole).unwrap();
        assert_eq!(maintain(&ledger).snapshots, 1);
        ledger.check_all();
        drop(connection);
    }
}
