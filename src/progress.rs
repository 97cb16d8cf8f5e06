//! Progress of long calls, and their cancellation.
//!
//! Every long call takes a value with a method `progress`, such as
//! [`ExportOptions::progress`](crate::ExportOptions::progress). The callback runs on the thread of the call.

use std::{
    fmt,
    ops::ControlFlow,
    sync::mpsc::{self, Receiver, SyncSender},
};

use crate::error::{Error, ErrorKind, Result};

/// A phase of a long call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Copies or receives data.
    Copy,
    /// Checks the integrity of an imported file.
    Check,
    /// Flushes written data to the disk.
    Sync,
}

/// The progress of a long call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Bytes processed in this phase. 0 if the phase does not count bytes.
    pub done: u64,
    /// Total bytes of this phase. `None` if unknown.
    pub total: Option<u64>,
}

/// A progress callback. [`ControlFlow::Break`] cancels the call.
pub(crate) type ProgressFn<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// The progress callback among the options of a call. The default ignores the progress.
pub(crate) struct OnProgress<'p>(Box<ProgressFn<'p>>);

impl<'p> OnProgress<'p> {
    pub(crate) fn new(callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> Self {
        Self(Box::new(callback))
    }

    pub(crate) fn callback(&mut self) -> &mut ProgressFn<'p> {
        &mut *self.0
    }
}

impl Default for OnProgress<'_> {
    fn default() -> Self {
        Self::new(no_progress)
    }
}

impl fmt::Debug for OnProgress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// Reports progress to `watch`. Fails with [`ErrorKind::Cancelled`] if the callback cancels the call.
pub(crate) fn tell(watch: &mut ProgressFn<'_>, phase: Phase, done: u64, total: Option<u64>) -> Result<()> {
    match watch(Progress { phase, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(cancelled()),
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled")
}

/// A callback that ignores progress and never cancels.
pub(crate) fn no_progress(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Creates a rendezvous channel on which a worker thread reports progress and waits for the answer of the callback.
pub(crate) fn line() -> (Teller, Listener) {
    let (told, listener) = mpsc::sync_channel(0);
    let (answer, answered) = mpsc::sync_channel(0);
    (Teller { told, answered }, Listener { listener, answer })
}

/// The end of the worker thread.
#[derive(Debug)]
pub(crate) struct Teller {
    told: SyncSender<Progress>,
    answered: Receiver<ControlFlow<()>>,
}

/// The end of the calling thread, which runs the callback.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: Receiver<Progress>,
    answer: SyncSender<ControlFlow<()>>,
}

impl Teller {
    /// Reports progress and waits for the answer, which is to break if the other end is gone.
    pub(crate) fn tell(&self, progress: Progress) -> ControlFlow<()> {
        if self.told.send(progress).is_err() {
            return ControlFlow::Break(());
        }
        self.answered.recv().unwrap_or(ControlFlow::Break(()))
    }
}

impl Listener {
    /// Passes progress to `watch` until the other end is dropped.
    pub(crate) fn listen(self, watch: &mut ProgressFn<'_>) {
        for progress in &self.listener {
            if self.answer.send(watch(progress)).is_err() {
                break;
            }
        }
    }
}
