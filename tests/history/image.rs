//! What a power loss left of a database, and what is demanded of it; see [`power`](crate::power).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use litefleet::{
    ControlPlane, CreateDatabaseInput, Error, ErrorKind, RemoteEncryption, RestorableRange, Result, Seed,
    Synchronous, Timestamp, VerifyOptions, explain, no_progress,
    rusqlite::{self, Connection},
};

use crate::{
    machine::Shot,
    power::{Tally, Terms, checkpoint},
    random::Random,
    support::{Contents, contains, contents, difference, files, read_contents},
};

/// What the database was between two instants, and who made it so.
pub(crate) struct Moment {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) contents: Contents,
    /// The generation that the commit stands in, from 1; nothing for a commit of a stranger's.
    pub(crate) generation: Option<u64>,
}

/// A root to which images of a database are put.
pub(crate) struct Image {
    pub(crate) root: PathBuf,
    pub(crate) template: PathBuf,
}

/// What is known of one image, and what was answered there.
struct Answers<'a> {
    moments: &'a [Moment],
    /// The last commit that the database has; nothing where that is not promised.
    last: Option<usize>,
    /// Generations that must be there.
    promised: BTreeSet<u64>,
    /// The moments that were asked for, and those that were given.
    given: Vec<(usize, usize)>,
    tally: &'a mut Tally,
}

impl Image {
    /// Puts an image into a root of its own, and says what each instant is there.
    pub(crate) fn check(
        &self,
        terms: &Terms,
        shot: &Shot,
        moments: &[Moment],
        random: &mut Random,
        tally: &mut Tally,
    ) {
        if self.root.exists() {
            fs::remove_dir_all(&self.root).unwrap();
        }
        copy_dir(&self.template, &self.root);
        let dir = self.root.join("default/orders");
        shot.place(&dir);
        check_compressed(&dir.join("archive"));
        let mut promised = shot.kept.clone();
        if shot.is_whole {
            promised.extend(archived(&dir));
        }
        let retained = word(&dir.join("archive/retained"), 1).unwrap_or(0);
        promised.retain(|generation| *generation >= retained);
        let plane = terms.builder().open(&self.root).unwrap();
        let instants: Vec<(usize, Timestamp)> = (0..)
            .zip(&moments[..=shot.acknowledged])
            .flat_map(|(number, moment)| [(number, moment.from), (number, moment.to)])
            .collect();
        // Before anybody has written to it, and so without any repair.
        let before: Vec<_> =
            instants.iter().step_by(3).map(|(number, at)| (*number, *at, view(terms, &plane, *at))).collect();
        let is_off = terms.synchronous == Synchronous::Off;
        let connection = match open(terms, &plane) {
            Err(_) if is_off => None,
            opened => Some(opened.unwrap()),
        };
        let mut last = None;
        if let (Some(connection), false) = (&connection, is_off) {
            let found = contents(connection);
            let reached = moments.iter().position(|moment| moment.contents == found);
            let reached = reached.expect("it is what no commit left");
            assert!(reached >= shot.least, "it is after commit {reached}, and {} was flushed", shot.least);
            tally.lost += u64::from(reached < shot.acknowledged);
            last = Some(reached);
        }
        let is_sound = connection.is_some();
        tally.unsound += u64::from(!is_sound);
        let mut answers = Answers { moments, last, promised, given: Vec::new(), tally };
        for (number, at, answer) in before {
            answers.look(number, at, answer, "as it was found");
        }
        answers.agree();
        // Without a flush SQLite's log and its file need not be of one time, which `verify` finds out.
        let verify = || plane.verify_database("orders", &VerifyOptions::default(), &mut no_progress).unwrap();
        let connection = connection.filter(|_| !is_off || verify().findings.is_empty());
        if let Some(connection) = connection {
            go_on(terms, &plane, connection, random);
            answers.tally.went_on += u64::from(is_off);
        }
        let windows = plane.points("orders", ..).unwrap().windows;
        // There are many of them, and they are large.
        let every = if terms.is_maintained { 3 } else { 1 };
        let first = usize::try_from(random.below(every)).unwrap();
        for (number, at) in instants.iter().skip(first).step_by(usize::try_from(every).unwrap()) {
            let answer = view(terms, &plane, *at);
            answers.hold_to(&windows, *number, *at, &answer, shot.is_whole);
            answers.look(*number, *at, answer, "later");
        }
        // To restore to a new database is to open the one that is there.
        if is_sound {
            let (number, at) = instants[usize::try_from(random.below(instants.len() as u64)).unwrap()];
            answers.look(number, at, restore(terms, &plane, at), "restored");
        }
        answers.agree();
        verify();
        if let Err(error) = plane.maintain_database("orders", &mut no_progress) {
            assert!(is_a_refusal(&error), "{error}");
        }
        tally.images += 1;
    }
}

impl Answers<'_> {
    /// Whether an instant after this commit must be answered: it and the next one stand in what must be there.
    fn is_promised(&self, number: usize) -> bool {
        let is_there = |number: usize| {
            let generation = self.moments.get(number).and_then(|moment| moment.generation);
            generation.is_some_and(|generation| self.promised.contains(&generation))
        };
        is_there(number) && is_there(number + 1)
    }

    /// Whether an instant lies where a stranger has committed and nobody knows when. A commit that the power took
    /// was not made.
    fn is_in_a_gap(&self, number: usize, at: Timestamp) -> bool {
        let moment = &self.moments[number];
        moment.generation.is_none() && at == moment.from && self.last.is_some_and(|last| number <= last)
    }

    fn look(&mut self, number: usize, at: Timestamp, answer: Result<Contents>, when: &str) {
        match answer {
            Ok(found) => {
                self.tally.right += 1;
                assert!(
                    !self.is_in_a_gap(number, at),
                    "{when}: a stranger's commit {number} at {at} is answered"
                );
                let given = if let Some(last) = self.last {
                    // What was lost was not made, as far as the database is concerned.
                    let wanted = number.min(last);
                    let contents = &self.moments[wanted].contents;
                    let shown = || difference(&found, contents);
                    assert!(found == *contents, "{when}: state {number} of {last} at {at}: {}", shown());
                    wanted
                } else {
                    let given = self.moments.iter().position(|moment| moment.contents == found);
                    given.unwrap_or_else(|| panic!("{when}: state {number} at {at} is what no commit left"))
                };
                if self.is_promised(number) {
                    assert_eq!(given, number, "{when}: what was archived and flushed at {at}");
                    self.tally.kept += 1;
                }
                self.given.push((number, given));
            }
            Err(error) => {
                self.tally.refused += 1;
                assert!(is_a_refusal(&error), "{when}: state {number} at {at}: {error}");
                let promised = self.is_promised(number);
                assert!(!promised, "{when}: state {number} at {at} was archived and flushed: {error}");
            }
        }
    }

    /// Holds what is refused to the windows that are told.
    fn hold_to(
        &self,
        windows: &[RestorableRange],
        number: usize,
        at: Timestamp,
        answer: &Result<Contents>,
        is_whole: bool,
    ) {
        let is_in_one = contains(windows, at);
        if let Err(error) = answer {
            let is_told = !is_in_one || !is_whole && error.kind() != ErrorKind::OutsideWindow;
            assert!(is_told, "state {number} at {at} is in a window: {error}, {windows:?}");
        }
        let is_strange = is_in_one && self.is_in_a_gap(number, at);
        assert!(!is_strange, "a stranger's commit {number} at {at} is in a window: {windows:?}");
    }

    /// All answers since the last time are of one past: up to a commit that is the same for all of them, and as it was then
    /// after that. Without any flush the history that was found may be longer than what SQLite makes of its log.
    fn agree(&mut self) {
        let all = std::mem::take(&mut self.given);
        let last = all.iter().map(|(_, given)| *given).max().unwrap_or(0);
        for (number, given) in &all {
            assert_eq!(*given, *number.min(&last), "state {number}, where {last} is known");
        }
        let strange = (0..).zip(self.moments).filter(|(_, moment)| moment.generation.is_none());
        let is_exact = |is_in: &dyn Fn(usize) -> bool| {
            all.iter().any(|(number, given)| number == given && is_in(*number))
        };
        let mut gaps = strange.map(|(number, _): (usize, _)| number);
        let has_both = gaps.any(|gap| is_exact(&|number| number < gap) && is_exact(&|number| number > gap));
        self.tally.spanned += u64::from(has_both);
    }
}

/// Opens the database, if it is sound.
fn open(terms: &Terms, plane: &ControlPlane) -> Result<Connection, String> {
    let connection =
        plane.connect("orders", &terms.options(Synchronous::Off)).map_err(|error| error.to_string())?;
    let sound: rusqlite::Result<String> =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    match sound.map_err(|error| error.to_string())?.as_str() {
        "ok" => Ok(connection),
        found => Err(found.to_owned()),
    }
}

/// Commits more, each of which is answered.
fn go_on(terms: &Terms, plane: &ControlPlane, connection: Connection, random: &mut Random) {
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
        let found = view(terms, plane, *at).unwrap_or_else(|error| panic!("a later commit at {at}: {error}"));
        assert!(found == *wanted, "a later commit at {at}: {}", difference(&found, wanted));
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

/// A word of a file, if it is there.
fn word(path: &Path, number: usize) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    let word = bytes.get(number * 8..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

/// The generation that the log of a database is in, or was in last.
pub(crate) fn live(dir: &Path) -> Option<u64> {
    word(&dir.join("archive/live.stamps"), 4)
}

/// The generations before that one whose logs are in the archive.
pub(crate) fn archived(dir: &Path) -> BTreeSet<u64> {
    let Some(live) = live(dir) else { return BTreeSet::new() };
    let names = files(&dir.join("archive"));
    let logs = names.iter().filter_map(|name| name.strip_suffix(".zst").unwrap_or(name).strip_suffix(".wal"));
    logs.map(|number| number.parse().unwrap()).filter(|number| *number < live).collect()
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

pub(crate) fn copy_dir(from: &Path, to: &Path) {
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

fn view(terms: &Terms, plane: &ControlPlane, at: Timestamp) -> Result<Contents> {
    let (view, _) = plane.connect_at("orders", at, &terms.options(Synchronous::Off))?;
    read_contents(&view).map_err(|error| explain(&view, error))
}

fn restore(terms: &Terms, plane: &ControlPlane, at: Timestamp) -> Result<Contents> {
    let mut input =
        CreateDatabaseInput::new("restored", "default").with_seed(Seed::database_at("orders", at));
    if let Some(key) = terms.key() {
        input = input.with_encryption(RemoteEncryption::inherit_cipher(key));
    }
    plane.create_database(input)?;
    let connection = plane.connect("restored", &terms.options(Synchronous::Off))?;
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    Ok(contents(&connection))
}
