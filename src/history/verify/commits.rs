//! Stamps against the frames that they name.

use std::path::Path;

use super::run::Run;
use crate::{
    finding::Finding,
    history::{errors::shown, log::Log},
    stamps::{CommitRecord, Stamps},
    units::FrameNumber,
};

/// The committed frames of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    /// The last one, or `None` if the log has no commits.
    pub(super) last: Option<FrameNumber>,
}

/// The commits of a generation. `committed` is `None` if the committed frames of its log are not known.
pub(super) fn of(stamps: &Stamps, committed: Option<Committed>) -> Vec<CommitRecord> {
    match committed {
        Some(Committed { last }) => stamps.commits_up_to(last),
        None => stamps.commits(),
    }
}

/// Checks that every stamp names a commit frame.
pub(super) fn check(run: &mut Run<'_>, path: &Path, stamps: &Stamps, log: &Log, last: Option<FrameNumber>) {
    for record in stamps.commits_up_to(last) {
        let CommitRecord::Commit(commit) = record else { continue };
        // The log has no frames after a damaged one. The damaged frame has its own finding.
        let Some(frame) = log.frame(commit.frame) else { continue };
        if frame.commit != Some(commit.pages) {
            let message = format!("it does not end the commit of {}", shown(commit.at));
            run.found(Finding::new(path, message).frame(commit.frame.get()));
        }
    }
}
