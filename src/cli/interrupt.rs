//! Ctrl-C: what is running stops, and the program goes on from there.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use litefleet::{Error, ErrorKind, Result};

/// Whether somebody asked to stop since the last [`forget`].
static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C does not end the program: it calls `then`, which is told whether it came before.
pub(crate) fn listen(mut then: impl FnMut(bool) + Send + 'static) -> Result<()> {
    ctrlc::set_handler(move || then(ASKED.swap(true, SeqCst)))
        .map_err(|error| Error::new(ErrorKind::Io, format!("listening for Ctrl-C: {error}")))
}

pub(crate) fn is_asked() -> bool {
    ASKED.load(SeqCst)
}

/// What was asked for is done.
pub(crate) fn forget() {
    ASKED.store(false, SeqCst);
}
