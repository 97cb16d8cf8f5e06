//! Signals that ask to stop: the work that runs is cancelled and cleans up.

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

/// The exit code of a program that a second Ctrl-C ends.
const INTERRUPTED: i32 = 130;

/// How long SIGTERM and SIGHUP wait for the work to clean up. It may be waiting for its input, which nothing interrupts.
const GRACE: Duration = Duration::from_secs(5);

/// Whether the user asked to stop since the last [`forget`].
static ASKED: AtomicBool = AtomicBool::new(false);

/// The signal that is to end the program once the work has been cancelled, or 0.
static ENDING: AtomicI32 = AtomicI32::new(0);

/// From now on Ctrl-C does not end the program but calls `then`.
pub(super) fn on_interrupt(mut then: impl FnMut() + Send + 'static) -> Result<()> {
    handle(vec![SIGINT], move |_| {
        ASKED.store(true, SeqCst);
        then();
    })
}

/// From now on Ctrl-C, SIGTERM and SIGHUP do not end the program at once: the work that runs sees that it [is asked](is_asked)
/// to stop. A second signal ends the program.
///
/// A hangup that the parent had ignored stays ignored, as `nohup` wants it.
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
        if ASKED.swap(true, SeqCst) {
            end_by(signal);
        }
        if signal != SIGINT {
            ENDING.store(signal, SeqCst);
            let _not_waited_for = thread::Builder::new().spawn(move || {
                thread::sleep(GRACE);
                end_by(signal);
            });
        }
    })
}

fn handle(signals: Vec<c_int>, mut then: impl FnMut(c_int) + Send + 'static) -> Result<()> {
    let run = || {
        let mut signals = Signals::new(signals)?;
        thread::Builder::new()
            .name("litefleet-signals".into())
            .spawn(move || signals.forever().for_each(&mut then))
    };
    run().map(|_| ()).map_err(|error| Error::new(ErrorKind::Io, format!("listening for signals: {error}")))
}

/// Ends the program as `signal` does a program that does not handle it.
fn end_by(signal: c_int) {
    if signal != SIGINT {
        let _it_ends = emulate_default_handler(signal);
    }
    std::process::exit(INTERRUPTED);
}

/// Ends the program by the signal that cancelled its work, if one other than Ctrl-C did: the parent sees that signal.
pub(crate) fn end_if_cancelled(error: &Error) {
    match ENDING.load(SeqCst) {
        0 => {}
        signal if error.kind() == ErrorKind::Cancelled => end_by(signal),
        _ => {}
    }
}

/// Whether the parent process had a signal ignored.
fn is_ignored(signal: c_int) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

pub(crate) fn is_asked() -> bool {
    ASKED.load(SeqCst)
}

/// Clears a pending request to stop.
pub(crate) fn forget() {
    ASKED.store(false, SeqCst);
}
