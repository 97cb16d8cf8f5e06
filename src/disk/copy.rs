//! Copies of files, in the kernel if the file system supports it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{Disk, DiskOp, failed, storage};
use crate::error::{Error, Result};

/// The bytes that one call of the kernel copies. Progress is reported, and a copy can be cancelled, between two calls.
const COPY_STEP: u64 = 16 << 20;

/// The buffer of copies that the kernel does not support.
const BUFFER_LEN: usize = 128 << 10;

/// A copy of the beginning of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileCopy<'a> {
    pub(crate) from: &'a File,
    pub(crate) to: &'a File,
    pub(crate) to_path: &'a Path,
    /// The number of bytes to copy.
    pub(crate) len: u64,
}

impl Disk {
    /// Makes `to` share the blocks of `from`. Returns `false` if the file system does not support this.
    pub(crate) fn clone_file(&self, from: &File, to: &File, to_path: &Path) -> Result<bool> {
        self.step(DiskOp::Write, to_path, || storage::at(to_path).clone_file(from, to, to_path))
            .map_err(|error| failed("cloning to", to_path, error))
    }

    /// Copies a file, and returns how many bytes were copied: fewer than [`len`](FileCopy::len) if the source is shorter or `go_on`,
    /// which is called with the bytes copied so far, returns `false`.
    pub(crate) fn copy(&self, copy: FileCopy<'_>, mut go_on: impl FnMut(u64) -> bool) -> Result<u64> {
        let FileCopy { from, to, to_path, len } = copy;
        let storage = storage::at(to_path);
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < len && go_on(done) {
            let want = usize::try_from((len - done).min(COPY_STEP)).unwrap_or(usize::MAX);
            let copied = self.step(DiskOp::Write, to_path, || {
                if buffer.is_empty() {
                    match storage.copy_range(from, to, to_path, done..done + want as u64)? {
                        Some(count) => return Ok(count),
                        None => buffer.resize(BUFFER_LEN, 0),
                    }
                }
                let want = want.min(buffer.len());
                let count = storage.read_at(from, to_path, &mut buffer[..want], done)?;
                storage.write_at(to, to_path, &buffer[..count], done)?;
                Ok(count as u64)
            });
            match copied.map_err(|error| failed("copying to", to_path, error))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Calls `write` with each piece that `from` yields, and the offset of the piece.
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
