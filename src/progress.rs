//! How far a long call has come, and the way to stop it.

use std::{
    ops::ControlFlow,
    sync::mpsc::{self, Receiver, SyncSender},
};

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
/// behind and returns [`ErrorKind::Cancelled`]. It is called on the thread of the call itself.
pub type ProgressFn<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Tells `watch` and returns its answer as a result.
pub(crate) fn tell(watch: &mut ProgressFn<'_>, phase: Phase, done: u64, total: Option<u64>) -> Result<()> {
    match watch(Progress { phase, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(cancelled()),
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled")
}

/// Watches nothing, for a long call that is to run to its end.
pub fn no_progress(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The ends of a line on which one thread tells another how far it has come, and waits for its answer.
pub(crate) fn line() -> (Teller, Listener) {
    let (told, listener) = mpsc::sync_channel(0);
    let (answer, answered) = mpsc::sync_channel(0);
    (Teller { told, answered }, Listener { listener, answer })
}

/// The end at which the work is done.
#[derive(Debug)]
pub(crate) struct Teller {
    told: SyncSender<Progress>,
    answered: Receiver<ControlFlow<()>>,
}

/// The end at which the caller waits.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: Receiver<Progress>,
    answer: SyncSender<ControlFlow<()>>,
}

impl Teller {
    /// Tells and waits for the answer. If nobody listens any more, that is to break.
    pub(crate) fn tell(&self, progress: Progress) -> ControlFlow<()> {
        if self.told.send(progress).is_err() {
            return ControlFlow::Break(());
        }
        self.answered.recv().unwrap_or(ControlFlow::Break(()))
    }
}

impl Listener {
    /// Passes on to `watch` whatever is told, until the other end is dropped.
    pub(crate) fn listen(self, watch: &mut ProgressFn<'_>) {
        for progress in &self.listener {
            if self.answer.send(watch(progress)).is_err() {
                break;
            }
        }
    }
}
