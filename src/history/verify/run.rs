//! The state of one verification.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::{Error, ErrorKind, Result},
    finding::{Finding, VerifyReport},
    history::{
        archive::{Archive, NumberedFile},
        timeline::{Birth, Origin},
    },
    layout::ArchiveFile,
    progress::{self, Phase, ProgressFn},
    stamps::Stamps,
    units::{GenerationNumber, PageNumber},
};

/// Maximum number of observations of what keeps changing, and how much longer each attempt waits than the one before.
pub(super) const ATTEMPTS: u32 = 30;
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// Maximum number of findings in one file that are reported one by one.
const LISTED_MAX: usize = 20;

/// Opens a page in place. Returns whether its tag matches.
pub(crate) type Tag<'a> = dyn Fn(u32, &mut [u8]) -> bool + Sync + 'a;

/// The input of a verification.
pub(crate) struct Subject<'a> {
    /// The database file.
    pub(crate) data: &'a Path,
    pub(crate) birth: Birth,
    /// The size of a page in bytes.
    pub(crate) page_size: u32,
    /// `None` if tags are not checked.
    pub(crate) tag: Option<&'a Tag<'a>>,
}

impl Subject<'_> {
    /// Opens a page in place. Returns whether its tag matches or is not checked.
    pub(super) fn is_authentic(&self, page: PageNumber, contents: &mut [u8]) -> bool {
        self.tag.is_none_or(|tag| tag(page.get(), contents))
    }
}

/// One verification.
pub(super) struct Run<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) origin: &'a Origin,
    pub(super) watch: &'a mut ProgressFn<'a>,
    /// Archived files that were checked without a finding.
    pub(super) done: BTreeSet<NumberedFile>,
    pub(super) bytes: u64,
    pub(super) report: VerifyReport,
}

/// The stamps that could be read.
pub(super) type KnownStamps = BTreeMap<GenerationNumber, Stamps>;

impl<'a> Run<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, origin: &'a Origin, watch: &'a mut ProgressFn<'a>) -> Self {
        Self { subject, origin, watch, done: BTreeSet::new(), bytes: 0, report: VerifyReport::default() }
    }

    pub(super) fn found(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    /// Reports a file that makes a restore fail, unless another finding explains the failure.
    pub(super) fn found_if_unexplained(&mut self, error: &Error, path: &Path) {
        if self.report.findings.is_empty() {
            self.found(Finding::new(path, error.without_path()));
        }
    }

    /// Reports progress. The caller may cancel here.
    pub(super) fn read(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        progress::tell(self.watch, Phase::Check, self.bytes, None)
    }

    pub(super) fn finish(self) -> VerifyReport {
        VerifyReport { bytes: self.bytes, ..self.report }
    }

    pub(super) fn ended(&self) -> &'a Archive {
        &self.origin.ended
    }

    /// The path of a numbered file.
    pub(super) fn file(&self, number: GenerationNumber, file: ArchiveFile) -> PathBuf {
        self.origin.ended.path(number, file)
    }
}

/// Findings in one file, of which only some are reported one by one.
#[derive(Debug, Default)]
pub(super) struct Listed(usize);

impl Listed {
    pub(super) fn add(&mut self, run: &mut Run<'_>, finding: Finding) {
        self.0 += 1;
        if self.0 <= LISTED_MAX {
            run.found(finding);
        }
    }

    /// Reports the number of findings that were not reported one by one. `what` is the plural of what they are about.
    pub(super) fn finish(&self, run: &mut Run<'_>, path: &Path, what: &str) {
        if let Some(more) = self.0.checked_sub(LISTED_MAX).filter(|more| *more > 0) {
            run.found(Finding::new(path, format!("{more} more {what} have such a fault")));
        }
    }
}

/// A page whose tag does not match.
pub(super) fn tag_finding(path: &Path, page: PageNumber) -> Finding {
    Finding::new(path, "its tag does not match: it is damaged or was tampered with").page(page.get())
}

/// The name of another file in the message of a finding.
pub(super) fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

/// `None` for an error that is reported where the damage is.
pub(super) fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        result => result.map(Some),
    }
}
