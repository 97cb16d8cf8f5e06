//! Measuring encryption: the codec of database pages, and a cipher without it.

use std::fmt;

use crate::{
    api::RemoteEncryption,
    cipher::{Aead, Cipher, EncryptionKey, Nonces, TAG_LEN},
    error::{Error, ErrorKind, Result},
    page::{PageCodec, Seal},
};

/// Seals and opens the pages of an imaginary file, as an encrypted database does.
pub struct Pages {
    codec: PageCodec,
    nonces: Nonces,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pages").field(&self.codec).finish()
    }
}

impl Pages {
    /// Creates the codec of a new file.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] without a cipher, or if the pages are too small for it.
    pub fn new(encryption: &RemoteEncryption, page_size: u32) -> Result<Self> {
        let cipher = encryption.cipher().ok_or_else(|| Error::new(ErrorKind::Invalid, "no cipher"))?;
        let seal = Seal::new(encryption.page_format().unwrap_or_default(), cipher, encryption.key())?;
        Ok(Self { codec: PageCodec::new(seal, page_size, encryption.key())?, nonces: Nonces::new()? })
    }

    /// Seals a page into another buffer. Returns whether it succeeded.
    pub fn seal(&mut self, number: u32, plain: &[u8], sealed: &mut [u8]) -> bool {
        self.codec.seal_page(number, plain, sealed, &mut self.nonces).is_ok()
    }

    /// Opens a page in place. Returns whether it succeeded.
    pub fn open(&self, number: u32, page: &mut [u8]) -> bool {
        self.codec.open_page(number, page).is_ok()
    }
}

/// A cipher without the codec: in place, without associated data, with a counter as nonce.
///
/// It is for measurements. A counter that starts at zero for each instance is not a safe nonce.
pub struct BareCipher {
    cipher: Cipher,
    aead: Box<dyn Aead>,
    sealed: u64,
}

impl fmt::Debug for BareCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BareCipher").field(&self.cipher).finish()
    }
}

impl BareCipher {
    /// Creates a cipher with a random key.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Io`] if the operating system has no random bytes.
    pub fn new(cipher: Cipher) -> Result<Self> {
        let key = EncryptionKey::generate(cipher)?;
        Ok(Self { cipher, aead: cipher.under(key.as_bytes())?, sealed: 0 })
    }

    /// Seals a page in place. Tag and nonce replace its last [`reserved_bytes`](Cipher::reserved_bytes).
    ///
    /// # Panics
    ///
    /// Panics if the page is smaller than these.
    pub fn seal(&mut self, page: &mut [u8]) {
        self.sealed += 1;
        let (text, tag, nonce) = self.parts(page);
        nonce.fill(0);
        nonce[..8].copy_from_slice(&self.sealed.to_be_bytes());
        tag.copy_from_slice(&self.aead.seal_in_place(nonce, &[], text));
    }

    /// Opens a sealed page in place. Returns whether it succeeded.
    ///
    /// # Panics
    ///
    /// Panics if the page is smaller than tag and nonce.
    pub fn open(&self, page: &mut [u8]) -> bool {
        let (text, tag, nonce) = self.parts(page);
        self.aead.open(nonce, &[], text, tag).is_ok()
    }

    fn parts<'a>(&self, page: &'a mut [u8]) -> (&'a mut [u8], &'a mut [u8; TAG_LEN], &'a mut [u8]) {
        let text_len = page.len() - usize::from(self.cipher.reserved_bytes());
        let (text, tail) = page.split_at_mut(text_len);
        let (tag, nonce) = tail.split_at_mut(TAG_LEN);
        let Some(tag) = tag.first_chunk_mut() else { unreachable!("the part has this length") };
        (text, tag, nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_cipher_opens_only_what_it_sealed() {
        for cipher in Cipher::ALL {
            let mut bare = BareCipher::new(*cipher).unwrap();
            let mut page = vec![7; 4096];
            bare.seal(&mut page);
            let sealed = page.clone();
            assert_ne!(page[..100], [7; 100], "{cipher}");
            assert!(bare.open(&mut page), "{cipher}");
            let text_len = 4096 - usize::from(cipher.reserved_bytes());
            assert!(page[..text_len].iter().all(|byte| *byte == 7), "{cipher}");
            let mut damaged = sealed.clone();
            damaged[0] ^= 1;
            assert!(!bare.open(&mut damaged), "{cipher}");
            let mut again = vec![7; 4096];
            bare.seal(&mut again);
            assert_ne!(again, sealed, "{cipher}: a nonce is used once");
        }
    }
}
