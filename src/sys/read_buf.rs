//! The buffer that a caller in C passes to be filled, which may be uninitialized.

use std::{marker::PhantomData, ptr, slice};

/// Memory to be filled, which is read only after it is initialized.
#[derive(Debug)]
pub(crate) struct ReadBuf<'a> {
    memory: *mut u8,
    len: usize,
    /// The number of bytes from the start that are initialized.
    init: usize,
    _borrowed: PhantomData<&'a mut [u8]>,
}

impl ReadBuf<'_> {
    /// A buffer of `len` bytes, which may be uninitialized.
    ///
    /// # Safety
    ///
    /// `memory` points to `len` writable bytes, which nothing else accesses during the lifetime of the
    /// value.
    pub(crate) unsafe fn new(memory: *mut u8, len: usize) -> Self {
        Self { memory, len, init: 0, _borrowed: PhantomData }
    }

    /// A buffer over `bytes`, whose contents count as uninitialized.
    #[cfg(test)]
    pub(crate) fn over(bytes: &mut [u8]) -> ReadBuf<'_> {
        // SAFETY: the exclusive reference outlives the value.
        unsafe { ReadBuf::new(bytes.as_mut_ptr(), bytes.len()) }
    }

    /// The length of the buffer in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the buffer, for a function that fills it.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory
    }

    /// Declares the first `len` bytes of the buffer initialized.
    ///
    /// # Safety
    ///
    /// They were written, and the buffer has as many.
    pub(crate) unsafe fn assume_init(&mut self, len: usize) {
        self.init = self.init.max(len);
    }

    /// Fills the start of the buffer with `bytes`. The buffer must not be shorter.
    pub(crate) fn copy_from(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "{} bytes for a buffer of {}", bytes.len(), self.len);
        // SAFETY: the contract of `new` says that `memory` has `len` writable bytes which nothing else accesses, so `bytes` does
        // not overlap them; `bytes` is not longer.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory, bytes.len()) };
        self.init = self.init.max(bytes.len());
    }

    /// The bytes of the buffer. Those that were not written yet are zeros.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        if self.init < self.len {
            // SAFETY: the contract of `new` says that `memory` has `len` writable bytes, and `init` is less.
            unsafe { ptr::write_bytes(self.memory.add(self.init), 0, self.len - self.init) };
            self.init = self.len;
        }
        // SAFETY: all bytes are initialized, and the contract of `new` says that nothing else accesses them during the lifetime
        // of the value, which outlives the borrow of `self`.
        unsafe { slice::from_raw_parts_mut(self.memory, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_were_not_written_are_zeros() {
        let mut memory = [0xa5; 6];
        assert_eq!(ReadBuf::over(&mut memory).bytes(), [0; 6]);
        memory.fill(0xa5);
        let mut buffer = ReadBuf::over(&mut memory);
        buffer.copy_from(&[1, 2, 3, 4]);
        buffer.copy_from(&[5]);
        assert_eq!(buffer.bytes(), [5, 2, 3, 4, 0, 0]);
    }
}
