//! Unnamed files, in which SQLite sorts and keeps temporary tables and statement journals. They are encrypted under a key that
//! exists only in memory, while the file is open.
//!
//! Such a file belongs to one handle and is deleted with it. Tags, and the counters that nonces are made of, are in memory too:
//! old content cannot be replayed, and no byte is added on disk. The file is encrypted in blocks of 4096 bytes. SQLite writes to
//! it at any offset and in any length, so the block that was written last stays decrypted in memory.

use std::{ffi::c_int, sync::Arc};

use rusqlite::ffi::{
    SQLITE_FCNTL_CHUNK_SIZE, SQLITE_FCNTL_SIZE_HINT, SQLITE_IOERR, SQLITE_IOERR_DATA, SQLITE_IOERR_NOMEM,
    SQLITE_IOERR_SHORT_READ, SQLITE_OK,
};

use crate::{
    cipher::{Aead, Cipher, EncryptionKey, NONCE_LEN_MAX, TAG_LEN},
    error::Result,
    sync::{Mutex, Rank},
    sys::read_buf::ReadBuf,
    vfs::{
        file::{VfsFile, whole_pages},
        raw_file::{Buffer, RawFile},
    },
};

/// The cipher of these files. Its nonces have room for the number and the counter of a block.
const CIPHER: Cipher = Cipher::Aegis256X2;

const BLOCK_LEN: usize = 4096;

/// An unnamed file.
pub(crate) struct Temp {
    aead: Box<dyn Aead>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    blocks: Vec<Block>,
    current: Option<Current>,
    open: Buffer,
    sealed: Buffer,
}

/// The decrypted block, which [`State::open`] holds.
#[derive(Clone, Copy, Debug)]
struct Current {
    number: usize,
    /// Whether it was changed since it was written.
    is_changed: bool,
}

/// The newest version of a block.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Counts how often the block was encrypted. It never decreases, so that no nonce is used twice.
    counter: u64,
    /// Whether the block was written. If not, it is zeros.
    written: bool,
    tag: [u8; TAG_LEN],
}

impl std::fmt::Debug for Temp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Temp").finish_non_exhaustive()
    }
}

impl Temp {
    pub(in crate::vfs) fn new() -> Result<Self> {
        let key = EncryptionKey::generate(CIPHER)?;
        Ok(Self { aead: CIPHER.under(key.as_bytes())?, state: Mutex::new(Rank::Temp, State::default()) })
    }

    pub(in crate::vfs) fn len(&self) -> u64 {
        self.state.lock_or_recover().len
    }

    pub(in crate::vfs) fn read(&self, into: &mut [u8], at: u64, raw: &dyn RawFile) -> c_int {
        let Ok(mut state) = self.state.lock() else { return SQLITE_IOERR };
        into.fill(0);
        let there = state.len.saturating_sub(at).min(into.len() as u64);
        let Ok(there) = usize::try_from(there) else { return SQLITE_IOERR_DATA };
        let short = there < into.len();
        let mut done = 0;
        while done < there {
            let (number, from) = place(at + done as u64);
            let count = (BLOCK_LEN - from).min(there - done);
            match self.take_up(&mut state, number, raw) {
                SQLITE_OK => {}
                code => return code,
            }
            into[done..done + count].copy_from_slice(&state.open.of(BLOCK_LEN)[from..from + count]);
            done += count;
        }
        if short { SQLITE_IOERR_SHORT_READ } else { SQLITE_OK }
    }

    pub(in crate::vfs) fn write(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> c_int {
        let Ok(mut state) = self.state.lock() else { return SQLITE_IOERR };
        let mut done = 0;
        while done < bytes.len() {
            let (number, from) = place(at + done as u64);
            let count = (BLOCK_LEN - from).min(bytes.len() - done);
            match self.take_up(&mut state, number, raw) {
                SQLITE_OK => {}
                code => return code,
            }
            state.open.of(BLOCK_LEN)[from..from + count].copy_from_slice(&bytes[done..done + count]);
            state.current = Some(Current { number, is_changed: true });
            done += count;
            state.len = state.len.max(at + done as u64);
        }
        SQLITE_OK
    }

    /// Writes the block that is in memory.
    pub(in crate::vfs) fn flush(&self, raw: &dyn RawFile) -> c_int {
        let Ok(mut state) = self.state.lock() else { return SQLITE_IOERR };
        self.write_out(&mut state, raw)
    }

    pub(in crate::vfs) fn truncate(&self, len: u64, raw: &dyn RawFile) -> c_int {
        let Ok(mut state) = self.state.lock() else { return SQLITE_IOERR };
        if len < state.len {
            // The removed bytes are zero if the file grows again.
            let (number, from) = place(len);
            let mut gone = number;
            if from > 0 {
                match self.take_up(&mut state, number, raw) {
                    SQLITE_OK => {}
                    code => return code,
                }
                state.open.of(BLOCK_LEN)[from..].fill(0);
                state.current = Some(Current { number, is_changed: true });
                gone += 1;
            }
            state.current = state.current.filter(|current| current.number < gone);
            for block in state.blocks.iter_mut().skip(gone) {
                block.written = false;
            }
        }
        state.len = len;
        SQLITE_OK
    }

    /// Writes the current block, and makes another one current.
    fn take_up(&self, state: &mut State, number: usize, raw: &dyn RawFile) -> c_int {
        if state.current.is_some_and(|current| current.number == number) {
            return SQLITE_OK;
        }
        let code = self.write_out(state, raw);
        if code != SQLITE_OK {
            return code;
        }
        state.current = None;
        let State { blocks, open, .. } = &mut *state;
        let open = open.of(BLOCK_LEN);
        match blocks.get(number).filter(|block| block.written) {
            None => open.fill(0),
            Some(block) => {
                let code = raw.read(open, number as u64 * BLOCK_LEN as u64);
                if code != SQLITE_OK {
                    return if code == SQLITE_IOERR_SHORT_READ { SQLITE_IOERR_DATA } else { code };
                }
                if self.aead.open(&nonce(number, block.counter), &[], open, &block.tag).is_err() {
                    open.fill(0);
                    return SQLITE_IOERR_DATA;
                }
            }
        }
        state.current = Some(Current { number, is_changed: false });
        SQLITE_OK
    }

    /// Encrypts and writes the current block, if it was changed.
    fn write_out(&self, state: &mut State, raw: &dyn RawFile) -> c_int {
        let Some(Current { number, is_changed: true }) = state.current else { return SQLITE_OK };
        let State { blocks, open, sealed, .. } = &mut *state;
        if blocks.len() <= number {
            if blocks.try_reserve(number + 1 - blocks.len()).is_err() {
                return SQLITE_IOERR_NOMEM;
            }
            blocks.resize(number + 1, Block::default());
        }
        let block = &mut blocks[number];
        let sealed = sealed.of(BLOCK_LEN);
        // Incremented before use, so that no counter is used twice even if the write fails.
        block.counter += 1;
        block.written = false;
        block.tag = self.aead.seal(&nonce(number, block.counter), &[], open.of(BLOCK_LEN), sealed);
        let code = raw.write(sealed, number as u64 * BLOCK_LEN as u64);
        if code == SQLITE_OK {
            block.written = true;
            state.current = Some(Current { number, is_changed: false });
        }
        code
    }
}

/// An open unnamed file, or a scratch file under its name.
#[derive(Debug)]
pub(in crate::vfs) struct TempFile(pub(in crate::vfs) Arc<Temp>);

impl VfsFile for TempFile {
    fn read(&self, into: &mut ReadBuf<'_>, at: u64, raw: &dyn RawFile) -> c_int {
        self.0.read(into.bytes(), at, raw)
    }

    fn write(&self, bytes: &[u8], at: u64, raw: &dyn RawFile) -> c_int {
        self.0.write(bytes, at, raw)
    }

    fn truncate(&self, len: u64, raw: &dyn RawFile) -> c_int {
        self.0.truncate(len, raw)
    }

    /// The file is deleted with its handle, and so never flushed.
    fn sync(&self, _: c_int, _: &dyn RawFile) -> c_int {
        SQLITE_OK
    }

    fn len(&self, _: &dyn RawFile) -> std::result::Result<u64, c_int> {
        Ok(self.0.len())
    }

    fn swallows(&self, op: c_int) -> bool {
        matches!(op, SQLITE_FCNTL_CHUNK_SIZE | SQLITE_FCNTL_SIZE_HINT)
    }

    fn device_characteristics(&self, raw: c_int) -> c_int {
        whole_pages(raw)
    }
}

/// The number of the block at an offset, and the offset within it.
fn place(at: u64) -> (usize, usize) {
    let number = at / BLOCK_LEN as u64;
    (usize::try_from(number).unwrap_or(usize::MAX), usize::try_from(at % BLOCK_LEN as u64).unwrap_or(0))
}

/// The nonce of a version of a block.
fn nonce(number: usize, counter: u64) -> [u8; NONCE_LEN_MAX] {
    let mut nonce = [0; NONCE_LEN_MAX];
    nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
    nonce[8..16].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vfs::raw_file::memory::Memory;

    #[derive(Clone, Debug)]
    enum Operation {
        Write(u16, Vec<u8>),
        Read(u16, u16),
        Truncate(u16),
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        let at = 0..20_000_u16;
        let one = prop_oneof![
            (at.clone(), prop::collection::vec(1..255_u8, 1..6000))
                .prop_map(|(at, bytes)| Operation::Write(at, bytes)),
            (at.clone(), 1..9000_u16).prop_map(|(at, len)| Operation::Read(at, len)),
            at.prop_map(Operation::Truncate),
        ];
        prop::collection::vec(one, 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn temp_file_behaves_like_a_plain_file(operations in operations()) {
            let (temp, raw, model) = (Temp::new().unwrap(), Memory::default(), Memory::default());
            for operation in operations {
                match operation {
                    Operation::Write(at, bytes) => {
                        prop_assert_eq!(temp.write(&bytes, at.into(), &raw), SQLITE_OK);
                        model.write(&bytes, at.into());
                    }
                    Operation::Read(at, len) => {
                        let (mut ours, mut theirs) = (vec![7; len.into()], vec![8; len.into()]);
                        let code = temp.read(&mut ours, at.into(), &raw);
                        prop_assert_eq!(code, model.read(&mut theirs, at.into()));
                        prop_assert!(ours == theirs);
                    }
                    Operation::Truncate(len) => {
                        prop_assert_eq!(temp.truncate(len.into(), &raw), SQLITE_OK);
                        model.0.borrow_mut().resize(len.into(), 0);
                    }
                }
                prop_assert_eq!(temp.len(), model.0.borrow().len() as u64);
            }
        }
    }

    #[test]
    fn changed_or_replayed_block_is_an_error() {
        let (temp, raw) = (Temp::new().unwrap(), Memory::default());
        let plain = [b'x'; 3 * BLOCK_LEN];
        assert_eq!(temp.write(&plain, 0, &raw), SQLITE_OK);
        let old = raw.0.borrow()[..BLOCK_LEN].to_vec();
        assert!(!raw.0.borrow().windows(8).any(|bytes| bytes == b"xxxxxxxx"));
        let mut into = [0; BLOCK_LEN];
        raw.0.borrow_mut()[5] ^= 1;
        assert_eq!((temp.read(&mut into, 0, &raw), into), (SQLITE_IOERR_DATA, [0; BLOCK_LEN]));
        raw.0.borrow_mut()[5] ^= 1;
        // The block is written again, and its old version is restored.
        assert_eq!(temp.write(b"y", 0, &raw), SQLITE_OK);
        assert_eq!(temp.read(&mut into, BLOCK_LEN as u64, &raw), SQLITE_OK);
        raw.0.borrow_mut()[..BLOCK_LEN].copy_from_slice(&old);
        assert_eq!(temp.read(&mut into, 0, &raw), SQLITE_IOERR_DATA);
    }
}
