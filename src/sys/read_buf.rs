//! The buffer that a caller in C passes to be filled, which may be uninitialized.

use std::{marker::PhantomData, ptr, slice};

/// Memory to be filled, which is read only after it is initialized.
#[derive(Debug)]
pub(crate) struct ReadBuf<'a> {
    memory: *mut u8,
    len: usize,
    is_init: bool,
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
        Self { memory, len, is_init: false, _borrowed: PhantomData }
    }

    /// The length of the buffer in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the buffer, for a function that fills it.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory
    }

    /// Declares the buffer initialized.
    ///
    /// # Safety
    ///
    /// All bytes of the buffer were written.
    pub(crate) unsafe fn assume_init(&mut self) {
        self.is_init = true;
    }

    /// Fills the buffer with `bytes`, which must have its length.
    pub(crate) fn copy_from(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len, "a buffer is filled whole");
        // SAFETY: the contract of `new` says that `memory` has `len` writable bytes which nothing else accesses, so `bytes` does
        // not overlap them; the lengths are equal.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory, self.len) };
        self.is_init = true;
    }

    /// The bytes of the buffer. Zeros if nothing was written yet.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        if !self.is_init {
            // SAFETY: the contract of `new` says that `memory` has `len` writable bytes.
            unsafe { ptr::write_bytes(self.memory, 0, self.len) };
            self.is_init = true;
        }
        // SAFETY: all bytes are initialized, and the contract of `new` says that nothing else accesses them during the lifetime
        // of the value, which outlives the borrow of `self`.
        unsafe { slice::from_raw_parts_mut(self.memory, self.len) }
    }
}
