//! What a verification finds.

use std::{fmt, path::PathBuf};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The frame of the log, from 1, if it is in one.
    pub frame: Option<u32>,
    /// The page of the database, from 1, if it is in one.
    pub page: Option<u32>,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// What was verified, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What is not as it was written. Nothing means that all is well.
    pub findings: Vec<Finding>,
    /// Commits that have stamps.
    pub commits: u64,
    /// Logs that were looked through, the live one included.
    pub logs: u64,
    /// Snapshots that were looked through.
    pub snapshots: u64,
    /// Bytes that were read of logs, snapshots and the database file.
    pub bytes: u64,
    /// Whether the tag of every page was checked: of an encrypted database, with its key.
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
