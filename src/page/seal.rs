//! The seal of a file, which is in its header: the format, the cipher, the salt and the key check.

use std::{fmt, str::FromStr};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::offsets::{EXPANSION, HEADER_LEN, MAGIC};
use crate::{
    cipher::{Cipher, EncryptionKey, fill_from_system},
    error::{Error, ErrorKind, Result},
};

/// The size of a file's salt in bytes.
pub(super) const SALT_LEN: usize = 16;

/// The size of a key check in bytes.
const KEY_CHECK_LEN: usize = 8;

/// The first bytes of a file in the native format: a name and the format version. The number of the cipher and the key check
/// follow.
const NATIVE: [u8; 7] = *b"LFleet\x01";

/// The first bytes of a file in Turso's format: a name and the format version. The number of the cipher and nine zeros follow.
const TURSO: [u8; 6] = *b"Turso\x00";

const _: () = {
    assert!(NATIVE.len() + 1 + KEY_CHECK_LEN == MAGIC.len());
    assert!(TURSO.len() + 1 + 9 == MAGIC.len());
};

/// The layout of the pages of an encrypted database, and the associated data of their tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PageFormat {
    /// The format of this crate. It detects a page that was moved, swapped or copied from another file, and distinguishes a wrong
    /// key from damage.
    #[default]
    Native,
    /// The format of Turso's engine, for exchange with it. Its tags do not cover page numbers, so it does not detect pages of one
    /// key that were swapped. It has no `chacha20poly1305`.
    Turso,
}

impl PageFormat {
    /// The format's name: `native` or `turso`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Turso => "turso",
        }
    }

    /// Fails with [`ErrorKind::Invalid`] if the format does not have the cipher.
    pub(crate) fn check(self, cipher: Cipher) -> Result<()> {
        if self == Self::Turso && cipher == Cipher::ChaCha20Poly1305 {
            let message = format!("the page format turso has no cipher {cipher}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }
}

impl FromStr for PageFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Native, Self::Turso].into_iter().find(|format| format.as_str() == name).ok_or_else(|| {
            let message = format!("unknown page format: {name}. Page formats are: native, turso");
            Error::new(ErrorKind::Invalid, message)
        })
    }
}

impl fmt::Display for PageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The identity of a sealed file, which is known without its key: its format, and its salt if the format has one. It never
/// changes, and copies of the sealed pages have it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    format: PageFormat,
    salt: Option<[u8; SALT_LEN]>,
}

impl Identity {
    /// Returns `None` if there is a salt and the format has none, or the reverse.
    pub(crate) fn new(format: PageFormat, salt: Option<[u8; SALT_LEN]>) -> Option<Self> {
        (salt.is_some() == (format == PageFormat::Native)).then_some(Self { format, salt })
    }

    pub(crate) fn format(&self) -> PageFormat {
        self.format
    }

    pub(crate) fn salt(&self) -> Option<&[u8]> {
        self.salt.as_ref().map(<[u8; SALT_LEN]>::as_slice)
    }
}

/// The seal of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) format: PageFormat,
    pub(crate) cipher: Cipher,
    /// Random for each file that is not a copy. Zero in Turso's format, which has no salt.
    pub(super) salt: [u8; SALT_LEN],
    /// Zero in Turso's format, which has no key check.
    key_check: [u8; KEY_CHECK_LEN],
}

impl Seal {
    /// Makes the seal of a new file.
    pub(crate) fn new(format: PageFormat, cipher: Cipher, key: &EncryptionKey) -> Result<Self> {
        format.check(cipher)?;
        let mut seal = Self { format, cipher, salt: [0; SALT_LEN], key_check: [0; KEY_CHECK_LEN] };
        if format == PageFormat::Native {
            fill_from_system(&mut seal.salt)?;
            seal.key_check = seal.derive_key_check(key);
        }
        Ok(seal)
    }

    pub(crate) fn identity(&self) -> Identity {
        let salt = (self.format == PageFormat::Native).then_some(self.salt);
        Identity { format: self.format, salt }
    }

    /// Parses the seal in a header. Returns `None` if the file is not sealed.
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Option<Self>> {
        let damaged = |what: &str| Err(Error::new(ErrorKind::Corrupt, format!("damaged header: {what}")));
        let (format, id, rest) = if bytes[..6] == NATIVE[..6] {
            if bytes[6] != NATIVE[6] {
                let message = format!(
                    "encrypted in version {} of the native page format; use a newer litefleet",
                    bytes[6]
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            (PageFormat::Native, bytes[7], &bytes[8..MAGIC.len()])
        } else if bytes[..5] == TURSO[..5] {
            if bytes[5] != TURSO[5] {
                let message = format!(
                    "encrypted in version {} of Turso's page format, which is not supported",
                    bytes[5]
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            (PageFormat::Turso, bytes[6], &bytes[7..MAGIC.len()])
        } else {
            return Ok(None);
        };
        let Some(cipher) = Cipher::from_id(id) else { return damaged("an unknown cipher") };
        let mut seal = Self { format, cipher, salt: [0; SALT_LEN], key_check: [0; KEY_CHECK_LEN] };
        match format {
            PageFormat::Native => {
                seal.key_check.copy_from_slice(rest);
                seal.salt.copy_from_slice(&bytes[EXPANSION.start..EXPANSION.start + SALT_LEN]);
            }
            PageFormat::Turso if format.check(cipher).is_err() => return damaged("an unknown cipher"),
            PageFormat::Turso if rest.iter().any(|byte| *byte != 0) => {
                return damaged("bytes that must be zero");
            }
            PageFormat::Turso => {}
        }
        Ok(Some(seal))
    }

    /// Turns the header of a plain page 1 into that of a sealed one.
    pub(super) fn stamp(&self, page: &mut [u8]) {
        match self.format {
            PageFormat::Native => {
                page[..7].copy_from_slice(&NATIVE);
                page[7] = self.cipher.id();
                page[8..MAGIC.len()].copy_from_slice(&self.key_check);
                page[EXPANSION.start..EXPANSION.start + SALT_LEN].copy_from_slice(&self.salt);
            }
            PageFormat::Turso => {
                page[..MAGIC.len()].fill(0);
                page[..6].copy_from_slice(&TURSO);
                page[6] = self.cipher.id();
            }
        }
    }

    /// Turns bytes of a sealed page 1, from offset `from` on, into those of a plain one. Inverse of [`stamp`](Self::stamp).
    pub(super) fn unstamp(&self, page: &mut [u8], from: usize) {
        for (byte, at) in page.iter_mut().zip(from..) {
            match at {
                at if at < MAGIC.len() => *byte = MAGIC[at],
                at if EXPANSION.contains(&at) && self.format == PageFormat::Native => *byte = 0,
                _ => {}
            }
        }
    }

    /// Whether `key` is the key of the file. Returns `None` if the format has no key check.
    pub(crate) fn is_key(&self, key: &EncryptionKey) -> Option<bool> {
        // Both values are public or derived by a one-way function, so the comparison need not take constant time.
        (self.format == PageFormat::Native).then(|| self.derive_key_check(key) == self.key_check)
    }

    /// The key of the pages.
    pub(super) fn page_key(&self, key: &EncryptionKey) -> Zeroizing<Vec<u8>> {
        match self.format {
            PageFormat::Turso => Zeroizing::new(key.as_bytes().to_vec()),
            PageFormat::Native => self.derive(key, "page", self.cipher.key_len()),
        }
    }

    /// The key of the masks of the checksums in a rollback journal.
    pub(super) fn mask_key(&self, key: &EncryptionKey) -> Zeroizing<Vec<u8>> {
        self.derive(key, "journal mask", 32)
    }

    fn derive_key_check(&self, key: &EncryptionKey) -> [u8; KEY_CHECK_LEN] {
        let mut check = [0; KEY_CHECK_LEN];
        check.copy_from_slice(&self.derive(key, "key check", KEY_CHECK_LEN));
        check
    }

    /// Derives the key of a purpose with HKDF-SHA256 (RFC 5869) from `key` and the salt of the file.
    fn derive(&self, key: &EncryptionKey, purpose: &str, len: usize) -> Zeroizing<Vec<u8>> {
        let mut derived = Zeroizing::new(vec![0; len]);
        let info = ["litefleet ", self.format.as_str(), " 1 ", self.cipher.as_str(), " ", purpose];
        let info = info.map(str::as_bytes);
        let expanded =
            Hkdf::<Sha256>::new(Some(&self.salt), key.as_bytes()).expand_multi_info(&info, &mut derived);
        assert!(expanded.is_ok(), "HKDF-SHA256 derives at most 8160 bytes, not {len}");
        derived
    }
}
