//! AES-GCM (NIST SP 800-38D) and ChaCha20-Poly1305 (RFC 8439) by `ring`, which selects its code by the features of the processor.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{Aead, Cipher, TAG_LEN, Unauthentic};

/// The cipher with `key`. Returns `None` for another cipher, or a key of another size.
pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    let algorithm = match cipher {
        Cipher::Aes128Gcm => &AES_128_GCM,
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        _ => return None,
    };
    let key = UnboundKey::new(algorithm, key).ok()?;
    Some(Box::new(LessSafeKey::new(key)))
}

impl Aead for LessSafeKey {
    fn seal_in_place(&self, nonce: &[u8], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        // ring refuses nonces of another size, and texts longer than 64 GiB. A page is shorter.
        let Ok(tag) = Nonce::try_assume_unique_for_key(nonce)
            .and_then(|nonce| self.seal_in_place_separate_tag(nonce, Aad::from(associated), text))
        else {
            panic!("a nonce of {} bytes or a text of {}", nonce.len(), text.len());
        };
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    fn open(
        &self,
        nonce: &[u8],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic> {
        Nonce::try_assume_unique_for_key(nonce)
            .and_then(|nonce| {
                self.open_in_place_separate_tag(nonce, Aad::from(associated), Tag::from(*tag), text, 0..)
            })
            .map(|_| ())
            .map_err(|_| Unauthentic)
    }
}
