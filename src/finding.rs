//! The results of a verification.

use std::{fmt, path::PathBuf};

/// Damage or an inconsistency in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Finding {
    /// The affected file.
    pub file: PathBuf,
    /// The affected frame of the WAL, numbered from 1. `None` if the file has no frames or the whole file is affected.
    pub frame: Option<u32>,
    /// The affected page of the database, numbered from 1. `None` if the finding concerns no single page.
    pub page: Option<u32>,
    /// A sentence that describes the fault.
    pub message: String,
}

/// The report of [`verify_database`](crate::ControlPlane::verify_database).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The faults. Empty if the database and its history are intact.
    pub findings: Vec<Finding>,
    /// Commits with stamps.
    pub commits: u64,
    /// WALs that were verified, including the live one.
    pub logs: u64,
    /// Snapshots that were verified.
    pub snapshots: u64,
    /// Bytes read from WALs, snapshots and the database file.
    pub bytes: u64,
    /// Whether the authentication tag of every page was verified. `true` only for an encrypted database with its key.
    pub tags: bool,
}

impl Finding {
    pub(crate) fn new(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self { file: file.into(), frame: None, page: None, message: message.into() }
    }

    pub(crate) fn frame(self, frame: u32) -> Self {
        Self { frame: Some(frame), ..self }
    }

    pub(crate) fn page(self, page: u32) -> Self {
        Self { page: Some(page), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(frame) = self.frame {
            write!(f, ", frame {frame}")?;
        }
        if let Some(page) = self.page {
            write!(f, ", page {page}")?;
        }
        write!(f, ": {}", self.message)
    }
}
