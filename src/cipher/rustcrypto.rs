//! AES-GCM (NIST SP 800-38D) and ChaCha20-Poly1305 (RFC 8439) in portable Rust: used if the feature `ring` is off, and compared
//! with `ring` in tests.

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{Nonce, Tag},
};
use chacha20poly1305::ChaCha20Poly1305;

use super::{Aead, Cipher, TAG_LEN, Unauthentic};

/// The cipher with `key`. Returns `None` for another cipher, or a key of another size.
pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    Some(match cipher {
        Cipher::Aes128Gcm => Box::new(Portable(Aes128Gcm::new_from_slice(key).ok()?)),
        Cipher::Aes256Gcm => Box::new(Portable(Aes256Gcm::new_from_slice(key).ok()?)),
        Cipher::ChaCha20Poly1305 => Box::new(Portable(ChaCha20Poly1305::new_from_slice(key).ok()?)),
        _ => return None,
    })
}

struct Portable<C>(C);

impl<C: AeadInOut + Send + Sync> Aead for Portable<C> {
    fn seal_in_place(&self, nonce: &[u8], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        // It refuses texts longer than 64 GiB. A page is shorter.
        let Ok(tag) = self.0.encrypt_inout_detached(exactly::<C>(nonce), associated, text.into()) else {
            panic!("a text that is too long for the cipher");
        };
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(&tag);
        bytes
    }

    fn open(
        &self,
        nonce: &[u8],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        let tag = <&Tag<C>>::try_from(tag.as_slice()).map_err(|_| Unauthentic)?;
        self.0
            .decrypt_inout_detached(exactly::<C>(nonce), associated, text.into(), tag)
            .map_err(|_| Unauthentic)
    }
}

fn exactly<C: AeadInOut>(nonce: &[u8]) -> &Nonce<C> {
    nonce.try_into().unwrap_or_else(|_| panic!("a nonce of {} bytes", nonce.len()))
}
