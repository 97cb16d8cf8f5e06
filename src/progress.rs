//! How far a long call has come, and the way to stop it.

use std::ops::ControlFlow;

use crate::error::{Error, ErrorKind, Result};

/// What a long call is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Bytes are copied or received.
    Copy,
    /// The integrity of an imported file is checked.
    Check,
    /// What was copied is flushed to the disk.
    Sync,
}

/// How far a long call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes done in this phase; 0 where the phase does not count.
    pub done: u64,
    /// Bytes to do in this phase, where that is known.
    pub total: Option<u64>,
}

/// Is told how far a long call has come, and says whether to go on: a call that is told to break leaves nothing
/// behind and returns [`ErrorKind::Cancelled`]. It may be called on another thread than the caller's.
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + Send + 'a;

/// Tells `watch` and returns its answer as a result.
pub(crate) fn tell(watch: &mut Watch<'_>, phase: Phase, done: u64, total: Option<u64>) -> Result<()> {
    match watch(Progress { phase, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(cancelled()),
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled")
}

/// Watches nothing.
pub(crate) fn unwatched(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
