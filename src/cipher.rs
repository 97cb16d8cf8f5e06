//! The nine AEAD ciphers by their API names, their sizes, and keys that are wiped and never printed.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, ErrorKind, Result};

macro_rules! ciphers {
    ($($variant:ident $name:literal key $key:literal reserve $reserve:literal)*) => {
        /// An AEAD cipher that a database's pages can be sealed under.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Cipher {
            $(#[doc = concat!("`", $name, "`: a key of ", $key, " bytes, ", $reserve, " reserved bytes a page.")] $variant,)*
        }

        impl Cipher {
            /// All of them, in the order of the Create Database page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the API, which is the only spelling that is accepted.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The size of a key in bytes.
            #[must_use]
            pub const fn key_len(self) -> usize {
                match self { $(Self::$variant => $key),* }
            }

            /// The bytes at the end of each page that hold its tag and nonce.
            #[must_use]
            pub const fn reserved_bytes(self) -> u8 {
                match self { $(Self::$variant => $reserve),* }
            }
        }
    };
}

ciphers! {
    Aes256Gcm "aes256gcm" key 32 reserve 28
    Aes128Gcm "aes128gcm" key 16 reserve 28
    ChaCha20Poly1305 "chacha20poly1305" key 32 reserve 28
    Aegis128L "aegis128l" key 16 reserve 32
    Aegis128X2 "aegis128x2" key 16 reserve 32
    Aegis128X4 "aegis128x4" key 16 reserve 32
    Aegis256 "aegis256" key 32 reserve 48
    Aegis256X2 "aegis256x2" key 32 reserve 48
    Aegis256X4 "aegis256x4" key 32 reserve 48
}

impl FromStr for Cipher {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|cipher| cipher.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|cipher| cipher.as_str()).collect();
            Error::new(
                ErrorKind::Invalid,
                format!("unknown encryption cipher: {name}. Valid ciphers are: {}", names.join(", ")),
            )
        })
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An encryption key: wiped from memory when dropped, never printed, never stored.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EncryptionKey(Box<[u8]>);

impl EncryptionKey {
    /// Decodes a key from standard padded base64.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is not base64 of 16 or 32 bytes. The error does not repeat the text.
    pub fn from_base64(text: &str) -> Result<Self> {
        let bytes = STANDARD
            .decode(text)
            .map(Zeroizing::new)
            .map_err(|_| Error::new(ErrorKind::Invalid, "encryption key is not valid base64"))?;
        if bytes.len() != 16 && bytes.len() != 32 {
            let message = format!(
                "encryption key must be 16 or 32 bytes of base64, depending on the cipher; got {}",
                bytes.len()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self(bytes.as_slice().into()))
    }

    /// Checks that the key has the size that `cipher` takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], naming both sizes.
    pub fn check_size(&self, cipher: Cipher) -> Result<()> {
        if self.0.len() == cipher.key_len() {
            return Ok(());
        }
        let message = format!(
            "invalid key size for {cipher}: expected {} bytes, got {}",
            cipher.key_len(),
            self.0.len()
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// The key as base64, wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&self.0))
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
        let key = EncryptionKey::from_base64(&text).unwrap();
        assert_eq!(*key.to_base64(), text);
        assert!(!format!("{key:?}").contains('7'));
        for cipher in Cipher::ALL {
            assert_eq!(cipher.as_str().parse::<Cipher>().unwrap(), *cipher);
            assert_eq!(key.check_size(*cipher).is_ok(), cipher.key_len() == 16);
        }
        assert!("AES256GCM".parse::<Cipher>().is_err());
        for bad in ["", "secret!", "c2VjcmV0", &text[..text.len() - 1]] {
            let error = EncryptionKey::from_base64(bad).unwrap_err();
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{error}");
        }
    }
}
