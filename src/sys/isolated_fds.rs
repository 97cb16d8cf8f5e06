//! Isolated descriptors: a thread with its own descriptor table, in which only the standard descriptors are open.
//!
//! POSIX drops all locks of a process on a file when the process closes *any* descriptor of that file, whichever code opened
//! it, and SQLite relies on these locks. On Linux they belong to the descriptor table. A thread with its own table can
//! therefore open, read and close a database by its path while connections of this process have it open.

use std::{io, mem::MaybeUninit, panic::resume_unwind, ptr, thread};

use crate::error::{Error, Result};

/// Runs `run` with isolated descriptors.
///
/// No open file may be moved into `run` or out of it: a descriptor is meaningless in another table.
pub(crate) fn run<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    run_while(run, || ())
}

/// Runs `run` with isolated descriptors, and `meanwhile` on the calling thread.
///
/// Callbacks of the host belong in `meanwhile`, where the host's descriptors are open.
pub(crate) fn run_while<T: Send>(run: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> Result<T> {
    let ran = thread::scope(|scope| {
        let isolated = move || isolate().map(|()| run());
        let running = thread::Builder::new().name("litefleet-copy".into()).spawn_scoped(scope, isolated)?;
        meanwhile();
        running.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    ran.map_err(|error| Error::io("starting a thread with its own descriptor table", error))
}

/// Gives the calling thread its own descriptor table and closes all but the standard descriptors in it.
///
/// The thread must be new and own no descriptor.
fn isolate() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // A signal handler of the host that writes to one of its descriptors would write to whichever file has that number here.
    let mut all = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initializes the set, which `pthread_sigmask` then reads. The mask is that of this thread alone, and
    // the null pointer says that the previous mask is not wanted.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut());
    }
    // SAFETY: the call takes three integers and no pointer. `CLOSE_RANGE_UNSHARE` copies the descriptor table before any
    // descriptor is closed, so the tables of other threads keep theirs. No value of this thread owns a descriptor: the thread
    // is new, and its closure moves none in.
    let code =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
