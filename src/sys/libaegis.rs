//! The AEGIS ciphers of libaegis, which the crate `aegis` compiles and links.
//!
//! The crate encrypts in place, into a new vector, or piece by piece. For a page in a buffer of its own, each of these takes at
//! least one copy more, which is up to a quarter of the time of the cipher. The functions of the C library read from one
//! buffer and write to another, so they are declared here.
//!
//! They belong to the public interface of libaegis (`aegis128l.h` to `aegis256x4.h`), and the crate declares them alike. Because
//! it does not export them, `Cargo.toml` permits one version of it, and the tests of [`cipher`](crate::cipher) pass the published
//! vectors through these declarations.

use std::{ffi::c_int, ptr};

use super::read_buf::ReadBuf;

/// The size of a tag in bytes. The library also has tags of 32 bytes.
const TAG_LEN: usize = 16;

type Encrypt = unsafe extern "C" fn(
    c: *mut u8,
    mac: *mut u8,
    maclen: usize,
    m: *const u8,
    mlen: usize,
    ad: *const u8,
    adlen: usize,
    npub: *const u8,
    k: *const u8,
) -> c_int;

type Decrypt = unsafe extern "C" fn(
    m: *mut u8,
    c: *const u8,
    clen: usize,
    mac: *const u8,
    maclen: usize,
    ad: *const u8,
    adlen: usize,
    npub: *const u8,
    k: *const u8,
) -> c_int;

macro_rules! ciphers {
    ($($name:ident $len:literal $encrypt:ident $decrypt:ident)*) => {
        unsafe extern "C" {
            $(
                fn $encrypt(
                    c: *mut u8,
                    mac: *mut u8,
                    maclen: usize,
                    m: *const u8,
                    mlen: usize,
                    ad: *const u8,
                    adlen: usize,
                    npub: *const u8,
                    k: *const u8,
                ) -> c_int;

                fn $decrypt(
                    m: *mut u8,
                    c: *const u8,
                    clen: usize,
                    mac: *const u8,
                    maclen: usize,
                    ad: *const u8,
                    adlen: usize,
                    npub: *const u8,
                    k: *const u8,
                ) -> c_int;
            )*
        }

        $(pub(crate) const $name: Aegis<$len> = Aegis { encrypt: $encrypt, decrypt: $decrypt };)*
    };
}

ciphers! {
    AEGIS_128L 16 aegis128l_encrypt_detached aegis128l_decrypt_detached
    AEGIS_128X2 16 aegis128x2_encrypt_detached aegis128x2_decrypt_detached
    AEGIS_128X4 16 aegis128x4_encrypt_detached aegis128x4_decrypt_detached
    AEGIS_256 32 aegis256_encrypt_detached aegis256_decrypt_detached
    AEGIS_256X2 32 aegis256x2_encrypt_detached aegis256x2_decrypt_detached
    AEGIS_256X4 32 aegis256x4_encrypt_detached aegis256x4_decrypt_detached
}

/// A cipher of the library. Its keys and its nonces have `LEN` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aegis<const LEN: usize> {
    encrypt: Encrypt,
    decrypt: Decrypt,
}

/// A key, a nonce and associated data.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, const LEN: usize> {
    pub(crate) key: &'a [u8; LEN],
    pub(crate) nonce: &'a [u8; LEN],
    pub(crate) associated: &'a [u8],
}

impl<const LEN: usize> Aegis<LEN> {
    /// Encrypts `plain` into `sealed`, which has its length, and returns the tag.
    pub(crate) fn encrypt(self, with: Inputs<'_, LEN>, plain: &[u8], sealed: &mut [u8]) -> [u8; TAG_LEN] {
        assert_eq!(plain.len(), sealed.len(), "a ciphertext has the length of its plaintext");
        // SAFETY: both slices have this length, and references guarantee that they do not overlap.
        unsafe { self.encrypt_raw(with, plain, sealed.as_mut_ptr()) }
    }

    /// Encrypts `text` in place and returns the tag.
    pub(crate) fn encrypt_in_place(self, with: Inputs<'_, LEN>, text: &mut [u8]) -> [u8; TAG_LEN] {
        let at = text.as_mut_ptr();
        // SAFETY: both pointers are derived from one exclusive reference to this many bytes.
        unsafe { self.encrypt_raw(with, ptr::slice_from_raw_parts(at, text.len()), at) }
    }

    /// Decrypts `text` in place. Returns whether it is authentic. If it is not, it is all zeros.
    pub(crate) fn decrypt_in_place(
        self,
        with: Inputs<'_, LEN>,
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let at = text.as_mut_ptr();
        // SAFETY: both pointers are derived from one exclusive reference to this many bytes.
        unsafe { self.decrypt_raw(with, ptr::slice_from_raw_parts(at, text.len()), at, tag) }
    }

    /// Decrypts `sealed` into the start of `into`, which must not be shorter. Returns whether it is authentic. If it is not, that
    /// part of `into` is all zeros.
    pub(crate) fn decrypt(
        self,
        with: Inputs<'_, LEN>,
        sealed: &[u8],
        tag: &[u8; TAG_LEN],
        into: &mut ReadBuf<'_>,
    ) -> bool {
        assert!(sealed.len() <= into.len(), "{} bytes for a buffer of {}", sealed.len(), into.len());
        // SAFETY: `into` has at least as many writable bytes, which nothing else accesses. All of them are written, whether or not
        // the tag matches.
        unsafe {
            let is_authentic = self.decrypt_raw(with, ptr::from_ref(sealed), into.as_mut_ptr(), tag);
            into.assume_init(sealed.len());
            is_authentic
        }
    }

    /// Encrypts `plain` and returns the tag.
    ///
    /// # Safety
    ///
    /// `plain` points to initialized bytes, and `sealed` to as many writable bytes. The pointers are equal, or the bytes do not
    /// overlap. Nothing else accesses what `sealed` points to.
    unsafe fn encrypt_raw(self, with: Inputs<'_, LEN>, plain: *const [u8], sealed: *mut u8) -> [u8; TAG_LEN] {
        let Inputs { key, nonce, associated } = with;
        let mut tag = [0; TAG_LEN];
        // SAFETY: `encrypt` is a function that `ciphers!` declares as libaegis defines it, for keys and nonces of `LEN` bytes. It
        // reads `mlen`, `adlen` and `LEN` bytes, and writes `mlen` bytes to `sealed` and `maclen` to `tag`. It reads each block
        // before it writes it, so that it works in place, needs no alignment, and keeps no pointer. The caller guarantees the rest.
        let code = unsafe {
            (self.encrypt)(
                sealed,
                tag.as_mut_ptr(),
                TAG_LEN,
                plain.cast(),
                plain.len(),
                associated.as_ptr(),
                associated.len(),
                nonce.as_ptr(),
                key.as_ptr(),
            )
        };
        assert_eq!(code, 0, "libaegis refuses tags of another length only");
        tag
    }

    /// Decrypts `sealed` to `plain`. Returns whether it is authentic. If it is not, writes zeros.
    ///
    /// # Safety
    ///
    /// As for [`encrypt_raw`](Self::encrypt_raw); `plain` need not be initialized.
    unsafe fn decrypt_raw(
        self,
        with: Inputs<'_, LEN>,
        sealed: *const [u8],
        plain: *mut u8,
        tag: &[u8; TAG_LEN],
    ) -> bool {
        let Inputs { key, nonce, associated } = with;
        // SAFETY: as in `encrypt_raw`; `decrypt` writes `clen` bytes to `plain` only.
        let code = unsafe {
            (self.decrypt)(
                plain,
                sealed.cast(),
                sealed.len(),
                tag.as_ptr(),
                TAG_LEN,
                associated.as_ptr(),
                associated.len(),
                nonce.as_ptr(),
                key.as_ptr(),
            )
        };
        code == 0
    }
}
