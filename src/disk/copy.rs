//! Copies of files, in the kernel where the file system supports it.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::fs as unix;

use super::{Disk, DiskOp, failed, no_such_way};
use crate::error::{Error, Result};

/// How far a copy gets in one call of the kernel, so that progress can be told and the caller can cancel.
const COPY_STEP: u64 = 16 << 20;

/// The buffer of copies that do not stay in the kernel.
const BUFFER_LEN: usize = 128 << 10;

impl Disk {
    /// Makes `to` share the blocks of `from`, where the file system can, and says whether it could.
    pub(crate) fn clone_file(&self, from: &File, to: &File, to_path: &Path) -> Result<bool> {
        match self.step(DiskOp::Write, to_path, || unix::ioctl_ficlone(to, from).map_err(io::Error::from)) {
            Ok(()) => Ok(true),
            // Not this file system, not across file systems, not this kind of file.
            Err(error) if no_such_way(&error) => Ok(false),
            Err(error) => Err(failed("cloning to", to_path, error)),
        }
    }

    /// Copies the first `len` bytes of `from` to the start of `to`, in the kernel where it can. Stops early, and
    /// says how far it came, where `from` ends early or `go_on`, which is told the bytes so far, says so.
    pub(crate) fn copy(
        &self,
        from: &File,
        to: &File,
        to_path: &Path,
        len: u64,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64> {
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < len && go_on(done) {
            let want = (len - done).min(COPY_STEP);
            let in_kernel = buffer.is_empty();
            let copied = self.step(DiskOp::Write, to_path, || {
                if in_kernel {
                    let (mut read_at, mut write_at) = (done, done);
                    let want = usize::try_from(want).unwrap_or(usize::MAX);
                    match unix::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
                        Err(error) if no_such_way(&error.into()) => buffer.resize(BUFFER_LEN, 0),
                        copied => return copied.map(|count| count as u64).map_err(io::Error::from),
                    }
                }
                let want = usize::try_from(want).unwrap_or(usize::MAX).min(buffer.len());
                let count = from.read_at(&mut buffer[..want], done)?;
                to.write_all_at(&buffer[..count], done)?;
                Ok(count as u64)
            });
            match copied.map_err(|error| failed("copying to", to_path, error))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Hands all that `from` yields to `write`, piece by piece, with the place of each.
    pub(crate) fn drain(from: &mut dyn Read, mut write: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut done = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("reading the uploaded file", error)),
            };
            write(&buffer[..count], done)?;
            done += count as u64;
        }
    }
}
