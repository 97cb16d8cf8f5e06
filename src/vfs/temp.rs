//! Files without a name, in which SQLite sorts, keeps temporary tables and what it may have to undo: sealed under a key
//! that lives in memory as long as the file is open.
//!
//! Such a file belongs to one handle and ends with it. So the tags and the counters that make nonces stand in memory
//! too, nothing can be replayed, and no byte is added on the disk. The file is sealed in blocks of 4096 bytes; SQLite
//! writes to it at any place and in any length, so the block that was written last is kept open.

use std::{
    ffi::c_int,
    sync::{Mutex, PoisonError},
};

use rusqlite::ffi::{SQLITE_IOERR_DATA, SQLITE_IOERR_NOMEM, SQLITE_IOERR_SHORT_READ, SQLITE_OK};

use super::raw_file::{Buffer, RawFile};
use crate::{
    cipher::{Aead, Cipher, EncryptionKey, NONCE_LEN_MAX, TAG_LEN},
    error::Result,
};

/// The cipher of these files: keys of 256 bits, and nonces that have room for a block's number and counter.
const CIPHER: Cipher = Cipher::Aegis256X2;

const BLOCK_LEN: usize = 4096;

/// A file without a name.
pub(crate) struct Temp {
    aead: Box<dyn Aead>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    blocks: Vec<Block>,
    /// The block that `open` holds, and whether it differs from what stands on the disk.
    current: Option<(usize, bool)>,
    open: Buffer,
    sealed: Buffer,
}

/// What tells whether a block is the one that was written last.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// How often it was sealed. It never goes back, so that no nonce comes twice.
    counter: u64,
    /// Whether it stands on the disk; one that does not reads as zeros.
    written: bool,
    tag: [u8; TAG_LEN],
}

impl std::fmt::Debug for Temp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Temp").finish_non_exhaustive()
    }
}

impl Temp {
    pub(super) fn new() -> Result<Self> {
        let key = EncryptionKey::generate(CIPHER)?;
        Ok(Self { aead: CIPHER.under(key.as_bytes())?, state: Mutex::default() })
    }

    pub(super) fn len(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).len
    }

    pub(super) fn read(&self, into: &mut [u8], at: u64, beneath: &impl RawFile) -> c_int {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        into.fill(0);
        let there = state.len.saturating_sub(at).min(into.len() as u64);
        let Ok(there) = usize::try_from(there) else { return SQLITE_IOERR_DATA };
        let short = there < into.len();
        let mut done = 0;
        while done < there {
            let (number, from) = place(at + done as u64);
            let count = (BLOCK_LEN - from).min(there - done);
            match self.take_up(&mut state, number, beneath) {
                SQLITE_OK => {}
                code => return code,
            }
            into[done..done + count].copy_from_slice(&state.open.of(BLOCK_LEN)[from..from + count]);
            done += count;
        }
        if short { SQLITE_IOERR_SHORT_READ } else { SQLITE_OK }
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64, beneath: &impl RawFile) -> c_int {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < bytes.len() {
            let (number, from) = place(at + done as u64);
            let count = (BLOCK_LEN - from).min(bytes.len() - done);
            match self.take_up(&mut state, number, beneath) {
                SQLITE_OK => {}
                code => return code,
            }
            state.open.of(BLOCK_LEN)[from..from + count].copy_from_slice(&bytes[done..done + count]);
            state.current = Some((number, true));
            done += count;
            state.len = state.len.max(at + done as u64);
        }
        SQLITE_OK
    }

    /// Writes out what is still in memory.
    pub(super) fn flush(&self, beneath: &impl RawFile) -> c_int {
        self.write_out(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), beneath)
    }

    pub(super) fn truncate(&self, len: u64, beneath: &impl RawFile) -> c_int {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if len < state.len {
            // What is cut off reads as zeros if the file grows again.
            let (number, from) = place(len);
            let mut gone = number;
            if from > 0 {
                match self.take_up(&mut state, number, beneath) {
                    SQLITE_OK => {}
                    code => return code,
                }
                state.open.of(BLOCK_LEN)[from..].fill(0);
                state.current = Some((number, true));
                gone += 1;
            }
            state.current = state.current.filter(|(current, _)| *current < gone);
            for block in state.blocks.iter_mut().skip(gone) {
                block.written = false;
            }
        }
        state.len = len;
        SQLITE_OK
    }

    /// Makes a block the open one, and writes out the one that was.
    fn take_up(&self, state: &mut State, number: usize, beneath: &impl RawFile) -> c_int {
        if state.current.is_some_and(|(current, _)| current == number) {
            return SQLITE_OK;
        }
        let code = self.write_out(state, beneath);
        if code != SQLITE_OK {
            return code;
        }
        state.current = None;
        let State { blocks, open, .. } = &mut *state;
        let open = open.of(BLOCK_LEN);
        match blocks.get(number).filter(|block| block.written) {
            None => open.fill(0),
            Some(block) => {
                let code = beneath.read(open, number as u64 * BLOCK_LEN as u64);
                if code != SQLITE_OK {
                    return if code == SQLITE_IOERR_SHORT_READ { SQLITE_IOERR_DATA } else { code };
                }
                if self.aead.open(&nonce(number, block.counter), &[], open, &block.tag).is_err() {
                    open.fill(0);
                    return SQLITE_IOERR_DATA;
                }
            }
        }
        state.current = Some((number, false));
        SQLITE_OK
    }

    /// Seals the open block and writes it, if it changed.
    fn write_out(&self, state: &mut State, beneath: &impl RawFile) -> c_int {
        let Some((number, true)) = state.current else { return SQLITE_OK };
        let State { blocks, open, sealed, .. } = &mut *state;
        if blocks.len() <= number {
            if blocks.try_reserve(number + 1 - blocks.len()).is_err() {
                return SQLITE_IOERR_NOMEM;
            }
            blocks.resize(number + 1, Block::default());
        }
        let block = &mut blocks[number];
        let sealed = sealed.of(BLOCK_LEN);
        sealed.copy_from_slice(open.of(BLOCK_LEN));
        // Counted before it is used: no counter seals twice, even if the write fails.
        block.counter += 1;
        block.written = false;
        block.tag = self.aead.seal(&nonce(number, block.counter), &[], sealed);
        let code = beneath.write(sealed, number as u64 * BLOCK_LEN as u64);
        if code == SQLITE_OK {
            block.written = true;
            state.current = Some((number, false));
        }
        code
    }
}

/// The block of a byte, and its place there.
fn place(at: u64) -> (usize, usize) {
    let number = at / BLOCK_LEN as u64;
    (usize::try_from(number).unwrap_or(usize::MAX), usize::try_from(at % BLOCK_LEN as u64).unwrap_or(0))
}

/// The nonce of a block, which the file's key meets once.
fn nonce(number: usize, counter: u64) -> [u8; NONCE_LEN_MAX] {
    let mut nonce = [0; NONCE_LEN_MAX];
    nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
    nonce[8..16].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::raw_file::memory::Memory, *};

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
        fn it_holds_what_a_plain_file_would(operations in operations()) {
            let (temp, beneath, model) = (Temp::new().unwrap(), Memory::default(), Memory::default());
            for operation in operations {
                match operation {
                    Operation::Write(at, bytes) => {
                        prop_assert_eq!(temp.write(&bytes, at.into(), &beneath), SQLITE_OK);
                        model.write(&bytes, at.into());
                    }
                    Operation::Read(at, len) => {
                        let (mut ours, mut theirs) = (vec![7; len.into()], vec![8; len.into()]);
                        let code = temp.read(&mut ours, at.into(), &beneath);
                        prop_assert_eq!(code, model.read(&mut theirs, at.into()));
                        prop_assert!(ours == theirs);
                    }
                    Operation::Truncate(len) => {
                        prop_assert_eq!(temp.truncate(len.into(), &beneath), SQLITE_OK);
                        model.0.borrow_mut().resize(len.into(), 0);
                    }
                }
                prop_assert_eq!(temp.len(), model.0.borrow().len() as u64);
            }
        }
    }

    #[test]
    fn a_byte_that_changed_on_the_disk_is_an_error_and_never_data() {
        let (temp, beneath) = (Temp::new().unwrap(), Memory::default());
        let plain = [b'x'; 3 * BLOCK_LEN];
        assert_eq!(temp.write(&plain, 0, &beneath), SQLITE_OK);
        let old = beneath.0.borrow()[..BLOCK_LEN].to_vec();
        assert!(!beneath.0.borrow().windows(8).any(|bytes| bytes == b"xxxxxxxx"));
        let mut into = [0; BLOCK_LEN];
        beneath.0.borrow_mut()[5] ^= 1;
        assert_eq!((temp.read(&mut into, 0, &beneath), into), (SQLITE_IOERR_DATA, [0; BLOCK_LEN]));
        beneath.0.borrow_mut()[5] ^= 1;
        // Written again, and the old version put back.
        assert_eq!(temp.write(b"y", 0, &beneath), SQLITE_OK);
        assert_eq!(temp.read(&mut into, BLOCK_LEN as u64, &beneath), SQLITE_OK);
        beneath.0.borrow_mut()[..BLOCK_LEN].copy_from_slice(&old);
        assert_eq!(temp.read(&mut into, 0, &beneath), SQLITE_IOERR_DATA);
    }
}
