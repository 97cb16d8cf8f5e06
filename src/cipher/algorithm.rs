//! The names, numbers and sizes of the ciphers.

use std::{fmt, str::FromStr};

use super::aead::TAG_LEN;
use crate::error::{Error, ErrorKind, Result};

macro_rules! ciphers {
    ($($variant:ident $name:literal id $id:literal key $key:literal nonce $nonce:literal)*) => {
        /// An AEAD cipher that a database's pages can be sealed under.
        ///
        /// All have a tag of 16 bytes. The tag and the nonce are in the reserved bytes at the end of each page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Cipher {
            $(#[doc = concat!("`", $name, "`: a key of ", $key, " bytes and a nonce of ", $nonce, ".")] $variant,)*
        }

        impl Cipher {
            /// All ciphers, in the order of the Create Database page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the API. No other spelling is accepted.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The number of the cipher in the header of a file.
            pub(crate) const fn id(self) -> u8 {
                match self { $(Self::$variant => $id),* }
            }

            /// The size of a key in bytes.
            #[must_use]
            pub const fn key_len(self) -> usize {
                match self { $(Self::$variant => $key),* }
            }

            /// The size of a nonce in bytes.
            #[must_use]
            pub const fn nonce_len(self) -> usize {
                match self { $(Self::$variant => $nonce),* }
            }

            /// The bytes at the end of each page that hold its tag and nonce.
            #[must_use]
            pub const fn reserved_bytes(self) -> u8 {
                match self { $(Self::$variant => RESERVED_FOR_TAG + $nonce),* }
            }
        }
    };
}

/// The length of the shortest key in base64.
const KEY_TEXT_MIN: usize = 22;

const RESERVED_FOR_TAG: u8 = 16;
const _: () = assert!(RESERVED_FOR_TAG as usize == TAG_LEN);

// The numbers are those of Turso's engine, except for 9: it has no ChaCha20-Poly1305.
ciphers! {
    Aes256Gcm "aes256gcm" id 2 key 32 nonce 12
    Aes128Gcm "aes128gcm" id 1 key 16 nonce 12
    ChaCha20Poly1305 "chacha20poly1305" id 9 key 32 nonce 12
    Aegis128L "aegis128l" id 6 key 16 nonce 16
    Aegis128X2 "aegis128x2" id 7 key 16 nonce 16
    Aegis128X4 "aegis128x4" id 8 key 16 nonce 16
    Aegis256 "aegis256" id 3 key 32 nonce 32
    Aegis256X2 "aegis256x2" id 4 key 32 nonce 32
    Aegis256X4 "aegis256x4" id 5 key 32 nonce 32
}

impl Cipher {
    /// The cipher with a number in the header of a file.
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|cipher| cipher.id() == id)
    }
}

#[cold]
pub(super) fn wrong_key_len(cipher: Cipher, len: usize) -> Error {
    let message = format!("invalid key size for {cipher}: expected {} bytes, got {len}", cipher.key_len());
    Error::new(ErrorKind::Invalid, message)
}

impl FromStr for Cipher {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|cipher| cipher.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|cipher| cipher.as_str()).collect();
            // A name as long as a key may be a key.
            let name = if name.len() < KEY_TEXT_MIN { name } else { "(not shown)" };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::NONCE_LEN_MAX;

    #[test]
    fn names_and_ids_round_trip() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.as_str().parse::<Cipher>().unwrap(), *cipher);
            assert_eq!(Cipher::from_id(cipher.id()), Some(*cipher));
            assert!(cipher.nonce_len() <= NONCE_LEN_MAX);
        }
        assert_eq!((Cipher::from_id(0), Cipher::from_id(10)), (None, None));
        let error = "AES256GCM".parse::<Cipher>().unwrap_err().to_string();
        assert!(error.ends_with("aes256gcm, aes128gcm, chacha20poly1305, aegis128l, aegis128x2, aegis128x4, aegis256, aegis256x2, aegis256x4"), "{error}");
    }
}
