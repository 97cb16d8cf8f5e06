//! The files that a simulated power failure leaves, and the guarantees they are checked against; see
//! [`power`](crate::power).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use litefleet::{
    ControlPlane, CreateDatabaseInput, Error, ErrorKind, MaintainOptions, RemoteEncryption, RestorableRange,
    Result, Seed, Synchronous, Timestamp, VerifyOptions,
    rusqlite::{self, Connection},
};

use crate::{
    power::{Scenario, Tally, checkpoint},
    random::Random,
    simulated_disk::CrashImage,
    support::{Contents, contains, contents, difference, files, has_extension, read_contents},
};

/// The contents of a database between two commits, and the generation of the commit that produced them.
pub(crate) struct KnownState {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) contents: Contents,
    /// The generation of the commit, counted from 1; `None` for a commit of a foreign process.
    pub(crate) generation: Option<u64>,
}

/// A root directory in which the files of crash images are placed.
pub(crate) struct ImageRoot {
    pub(crate) root: PathBuf,
    pub(crate) template: PathBuf,
}

/// The expectations for one image, and the restores made from it.
struct Answers<'a> {
    states: &'a [KnownState],
    /// The last commit that the database contains; `None` if that is not guaranteed.
    last: Option<usize>,
    /// Generations that must be restorable.
    promised: BTreeSet<u64>,
    /// Pairs of the state that was requested and the state that was returned.
    returned: Vec<(usize, usize)>,
    tally: &'a mut Tally,
}

impl ImageRoot {
    /// Places an image in its root and checks every instant, before and after new commits.
    pub(crate) fn check(
        &self,
        scenario: &Scenario,
        image: &CrashImage,
        states: &[KnownState],
        random: &mut Random,
        tally: &mut Tally,
    ) {
        if self.root.exists() {
            fs::remove_dir_all(&self.root).unwrap();
        }
        copy_dir(&self.template, &self.root);
        let dir = self.root.join("default/orders");
        image.write_to(&dir);
        check_compressed(&dir.join("archive"));
        let names = if dir.join("archive").exists() { files(&dir.join("archive")) } else { Vec::new() };
        tally.deltas += names.iter().filter(|name| has_extension(name, "delta")).count() as u64;
        let mut promised = image.kept.clone();
        if image.is_whole {
            promised.extend(archived(&dir, scenario.is_shared));
        }
        let retained = word(&dir.join("archive/retained"), 1).unwrap_or(0);
        promised.retain(|generation| *generation >= retained);
        let plane = scenario.builder().open(&self.root).unwrap();
        let instants: Vec<(usize, Timestamp)> = (0..)
            .zip(&states[..=image.acknowledged])
            .flat_map(|(number, state)| [(number, state.from), (number, state.to)])
            .collect();
        // Before any write, and hence before any recovery that writes.
        let before: Vec<_> = instants
            .iter()
            .step_by(3)
            .map(|(number, at)| (*number, *at, view(scenario, &plane, *at)))
            .collect();
        let is_off = scenario.synchronous == Synchronous::Off;
        let connection = match open(scenario, &plane) {
            Err(_) if is_off => None,
            opened => Some(opened.unwrap()),
        };
        let mut last = None;
        if let (Some(connection), false) = (&connection, is_off) {
            let found = contents(connection);
            let reached = states.iter().position(|state| state.contents == found);
            let reached = reached.expect("the contents are those of no commit");
            assert!(
                reached >= image.flushed_commit,
                "contains commit {reached}, but commit {} was flushed",
                image.flushed_commit
            );
            tally.lost += u64::from(reached < image.acknowledged);
            last = Some(reached);
        }
        let is_sound = connection.is_some();
        tally.unsound += u64::from(!is_sound);
        let mut answers = Answers { states, last, promised, returned: Vec::new(), tally };
        for (number, at, answer) in before {
            answers.check_answer(number, at, answer, "before writes");
        }
        answers.check_agreement();
        // Without flushes the WAL and the database file may be from different times, which `verify` detects.
        let verify = || plane.verify_database("orders", VerifyOptions::default()).unwrap();
        let connection = connection.filter(|_| !is_off || verify().findings.is_empty());
        if let Some(connection) = connection {
            commit_more(scenario, &plane, connection, random);
            answers.tally.continued += u64::from(is_off);
        }
        let windows = plane.points("orders", ..).unwrap().windows;
        // Maintained histories have many and large states: check a third of them.
        let every = if scenario.is_maintained { 3 } else { 1 };
        let first = usize::try_from(random.below(every)).unwrap();
        for (number, at) in instants.iter().skip(first).step_by(usize::try_from(every).unwrap()) {
            let answer = view(scenario, &plane, *at);
            answers.check_ranges(&windows, *number, *at, &answer, image.is_whole);
            answers.check_answer(*number, *at, answer, "after writes");
        }
        // A restore under a new name requires the catalog's database to be readable.
        if is_sound {
            let (number, at) = instants[usize::try_from(random.below(instants.len() as u64)).unwrap()];
            answers.check_answer(number, at, restore(scenario, &plane, at), "restored");
        }
        answers.check_agreement();
        verify();
        if let Err(error) = plane.maintain_database("orders", MaintainOptions::default()) {
            assert!(names_what_is_missing(&error), "{error}");
        }
        tally.images += 1;
    }
}

impl Answers<'_> {
    /// Whether a restore must succeed: the commit and its successor are both in generations that must be restorable.
    fn is_promised(&self, number: usize) -> bool {
        let is_there = |number: usize| {
            let generation = self.states.get(number).and_then(|state| state.generation);
            generation.is_some_and(|generation| self.promised.contains(&generation))
        };
        is_there(number) && is_there(number + 1)
    }

    /// Whether an instant lies in the gap after a foreign commit. A commit that was lost leaves no gap.
    fn is_in_gap(&self, number: usize, at: Timestamp) -> bool {
        let state = &self.states[number];
        state.generation.is_none() && at == state.from && self.last.is_some_and(|last| number <= last)
    }

    fn check_answer(&mut self, number: usize, at: Timestamp, answer: Result<Contents>, when: &str) {
        match answer {
            Ok(found) => {
                self.tally.right += 1;
                assert!(
                    !self.is_in_gap(number, at),
                    "{when}: an instant in the gap of foreign commit {number} at {at} was restored"
                );
                let returned = if let Some(last) = self.last {
                    // Lost commits do not exist, so later instants resolve to the last commit that survived.
                    let expected = number.min(last);
                    let contents = &self.states[expected].contents;
                    let shown = || difference(&found, contents);
                    assert!(found == *contents, "{when}: state {number} of {last} at {at}: {}", shown());
                    expected
                } else {
                    let returned = self.states.iter().position(|state| state.contents == found);
                    returned.unwrap_or_else(|| panic!("{when}: state {number} at {at} is that of no commit"))
                };
                if self.is_promised(number) {
                    assert_eq!(returned, number, "{when}: a flushed generation at {at}");
                    self.tally.kept += 1;
                }
                self.returned.push((number, returned));
            }
            Err(error) => {
                // A limit removes instants, whatever was lost.
                let is_pruned = error.to_string().contains("history limit");
                *if is_pruned { &mut self.tally.limited } else { &mut self.tally.refused } += 1;
                assert!(names_what_is_missing(&error), "{when}: state {number} at {at}: {error}");
                let promised = self.is_promised(number);
                assert!(!promised, "{when}: state {number} at {at} is in a flushed generation: {error}");
            }
        }
    }

    /// Checks an answer against the reported ranges.
    fn check_ranges(
        &self,
        windows: &[RestorableRange],
        number: usize,
        at: Timestamp,
        answer: &Result<Contents>,
        is_whole: bool,
    ) {
        let is_in_one = contains(windows, at);
        if let Err(error) = answer {
            let is_explained = !is_in_one || !is_whole && error.kind() != ErrorKind::OutsideWindow;
            assert!(is_explained, "state {number} at {at} is in a reported range: {error}, {windows:?}");
        }
        let is_foreign = is_in_one && self.is_in_gap(number, at);
        assert!(!is_foreign, "foreign commit {number} at {at} is in a reported range: {windows:?}");
    }

    /// Checks that all answers since the last call agree on one last commit: earlier instants return their
    /// own state, later ones the last. Without flushes the history may contain more commits than SQLite recovers from
    /// its WAL.
    fn check_agreement(&mut self) {
        let all = std::mem::take(&mut self.returned);
        let last = all.iter().map(|(_, returned)| *returned).max().unwrap_or(0);
        for (number, returned) in &all {
            assert_eq!(*returned, *number.min(&last), "state {number}, with {last} as the last commit");
        }
        let foreign = (0..).zip(self.states).filter(|(_, state)| state.generation.is_none());
        let is_exact = |is_in: &dyn Fn(usize) -> bool| {
            all.iter().any(|(number, returned)| number == returned && is_in(*number))
        };
        let mut gaps = foreign.map(|(number, _): (usize, _)| number);
        let has_both = gaps.any(|gap| is_exact(&|number| number < gap) && is_exact(&|number| number > gap));
        self.tally.spanned += u64::from(has_both);
    }
}

/// Opens the database; fails if `integrity_check` does.
fn open(scenario: &Scenario, plane: &ControlPlane) -> Result<Connection, String> {
    let connection =
        plane.connect("orders", scenario.options(Synchronous::Off)).map_err(|error| error.to_string())?;
    let check: rusqlite::Result<String> =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    match check.map_err(|error| error.to_string())?.as_str() {
        "ok" => Ok(connection),
        found => Err(found.to_owned()),
    }
}

/// Makes new commits, each of which must be restorable.
fn commit_more(scenario: &Scenario, plane: &ControlPlane, connection: Connection, random: &mut Random) {
    let mut later = vec![];
    for _ in 0..2 {
        let sql = "BEGIN; CREATE TABLE IF NOT EXISTS later(a); INSERT INTO later VALUES (1); COMMIT";
        connection.execute_batch(sql).unwrap();
        later.push((scenario.now(), contents(&connection)));
        if random.below(2) == 0 {
            checkpoint(&connection, random.one_of(&["PASSIVE", "RESTART", "TRUNCATE"]));
        }
    }
    if random.below(2) == 0 {
        drop(connection);
    }
    for (at, expected) in &later {
        let found =
            view(scenario, plane, *at).unwrap_or_else(|error| panic!("a later commit at {at}: {error}"));
        assert!(found == *expected, "a later commit at {at}: {}", difference(&found, expected));
    }
}

/// A log is removed only after its compressed copy is flushed: every copy without its log is intact.
fn check_compressed(archive: &Path) {
    let names = if archive.exists() { files(archive) } else { Vec::new() };
    for name in names.iter().filter(|name| name.ends_with(".wal.zst")) {
        let is_whole = || zstd::decode_all(&fs::read(archive.join(name)).unwrap()[..]).is_ok();
        assert!(names.iter().any(|log| format!("{log}.zst") == *name) || is_whole(), "{name}");
    }
}

/// A little-endian word of a file, or `None` if the file is shorter or missing.
fn word(path: &Path, number: usize) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    let word = bytes.get(number * 8..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

/// The generation of the live stamps.
pub(crate) fn live(dir: &Path) -> Option<u64> {
    word(&dir.join("archive/live.stamps"), 4)
}

/// The generations before the live one whose logs are in the archive.
///
/// A foreign process may restart a WAL whose first commits were copied into the archive. The later ones are then a gap. So with
/// `is_shared`, the log must have all stamped commits.
pub(crate) fn archived(dir: &Path, is_shared: bool) -> BTreeSet<u64> {
    let Some(live) = live(dir) else { return BTreeSet::new() };
    let archive = dir.join("archive");
    let names = files(&archive);
    let logs = names.iter().filter_map(|name| name.strip_suffix(".zst").unwrap_or(name).strip_suffix(".wal"));
    let is_whole = |number: &u64| {
        let stamps = fs::read(archive.join(format!("{number:012}.stamps")));
        !is_shared || !stamps.is_ok_and(|stamps| has_commit_after_end(&stamps))
    };
    logs.map(|number| number.parse().unwrap()).filter(|number| *number < live).filter(is_whole).collect()
}

/// Whether the last end record of a file of stamps is before the commit that precedes it.
fn has_commit_after_end(stamps: &[u8]) -> bool {
    let word = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let records = stamps.get(128..).unwrap_or_default().chunks_exact(32);
    let (mut commit, mut end) = (0, 0);
    for record in records.filter(|record| word(record) != 0) {
        let frame = word(&record[8..]) & u64::from(u32::MAX);
        match word(record).wrapping_sub(1 << 63) {
            0 => end = frame,
            1 => {}
            _ => commit = frame,
        }
    }
    commit > end
}

/// Whether an error names what is missing: a file, or a span of time.
fn names_what_is_missing(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Corrupt => {
            [".stamps", ".wal", ".db", ".delta", ".sum"].iter().any(|file| error.to_string().contains(file))
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

fn view(scenario: &Scenario, plane: &ControlPlane, at: Timestamp) -> Result<Contents> {
    let (view, _) = plane.connect_at("orders", at, scenario.options(Synchronous::Off))?;
    read_contents(&view).map_err(|error| Error::from_sqlite(&view, error))
}

fn restore(scenario: &Scenario, plane: &ControlPlane, at: Timestamp) -> Result<Contents> {
    let mut input =
        CreateDatabaseInput::new("restored", "default").with_seed(Seed::database_at("orders", at));
    if let Some(key) = scenario.key() {
        input = input.with_encryption(RemoteEncryption::inherit_cipher(key));
    }
    plane.create_database(input)?;
    let connection = plane.connect("restored", scenario.options(Synchronous::Off))?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    Ok(contents(&connection))
}
