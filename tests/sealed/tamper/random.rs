//! Random tampering: any bytes of a file or its WAL, in any way.

use litefleet::PageFormat;

use super::{
    CIPHERS, Random,
    specimen::{Harness, Outcome, specimen},
    wal::relink,
};

/// Rounds per database, unless `LITEFLEET_TAMPER_ROUNDS` overrides it.
const ROUNDS: usize = 120;

/// Mutates some bytes, without putting a whole page at the number of another.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    let len = (1 + random.below(300)).min(bytes.len() - at);
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at..at + len].fill(0),
        2 => random.fill(&mut bytes[at..at + len]),
        3 => {
            let from = random.below(bytes.len() - len + 1);
            bytes.copy_within(from..from + len, at);
        }
        4 => bytes.truncate(at),
        5 => {
            bytes.drain(at..at + len);
        }
        _ => {
            let more = bytes[at..at + len].to_vec();
            bytes.splice(at..at, more);
        }
    }
}

#[test]
fn random_tampering_yields_right_data_earlier_commit_or_error() {
    let rounds = std::env::var("LITEFLEET_TAMPER_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut seen = std::collections::BTreeMap::new();
    for cipher in CIPHERS {
        for format in [PageFormat::Native, PageFormat::Turso] {
            let specimen = specimen(cipher, format);
            let harness = Harness::new(&specimen);
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            for round in 0..rounds {
                let (name, mut files, newest) = match round % 3 {
                    0 => ("file", specimen.rest.clone(), 1),
                    1 => ("file beside a WAL", specimen.log.clone(), 4),
                    _ => ("log", specimen.log.clone(), 4),
                };
                let in_log = name == "log";
                for _ in 0..=random.below(3) {
                    let bytes = if in_log { files.wal() } else { &mut files.data };
                    if bytes.len() > 300 {
                        mutate(bytes, &mut random);
                    }
                }
                // WAL checksums are not secret.
                let valid = in_log && files.wal().len() > 32 && random.below(2) == 0;
                if valid {
                    relink(files.wal());
                }
                harness.put(&files);
                let outcome = Outcome::of(&specimen, newest, &harness.read());
                let right = match outcome {
                    Outcome::Right | Outcome::Refused(_) => true,
                    Outcome::Earlier(_) => in_log,
                    _ => false,
                };
                assert!(right, "{cipher} {format}, round {round}, {name}, valid: {valid}: {outcome:?}");
                let outcome = if let Outcome::Earlier(_) = outcome { Outcome::Earlier(0) } else { outcome };
                *seen.entry((name, outcome)).or_insert(0) += 1;
            }
        }
    }
    println!("{seen:?}");
    for expected in [
        ("file", Outcome::Refused("corrupt")),
        ("file beside a WAL", Outcome::Right),
        ("log", Outcome::Earlier(0)),
    ] {
        assert!(seen.contains_key(&expected), "{expected:?} never occurred: {seen:?}");
    }
}
