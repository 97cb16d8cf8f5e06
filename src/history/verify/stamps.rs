//! The files of stamps.

use std::{collections::BTreeSet, path::Path};

use super::{
    observation::Observation,
    run::{KnownStamps, Run, file_name},
};
use crate::{
    disk::Disk,
    error::{ErrorKind, Result},
    finding::Finding,
    history::stamp_file::check_version,
    layout::ArchiveFile,
    stamps::{Lineage, Slot, Stamps},
    units::GenerationNumber,
};

const INVALID_HEADER: &str = "it is damaged: invalid header";

/// Checks the live stamps, and those of the current WAL.
pub(super) fn check_live(run: &mut Run<'_>, observation: &Observation) {
    let path = run.origin.paths.live_stamps();
    match observation.live.as_deref().map(Stamps::parse) {
        None => {}
        Some(None) => run.found(Finding::new(&path, INVALID_HEADER)),
        Some(Some(stamps)) => check_records(run, &path, &stamps),
    }
    if let Some(current) = observation.current.as_ref().filter(|current| current.path != path) {
        check_records(run, &current.path, &current.stamps);
    }
}

/// Checks the stamps of all generations, and returns those that are valid.
pub(super) fn check_all(run: &mut Run<'_>, observation: &Observation) -> Result<KnownStamps> {
    let current = observation.current.as_ref();
    let mut known = KnownStamps::new();
    known.extend(current.map(|current| (current.stamps.generation.number, current.stamps.clone())));
    for number in observation.numbers(ArchiveFile::Stamps) {
        let path = run.file(number, ArchiveFile::Stamps);
        if current.is_some_and(|current| current.path == path) {
            continue;
        }
        // If the file is pruned or renamed concurrently, the next observation shows it.
        let bytes = match run.ended().read(number, ArchiveFile::Stamps) {
            // The pack with the stamps is damaged, which is a finding.
            Err(error) if error.kind() == ErrorKind::Corrupt => continue,
            bytes => bytes?,
        };
        check_version(&path, bytes.as_deref().unwrap_or_default())?;
        match bytes.as_deref().map(Stamps::parse) {
            None => run.found(Finding::new(&path, "it is gone")),
            Some(None) => run.found(Finding::new(&path, INVALID_HEADER)),
            Some(Some(stamps)) if stamps.generation.number != number => {
                let message = format!("it belongs to generation {}", stamps.generation.number);
                run.found(Finding::new(&path, message));
            }
            Some(Some(_)) if known.contains_key(&number) => {
                let live = run.origin.paths.live_stamps();
                let message = format!("{} belongs to the same generation", file_name(&live));
                run.found(Finding::new(&path, message));
            }
            Some(Some(stamps)) => {
                check_records(run, &path, &stamps);
                known.insert(number, stamps);
            }
        }
    }
    Ok(known)
}

fn check_records(run: &mut Run<'_>, path: &Path, stamps: &Stamps) {
    if stamps.generation.database != run.subject.birth.database {
        run.found(Finding::new(path, "it belongs to another database"));
    }
    for (number, slot) in (1..).zip(&stamps.slots) {
        if *slot == Slot::Damaged {
            let message = format!("record {number} of {} is damaged", stamps.slots.len());
            run.found(Finding::new(path, message));
        }
    }
}

/// Reports missing stamps of generations that have other files.
pub(super) fn check_missing(run: &mut Run<'_>, observation: &Observation, known: &KnownStamps) {
    let current = observation.current.as_ref();
    let newest = observation
        .numbers(ArchiveFile::Stamps)
        .chain(current.map(|current| current.stamps.generation.number))
        .max();
    let mut reported = BTreeSet::new();
    for (number, file) in &observation.files {
        if known.contains_key(number) || observation.has(*number, ArchiveFile::Stamps) {
            continue;
        }
        let is_after_newest = newest.is_none_or(|newest| *number > newest);
        // A process takes the snapshot before it writes the stamps of its generation. It may be killed in between.
        let is_begun =
            is_after_newest && file.is_of_snapshot() && (newest.is_some() || observation.wal.is_empty());
        // Damaged live stamps have their own finding.
        let is_live_damaged = observation.live.is_some() && current.is_none();
        if is_begun || is_live_damaged || !reported.insert(*number) {
            continue;
        }
        let path = if is_after_newest && current.is_none() {
            run.origin.paths.live_stamps()
        } else {
            run.file(*number, ArchiveFile::Stamps)
        };
        let of = run.file(*number, *file);
        let message = format!("it is missing, and {} is useless without it", file_name(&of));
        run.found(Finding::new(path, message));
    }
}

/// Checks that each generation continues the one before it.
pub(super) fn check_links(run: &mut Run<'_>, observation: &Observation, known: &KnownStamps) {
    let path_of = |run: &Run<'_>, number: GenerationNumber| match &observation.current {
        Some(current) if current.stamps.generation.number == number => current.path.clone(),
        _ => run.file(number, ArchiveFile::Stamps),
    };
    let mut before: Option<&Stamps> = None;
    for (number, stamps) in known {
        let Some(previous) = before.replace(stamps) else { continue };
        let mut missing = previous.generation.number.next();
        while missing < *number {
            let path = path_of(run, missing);
            // A damaged file has its own finding.
            if !Disk::exists(&path).unwrap_or(true) {
                run.found(Finding::new(path, "it is missing: the history has a hole"));
            }
            missing = missing.next();
        }
        let Lineage::Continues { digest, end } = stamps.generation.lineage else { continue };
        if previous.generation.number.next() != *number {
            continue;
        }
        let path = path_of(run, previous.generation.number);
        if digest != previous.digest {
            let may_be_previous = previous.end().is_none_or(|found| found == end);
            let message = if may_be_previous {
                "some of its stamps were lost with the power, or it was changed: its instants cannot be restored".to_owned()
            } else {
                format!(
                    "generation {number} does not continue it: it was changed, or belongs to another history"
                )
            };
            run.found(Finding::new(path, message));
        } else if previous.end().is_none() {
            run.found(Finding::new(path, "it does not say how its generation ended"));
        }
    }
}
