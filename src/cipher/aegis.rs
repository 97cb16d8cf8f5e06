//! The six AEGIS ciphers (draft-irtf-cfrg-aegis-aead) with a tag of 128 bits, by libaegis, which selects its code by the features
//! of the processor.

use aegis::aegis128l::Aegis128L;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Aead, Cipher, Ciphertext, TAG_LEN, Unauthentic};
use crate::sys::{
    libaegis::{self, Aegis, Inputs},
    read_buf::ReadBuf,
};

// Cargo unifies features over a build: another crate may enable `aegis/pure-rust`, which has no C library. It is also up to 138
// times as slow. The state of the C library is aligned for 512-bit vectors, and that of the other backend is not.
const _: () = assert!(
    align_of::<aegis::aegis128x4::Encryptor<TAG_LEN>>() == 64,
    "a crate of this build enables the feature `pure-rust` of `aegis`, which is too slow for pages; disable it"
);

/// The cipher with `key`. Returns `None` for another cipher, or a key of another size.
pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    match cipher {
        Cipher::Aegis128L => Key::boxed(libaegis::AEGIS_128L, key),
        Cipher::Aegis128X2 => Key::boxed(libaegis::AEGIS_128X2, key),
        Cipher::Aegis128X4 => Key::boxed(libaegis::AEGIS_128X4, key),
        Cipher::Aegis256 => Key::boxed(libaegis::AEGIS_256, key),
        Cipher::Aegis256X2 => Key::boxed(libaegis::AEGIS_256X2, key),
        Cipher::Aegis256X4 => Key::boxed(libaegis::AEGIS_256X4, key),
        _ => None,
    }
}

/// A key of an AEGIS cipher. They have no key schedule.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Key<const LEN: usize> {
    key: [u8; LEN],
    #[zeroize(skip)]
    cipher: Aegis<LEN>,
}

impl<const LEN: usize> Key<LEN> {
    fn boxed(cipher: Aegis<LEN>, key: &[u8]) -> Option<Box<dyn Aead>> {
        // The library selects its code when the program starts, where the linker supports that, and here.
        let _selected = Aegis128L::<TAG_LEN>::new(&[0; 16], &[0; 16]);
        Some(Box::new(Self { key: key.try_into().ok()?, cipher }))
    }

    fn with<'a>(&'a self, nonce: &'a [u8], associated: &'a [u8]) -> Inputs<'a, LEN> {
        let exact = nonce.try_into();
        let nonce = exact.unwrap_or_else(|_| panic!("a nonce of {} bytes, not {LEN}", nonce.len()));
        Inputs { key: &self.key, nonce, associated }
    }
}

impl<const LEN: usize> Aead for Key<LEN> {
    fn seal_in_place(&self, nonce: &[u8], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.cipher.encrypt_in_place(self.with(nonce, associated), text)
    }

    fn seal(&self, nonce: &[u8], associated: &[u8], plain: &[u8], sealed: &mut [u8]) -> [u8; TAG_LEN] {
        self.cipher.encrypt(self.with(nonce, associated), plain, sealed)
    }

    fn open(
        &self,
        nonce: &[u8],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        let is_authentic = self.cipher.decrypt_in_place(self.with(nonce, associated), text, tag);
        if is_authentic { Ok(()) } else { Err(Unauthentic) }
    }

    fn open_into(
        &self,
        sealed: Ciphertext<'_>,
        associated: &[u8],
        into: &mut ReadBuf<'_>,
    ) -> Result<(), Unauthentic> {
        let Ciphertext { nonce, tag, text } = sealed;
        let is_authentic = self.cipher.decrypt(self.with(nonce, associated), text, tag, into);
        if is_authentic { Ok(()) } else { Err(Unauthentic) }
    }
}

/// Whether this processor has the instructions that libaegis needs to be fast.
pub(super) fn is_accelerated() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("avx");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
