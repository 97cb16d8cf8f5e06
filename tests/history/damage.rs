//! Damage to what a history is made of: a restore is right, or an error that names what is damaged; never anything else.
//! And the database itself goes on.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use litefleet::{
    Cipher, ControlPlane, ErrorKind, Timestamp, explain, no_progress,
    rusqlite::{Connection, config::DbConfig},
};

use crate::{
    maintain::{CIPHERS, maintain, maintain_later, set_window, with_history},
    random::Random,
    support::{Ledger, contents, files, is_index, now, read_contents},
};

/// What is done to a file.
type Harm = Box<dyn Fn(&Path)>;

/// A fleet at rest, or in the middle of a log, with all that is known of its past.
struct Subject {
    ledger: Ledger,
    pristine: tempfile::TempDir,
    /// The same database in a fleet that went on otherwise from the middle on.
    sibling: tempfile::TempDir,
    /// The archive as it was earlier.
    older: tempfile::TempDir,
    looks: usize,
}

/// A view says the same as a restore, and takes less time: so only some are restored.
const RESTORE_EVERY: usize = 16;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

fn checkpoint(connection: &Connection, mode: &str) {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// Some commits, and logs that end in each way.
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

impl Subject {
    fn new(cipher: Option<Cipher>, at_rest: bool) -> Self {
        let mut ledger = Ledger::new(cipher);
        let mut connection = ledger.connect();
        ledger.commit(&connection, "CREATE TABLE t(a, b)");
        some_commits(&mut ledger, &mut connection, "early");
        if cipher.is_none() {
            // Another program makes a gap, and so a second snapshot.
            drop(connection);
            // Of what was there before, its stamp is the only instant that is known.
            let stamp = ledger.plane.points("orders", ..).unwrap().points.last().unwrap().at;
            let last = ledger.states.last_mut().unwrap();
            (last.from, last.to) = (stamp, stamp);
            Connection::open(ledger.place().join("data.db"))
                .unwrap()
                .execute_batch("INSERT INTO t VALUES ('strange', 0)")
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
        copy(&ledger.place().join("archive"), &older.path().join("archive"));
        let sibling = tempfile::tempdir().unwrap();
        copy(ledger.plane.root(), &sibling.path().join("root"));
        let finish = |ledger: &mut Ledger, mark: &str| {
            let mut connection = ledger.connect();
            some_commits(ledger, &mut connection, mark);
            ledger.commit(&connection, &format!("INSERT INTO t VALUES ('{mark} last', 0)"));
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !at_rest).unwrap();
        };
        // The sibling first: its states are none of ours.
        let (ours, states) = (ledger.plane.clone(), ledger.states.clone());
        ledger.plane = ControlPlane::open(sibling.path().join("root")).unwrap();
        finish(&mut ledger, "elsewhere");
        (ledger.plane, ledger.states) = (ours, states);
        finish(&mut ledger, "late");
        ledger.states.last_mut().unwrap().to = now();
        if at_rest {
            // What was before the gap only leads to older instants: of a plain database, it is compressed a day later.
            set_window(&ledger, "7d");
            let compressed = if cipher.is_none() { 3 } else { 0 };
            assert_eq!(maintain_later(&ledger).compressed, compressed);
        }
        let pristine = tempfile::tempdir().unwrap();
        copy(&ledger.place(), &pristine.path().join("orders"));
        Self { ledger, pristine, sibling, older, looks: 0 }
    }

    fn archive(&self) -> PathBuf {
        self.ledger.place().join("archive")
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.pristine.path().join("orders/archive"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn heal(&self) {
        let place = self.ledger.place();
        fs::remove_dir_all(&place).unwrap();
        assert!(
            Command::new("cp")
                .arg("-rp")
                .arg(self.pristine.path().join("orders"))
                .arg(&place)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Restores remembered instants, and counts those that are refused. What is found must be right.
    fn look(&mut self, harm: &str, every: usize) -> usize {
        let mut refused = 0;
        for (number, state) in self.ledger.states.clone().into_iter().enumerate() {
            if number % every != 0 && number + 3 < self.ledger.states.len() {
                continue;
            }
            for at in [state.from, state.to] {
                self.looks += 1;
                let found = if self.looks.is_multiple_of(RESTORE_EVERY) {
                    self.ledger.restored_at(at)
                } else {
                    self.ledger.viewed_at(at)
                };
                match found {
                    Ok(found) => {
                        assert!(found == state.contents, "{harm}: state {number} at {at} is another one");
                    }
                    Err(error) => {
                        refused += 1;
                        let (kind, text) = (error.kind(), error.to_string());
                        assert!(
                            matches!(kind, ErrorKind::Corrupt | ErrorKind::OutsideWindow),
                            "{harm}: {kind}: {text}"
                        );
                        let names = text.contains("/archive/")
                            || text.contains("data.db-wal")
                            || kind == ErrorKind::OutsideWindow;
                        assert!(names, "{harm}: {text}");
                    }
                }
            }
        }
        refused
    }

    /// Checks one harm: what can be restored before anybody writes, that the database goes on, and what can be restored
    /// then.
    fn suffer(&mut self, harm: &str, every: usize) -> usize {
        let begins_anew = ["no harm", "live.stamps", "the archive"].iter().any(|name| harm.starts_with(name));
        let refused = self.look(harm, every);
        let _answered = self.ledger.plane.points("orders", ..);
        let states = self.ledger.states.clone();
        let last = states.last().unwrap().contents.clone();
        {
            let connection = self.ledger.connect();
            assert!(contents(&connection) == last, "{harm}: the database itself");
            for value in 0..2 {
                let answer = connection.execute_batch(&format!("INSERT INTO t VALUES ('went on', {value})"));
                answer.unwrap_or_else(|error| panic!("{harm}: {}", explain(&connection, error)));
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
        // What was written since is known, unless it goes on from what is damaged.
        for state in &self.ledger.states.clone()[states.len()..] {
            match self.ledger.viewed_at(state.from) {
                Ok(found) => assert!(found == state.contents, "{harm}: what was written since"),
                Err(error) => {
                    assert!(
                        !begins_anew && error.to_string().contains("/archive/"),
                        "{harm}: since: {error}"
                    );
                }
            }
        }
        self.look(&format!("{harm}, and it went on"), every);
        self.ledger.states = states;
        self.heal();
        refused
    }
}

/// Where a file may be cut: at its boundaries, within them, and in half.
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

fn flip(bit: u64) -> Harm {
    Box::new(move |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
    })
}

fn harms(subject: &Subject, name: &str, random: &mut Random) -> Vec<(String, Harm)> {
    let path = subject.archive().join(name);
    let len = fs::metadata(&path).unwrap().len();
    let mut harms: Vec<(String, Harm)> = vec![
        ("removed".into(), Box::new(|path| fs::remove_file(path).unwrap())),
        ("emptied".into(), Box::new(|path| fs::write(path, b"").unwrap())),
        (
            "zeroed".into(),
            Box::new(move |path| fs::write(path, vec![0; usize::try_from(len).unwrap()]).unwrap()),
        ),
    ];
    for cut in cuts(name, len) {
        let harm: Harm = Box::new(move |path| {
            fs::File::options().write(true).open(path).unwrap().set_len(cut).unwrap();
        });
        harms.push((format!("cut to {cut} of {len}"), harm));
    }
    // Stamps are mostly room.
    let end =
        if path.extension().is_some_and(|extension| extension == "stamps") { len.min(360) } else { len };
    for _ in 0..12 {
        let bit = random.below(end * 8);
        harms.push((format!("bit {bit} flipped"), flip(bit)));
    }
    for from in
        [&subject.older.path().join("archive"), &subject.sibling.path().join("root/default/orders/archive")]
    {
        let from = from.join(name);
        if from.exists() && fs::read(&from).unwrap() != fs::read(&path).unwrap() {
            let what = format!("replaced by {}", from.display());
            harms.push((what, Box::new(move |path| _ = fs::copy(&from, path).unwrap())));
        }
    }
    harms
}

fn kind_of(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

fn matrix(cipher: Option<Cipher>, at_rest: bool) {
    let mut subject = Subject::new(cipher, at_rest);
    let mut random = Random::new(3);
    let files = subject.files();
    // By default a part of it: each file, and each kind of harm.
    let is_soak = env::var_os("LITEFLEET_SOAK").is_some();
    assert_eq!(subject.look("no harm", 1), 0);
    assert_eq!(subject.suffer("no harm", 1), 0);
    for name in &files {
        for (number, (what, harm)) in harms(&subject, name, &mut random).into_iter().enumerate() {
            let one_of = if name == "live.stamps" { 3 } else { 24 };
            if !is_soak && number > 0 && random.below(one_of) > 0 {
                continue;
            }
            harm(&subject.archive().join(name));
            subject.suffer(&format!("{name} {what}"), 4);
        }
    }
    // Two of a kind in each other's place.
    for (at, one) in files.iter().enumerate() {
        if let Some(other) = files[at + 1..].iter().find(|other| kind_of(other) == kind_of(one)) {
            let archive = subject.archive();
            let (first, second) =
                (fs::read(archive.join(one)).unwrap(), fs::read(archive.join(other)).unwrap());
            fs::write(archive.join(one), second).unwrap();
            fs::write(archive.join(other), first).unwrap();
            subject.suffer(&format!("{one} and {other} swapped"), 2);
        }
    }
    // The tail is cut off.
    let numbers: BTreeSet<_> =
        files.iter().filter_map(|name| name.split('.').next().unwrap().parse::<u64>().ok()).collect();
    for count in 1..=numbers.len() {
        for live_too in [false, true] {
            // Without a trace of a history a database is taken for one that nobody has written to.
            if live_too && count == numbers.len() {
                continue;
            }
            let cut: Vec<_> = numbers.iter().rev().take(count).collect();
            for name in &files {
                let number = name.split('.').next().unwrap().parse::<u64>();
                if number.map_or(live_too, |number| cut.contains(&&number)) {
                    fs::remove_file(subject.archive().join(name)).unwrap();
                }
            }
            subject.suffer(&format!("the last {count} are gone, live {live_too}"), 2);
        }
    }
    // All of it of another time, or another fleet, and the database as it is.
    for from in
        [subject.older.path().join("archive"), subject.sibling.path().join("root/default/orders/archive")]
    {
        fs::remove_dir_all(subject.archive()).unwrap();
        copy(&from, &subject.archive());
        subject.suffer(&format!("the archive is {}", from.display()), 1);
    }
}

#[test]
fn a_damaged_history_of_a_database_at_rest_is_right_or_refused() {
    matrix(None, true);
}

#[test]
fn a_damaged_history_of_a_database_with_a_log_is_right_or_refused() {
    matrix(None, false);
}

#[test]
fn a_damaged_history_of_an_encrypted_database_is_right_or_refused() {
    matrix(Some(Cipher::Aegis256), true);
}

#[test]
fn a_damaged_snapshot_keeps_what_leads_around_it() {
    let (mut ledger, connection) = with_history(None, 4);
    assert_eq!(maintain(&ledger).snapshots, 1);
    let snapshot = ledger.place().join("archive/000000000004.db");
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
fn a_view_that_was_opened_before_finds_its_way_around_damage_that_comes_later() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 4);
        assert_eq!(maintain(&ledger).snapshots, 1);
        let snapshot = ledger.place().join("archive/000000000004.db");
        let whole = fs::read(&snapshot).unwrap();
        // The newest instant of all: what is committed from here on is none of it.
        let at = Timestamp::from_micros(now().as_micros() + 3_600_000_000).unwrap();
        let wanted = ledger.states.last().unwrap().contents.clone();
        let (view, _) = ledger.plane.connect_at("orders", at, &ledger.options()).unwrap();
        // Every page but the first, which has been read.
        let broken: Vec<u8> =
            whole.iter().zip(0..).map(|(byte, at)| if at < 4096 { *byte } else { byte ^ 1 }).collect();
        fs::write(&snapshot, broken).unwrap();
        // Its last commits come into the archive, and others behind them.
        for _ in 0..2 {
            ledger.commit(&connection, "UPDATE t SET value = randomblob(100000)");
            checkpoint(&connection, "RESTART");
        }
        assert!(contents(&view) == wanted);
        // Without another way it is the newest snapshot that is named. The logs behind it do not hold all of its pages yet.
        let (view, _) = ledger.plane.connect_at("orders", ledger.states[21].from, &ledger.options()).unwrap();
        fs::remove_file(ledger.place().join("archive/000000000001.sum")).unwrap();
        let error = read_contents(&view).map_err(|error| explain(&view, error)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("000000000004.db is damaged"), "{error}");
    }
}

#[test]
fn a_damaged_log_is_named_with_the_instants_that_it_leads_to() {
    for cipher in CIPHERS {
        let (mut ledger, connection) = with_history(cipher, 5);
        let segment = ledger.place().join("archive/000000000002.wal");
        let whole = fs::read(&segment).unwrap();
        fs::write(&segment, &whole[..whole.len() - 10]).unwrap();
        let before = files(&ledger.place().join("archive"));
        let error = ledger.plane.maintain_database("orders", &mut no_progress).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let message = error.to_string();
        assert!(message.contains("no new snapshot") && message.contains("000000000002.wal"), "{message}");
        let after = files(&ledger.place().join("archive"));
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
        // Nothing is refused before the log that is damaged: the first one has the table and six commits.
        assert!(right >= 7 && refused >= 6, "{right} {refused}");
        let first_refused = ledger.states[right].from;
        assert!(from < first_refused && from > ledger.states[right - 2].from, "{from} {first_refused}");
        // The host goes on, and with the file in its place all is as it was.
        ledger.commit(&connection, "INSERT INTO t(value) VALUES ('goes on')");
        fs::write(&segment, &whole).unwrap();
        assert_eq!(maintain(&ledger).snapshots, 1);
        ledger.check_all();
        drop(connection);
    }
}
