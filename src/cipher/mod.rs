//! The nine AEAD ciphers: their API names and sizes, their implementations, keys and nonces.
//!
//! No I/O. The layout of a page is in `page`.

mod aead;
mod aegis;
mod algorithm;
mod key;
mod nonce;
#[cfg(feature = "ring")]
mod ring;
#[cfg(any(test, not(feature = "ring")))]
mod rustcrypto;

pub(crate) use aead::{Aead, Ciphertext, TAG_LEN, Unauthentic};
pub use algorithm::Cipher;
pub use key::EncryptionKey;
pub(crate) use nonce::{NONCE_LEN_MAX, Nonces, fill_from_system, forked};

use algorithm::wrong_key_len;

use crate::error::Result;

impl Cipher {
    /// The cipher with `key`. Fails with [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) if the key has another size.
    pub(crate) fn under(self, key: &[u8]) -> Result<Box<dyn Aead>> {
        let made = match self {
            #[cfg(feature = "ring")]
            Self::Aes256Gcm | Self::Aes128Gcm | Self::ChaCha20Poly1305 => ring::new(self, key),
            #[cfg(not(feature = "ring"))]
            Self::Aes256Gcm | Self::Aes128Gcm | Self::ChaCha20Poly1305 => rustcrypto::new(self, key),
            _ => aegis::new(self, key),
        };
        made.ok_or_else(|| wrong_key_len(self, key.len()))
    }

    /// The implementation of the cipher in this build on this processor.
    #[must_use]
    pub fn implementation(self) -> &'static str {
        match self {
            #[cfg(feature = "ring")]
            Self::Aes256Gcm | Self::Aes128Gcm | Self::ChaCha20Poly1305 => "ring",
            #[cfg(not(feature = "ring"))]
            Self::Aes256Gcm | Self::Aes128Gcm => "aes-gcm",
            #[cfg(not(feature = "ring"))]
            Self::ChaCha20Poly1305 => "chacha20poly1305",
            _ if aegis::is_accelerated() => "libaegis",
            _ => "libaegis without AES instructions (slow)",
        }
    }
}
