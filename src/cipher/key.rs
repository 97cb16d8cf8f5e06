//! Encryption keys: checked when they come in, wiped when they go, never shown.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Cipher, wrong_key_len};
use crate::error::{Error, ErrorKind, Result};

/// An encryption key: wiped from memory when dropped, never printed, never stored.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EncryptionKey(Box<[u8]>);

impl EncryptionKey {
    /// Decodes a key from standard padded base64. White space around it, as a file has it, is no part of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is not base64 of 16 or 32 bytes. The error does not repeat the text.
    pub fn from_base64(text: &str) -> Result<Self> {
        let bytes = STANDARD
            .decode(text.trim_ascii())
            .map(Zeroizing::new)
            .map_err(|_| Error::new(ErrorKind::Invalid, "encryption key is not valid base64"))?;
        Self::from_bytes(&bytes)
    }

    /// Takes a key as its bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if they are not 16 or 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if Cipher::ALL.iter().any(|cipher| cipher.key_len() == bytes.len()) {
            return Ok(Self(bytes.into()));
        }
        let message = format!(
            "encryption key must be 16 or 32 bytes of base64, depending on the cipher; got {}",
            bytes.len()
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// Makes a key for `cipher` from the operating system's random generator.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the operating system has none to give.
    pub fn generate(cipher: Cipher) -> Result<Self> {
        let mut key = Self(vec![0; cipher.key_len()].into());
        super::nonce::fill_from_system(&mut key.0)?;
        Ok(key)
    }

    /// Checks that the key has the size that `cipher` takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], naming both sizes.
    pub fn check_size(&self, cipher: Cipher) -> Result<()> {
        if self.0.len() == cipher.key_len() { Ok(()) } else { Err(wrong_key_len(cipher, self.0.len())) }
    }

    /// The key as base64, wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&self.0))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_checked_against_its_cipher_and_never_shown() {
        let text = STANDARD.encode([7; 16]);
        let key = EncryptionKey::from_base64(&format!(" {text}\n")).unwrap();
        assert_eq!(*key.to_base64(), text);
        assert!(!format!("{key:?}").contains('7'));
        for cipher in Cipher::ALL {
            assert_eq!(key.check_size(*cipher).is_ok(), cipher.key_len() == 16);
            let made = EncryptionKey::generate(*cipher).unwrap();
            made.check_size(*cipher).unwrap();
            assert!(made != EncryptionKey::generate(*cipher).unwrap());
        }
        for bad in ["", "secret!", "c2VjcmV0", &text[..text.len() - 1]] {
            let error = EncryptionKey::from_base64(bad).unwrap_err();
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
    }
}
