//! Encryption keys. A key is validated when it is constructed, wiped when it is dropped, and never printed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::algorithm::{Cipher, wrong_key_len};
use crate::error::{Error, ErrorKind, Result};

/// An encryption key. It is wiped from memory when it is dropped, and never printed or stored.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EncryptionKey(Box<[u8]>);

impl EncryptionKey {
    /// Decodes a key from standard padded base64. Leading and trailing white space is ignored.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if `text` is not base64 of 16 or 32 bytes. The error does not contain the text.
    pub fn from_base64(text: &str) -> Result<Self> {
        let bytes = STANDARD
            .decode(text.trim_ascii())
            .map(Zeroizing::new)
            .map_err(|_| Error::new(ErrorKind::Invalid, "encryption key is not valid base64"))?;
        Self::from_bytes(&bytes)
    }

    /// Makes a key of its bytes.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if there are not 16 or 32 bytes.
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

    /// Generates a key for `cipher` with the random generator of the operating system.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Io`] if the operating system has no random bytes.
    pub fn generate(cipher: Cipher) -> Result<Self> {
        let mut key = Self(vec![0; cipher.key_len()].into());
        super::nonce::fill_from_system(&mut key.0)?;
        Ok(key)
    }

    /// Checks that the key has the size that `cipher` takes.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if it does not; the message contains both sizes.
    pub fn check_size(&self, cipher: Cipher) -> Result<()> {
        if self.0.len() == cipher.key_len() { Ok(()) } else { Err(wrong_key_len(cipher, self.0.len())) }
    }

    /// The key as base64. The string is wiped when it is dropped.
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
    fn key_is_checked_against_its_cipher_and_never_printed() {
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
