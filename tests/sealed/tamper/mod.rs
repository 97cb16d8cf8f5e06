//! Whoever can write to the files of an encrypted database tampers with them. What is read then is right, or what stood
//! there at an earlier commit, or an error; and what cannot be noticed is listed here as such.

mod data;
mod emptied;
mod identity;
mod journal;
mod live;
mod log;
mod random;
mod specimen;

use std::{collections::BTreeSet, fmt::Write as _};

use litefleet::{Cipher, PageFormat};
use specimen::{Bench, Files, Outcome, Reading, Specimen, specimen, words};

/// A cipher of each family.
const CIPHERS: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::Aegis128X2, Cipher::Aegis256];

/// Which files are tampered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// A database at rest.
    Rest,
    /// One whose newest three commits are in its log.
    Log,
    /// One with a log that ends in the middle of a transaction.
    Unfinished,
    /// One with a rollback journal of a transaction that is half written.
    Hot,
    /// The same outside of the fleet, where SQL attaches it by its path and SQLite rolls journals back.
    Attached,
}

impl Base {
    /// The files, and the commit that is the newest in them.
    fn files(self, specimen: &Specimen) -> (Files, usize) {
        match self {
            Self::Rest => (specimen.rest.clone(), 1),
            Self::Log => (specimen.log.clone(), 4),
            Self::Unfinished => (specimen.unfinished.clone(), 4),
            Self::Hot | Self::Attached => (specimen.hot.clone(), 4),
        }
    }

    fn read(self, bench: &Bench, files: &Files) -> Reading {
        if self == Self::Attached {
            return bench.read_attached(files);
        }
        bench.put(files);
        bench.read()
    }
}

/// One way to tamper, and all that can come of it.
struct Tampering {
    name: &'static str,
    base: Base,
    /// How many times it is done, each time otherwise.
    times: usize,
    apply: fn(&Specimen, &mut Files, usize),
    native: &'static [Outcome],
    turso: &'static [Outcome],
}

/// Numbers that look random and are the same for the same seed.
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

/// Flips one bit, or makes it all zeros, or fills it with anything.
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
fn tampering_gives_right_data_or_an_earlier_commit_or_an_error() {
    let tables = [data::TABLE, log::TABLE, journal::TABLE];
    let all: Vec<&Tampering> = tables.into_iter().flatten().collect();
    let mut seen = vec![[BTreeSet::new(), BTreeSet::new()]; all.len()];
    let mut wrong = String::new();
    for cipher in CIPHERS {
        for (column, format) in [PageFormat::Native, PageFormat::Turso].into_iter().enumerate() {
            let specimen = specimen(cipher, format);
            let bench = Bench::new(&specimen);
            for base in [Base::Rest, Base::Log, Base::Unfinished, Base::Hot, Base::Attached] {
                let (files, newest) = base.files(&specimen);
                let reading = base.read(&bench, &files);
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
                    // Zeros where zeros were.
                    if files == intact {
                        continue;
                    }
                    let outcome = Outcome::of(&specimen, newest, &tampering.base.read(&bench, &files));
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
        // What is expected and never seen is not so.
        for (expected, seen) in [(tampering.native, native), (tampering.turso, turso)] {
            if *seen != expected.iter().copied().collect() {
                writeln!(wrong, "{}: {seen:?}, not {expected:?}", tampering.name).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
