//! Tampering by an attacker who can write to the files of an encrypted database. Reads then return the right data,
//! the data of an earlier commit, or an error; what cannot be detected is listed here as such.

mod database_file;
mod file_identity;
mod journal;
mod open_files;
mod random;
mod specimen;
mod truncated_file;
mod wal;

use std::{collections::BTreeSet, fmt::Write as _};

use litefleet::{Cipher, PageFormat};
use specimen::{Files, Harness, Outcome, Reading, Specimen, specimen, words};

/// One cipher of each family.
const CIPHERS: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::Aegis128X2, Cipher::Aegis256];

/// The files that are tampered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// A closed database.
    Rest,
    /// A database with its newest three commits in the WAL.
    Log,
    /// A database whose WAL ends in the middle of a transaction.
    Unfinished,
    /// A database with a half-written transaction and its rollback journal.
    Hot,
    /// The files of `Hot` outside the fleet: SQL attaches them by path, and SQLite rolls the journal back.
    Attached,
}

impl Base {
    /// The files, and the index of the newest commit in them.
    fn files(self, specimen: &Specimen) -> (Files, usize) {
        match self {
            Self::Rest => (specimen.rest.clone(), 1),
            Self::Log => (specimen.log.clone(), 4),
            Self::Unfinished => (specimen.unfinished.clone(), 4),
            Self::Hot | Self::Attached => (specimen.hot.clone(), 4),
        }
    }

    fn read(self, harness: &Harness, files: &Files) -> Reading {
        if self == Self::Attached {
            return harness.read_attached(files);
        }
        harness.put(files);
        harness.read()
    }
}

/// One way to tamper, with all of its possible outcomes.
struct Tampering {
    name: &'static str,
    base: Base,
    /// Number of variants.
    times: usize,
    apply: fn(&Specimen, &mut Files, usize),
    native: &'static [Outcome],
    turso: &'static [Outcome],
}

/// A deterministic pseudo-random generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = u8::try_from(self.below(256)).unwrap();
        }
    }
}

/// Flips one bit, zeroes the bytes, or fills them at random, depending on `time`.
fn damage(bytes: &mut [u8], time: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (time as u64 * 2 + 1));
    random.below(2);
    match time % 3 {
        0 => {
            let at = (time / 3 * 7 + time / 3) % bytes.len();
            bytes[at] ^= 1 << random.below(8);
        }
        1 => bytes.fill(0),
        _ => random.fill(bytes),
    }
}

#[test]
fn tampering_yields_the_listed_outcomes() {
    let tables = [database_file::TABLE, wal::TABLE, journal::TABLE];
    let all: Vec<&Tampering> = tables.into_iter().flatten().collect();
    let mut seen = vec![[BTreeSet::new(), BTreeSet::new()]; all.len()];
    let mut wrong = String::new();
    for cipher in CIPHERS {
        for (column, format) in [PageFormat::Native, PageFormat::Turso].into_iter().enumerate() {
            let specimen = specimen(cipher, format);
            let harness = Harness::new(&specimen);
            for base in [Base::Rest, Base::Log, Base::Unfinished, Base::Hot, Base::Attached] {
                let (files, newest) = base.files(&specimen);
                let reading = base.read(&harness, &files);
                assert_eq!(
                    Outcome::of(&specimen, newest, &reading),
                    if matches!(base, Base::Hot) { Outcome::Refused("corrupt") } else { Outcome::Right },
                    "{cipher} {format} {base:?}"
                );
            }
            for (tampering, seen) in all.iter().zip(&mut seen) {
                let (intact, newest) = tampering.base.files(&specimen);
                for time in 0..tampering.times {
                    let mut files = intact.clone();
                    (tampering.apply)(&specimen, &mut files, time);
                    // This variant zeroed bytes that were zero.
                    if files == intact {
                        continue;
                    }
                    let outcome = Outcome::of(&specimen, newest, &tampering.base.read(&harness, &files));
                    let expected = [tampering.native, tampering.turso][column];
                    if !expected.contains(&outcome) {
                        writeln!(wrong, "{cipher} {format}: {} ({time}): {outcome:?}", tampering.name)
                            .unwrap();
                    }
                    seen[column].insert(outcome);
                }
            }
        }
    }
    println!("| tampering | native | turso |\n|---|---|---|");
    for (tampering, [native, turso]) in all.iter().zip(&seen) {
        println!("| {} | {} | {} |", tampering.name, words(native), words(turso));
        // An expected outcome that never occurs is an error in the table.
        for (expected, seen) in [(tampering.native, native), (tampering.turso, turso)] {
            if *seen != expected.iter().copied().collect() {
                writeln!(wrong, "{}: {seen:?}, not {expected:?}", tampering.name).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
