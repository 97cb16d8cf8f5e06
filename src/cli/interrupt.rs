//! Signals that cancel the running command, which then cleans up.

use std::{
    ffi::c_int,
    sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    thread,
    time::Duration,
};

use litefleet::{Error, ErrorKind, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

/// The exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// How long SIGTERM and SIGHUP wait for the command to clean up. It may block on its input, which cannot be interrupted.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a signal has arrived since the last [`reset`].
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The signal that ends the process once the command is cancelled, or 0.
static TERMINATING: AtomicI32 = AtomicI32::new(0);

/// Makes Ctrl-C call `handler` instead of ending the process.
pub(super) fn on_interrupt(mut handler: impl FnMut() + Send + 'static) -> Result<()> {
    handle(vec![SIGINT], move |_| {
        REQUESTED.store(true, SeqCst);
        handler();
    })
}

/// Makes Ctrl-C, SIGTERM and SIGHUP [request a cancellation](is_requested) instead of ending the process. A second signal ends it.
///
/// A SIGHUP that is ignored, as under `nohup`, stays ignored.
pub(super) fn cancel_on_signals() -> Result<()> {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, SeqCst) {
        return Ok(());
    }
    let mut signals = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    handle(signals, |signal| {
        if REQUESTED.swap(true, SeqCst) {
            terminate_by(signal);
        }
        if signal != SIGINT {
            TERMINATING.store(signal, SeqCst);
            let _not_joined = thread::Builder::new().spawn(move || {
                thread::sleep(CLEANUP_TIMEOUT);
                terminate_by(signal);
            });
        }
    })
}

fn handle(signals: Vec<c_int>, mut handler: impl FnMut(c_int) + Send + 'static) -> Result<()> {
    let run = || {
        let mut signals = Signals::new(signals)?;
        thread::Builder::new()
            .name("litefleet-signals".into())
            .spawn(move || signals.forever().for_each(&mut handler))
    };
    run()
        .map(|_| ())
        .map_err(|error| Error::new(ErrorKind::Io, format!("installing signal handlers: {error}")))
}

/// Ends the process as `signal` does by default.
fn terminate_by(signal: c_int) {
    if signal != SIGINT {
        let _not_reached = emulate_default_handler(signal);
    }
    std::process::exit(INTERRUPTED);
}

/// Ends the process by the signal that cancelled the command, unless it was Ctrl-C, so that the parent sees the signal.
pub(crate) fn terminate_if_cancelled(error: &Error) {
    match TERMINATING.load(SeqCst) {
        0 => {}
        signal if error.kind() == ErrorKind::Cancelled => terminate_by(signal),
        _ => {}
    }
}

/// Whether the process inherited an ignored signal. `false` where `/proc` does not show it.
fn is_ignored(signal: c_int) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Whether a signal has requested a cancellation.
pub(crate) fn is_requested() -> bool {
    REQUESTED.load(SeqCst)
}

/// Clears a requested cancellation.
pub(crate) fn reset() {
    REQUESTED.store(false, SeqCst);
}
