//! The interface of all ciphers: seal and open bytes, with a detached tag.

use crate::sys::read_buf::ReadBuf;

/// The size of a tag in bytes, for every cipher.
pub(crate) const TAG_LEN: usize = 16;

/// The size in which bytes are copied. On some processors, longer copies are up to 25 times as slow if source and target are a
/// little apart modulo 4096.
const PIECE: usize = 2048;

/// Authentication failed: the ciphertext, the associated data, the nonce, the tag or the key differs from that of the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unauthentic;

/// A ciphertext with its nonce and its tag.
#[derive(Clone, Copy)]
pub(crate) struct Ciphertext<'a> {
    pub(crate) nonce: &'a [u8],
    pub(crate) tag: &'a [u8; TAG_LEN],
    pub(crate) text: &'a [u8],
}

/// A cipher with its key.
///
/// # Panics
///
/// The methods panic if the nonce does not have the size that the cipher takes.
pub(crate) trait Aead: Send + Sync {
    /// Encrypts `text` in place and returns its tag.
    fn seal_in_place(&self, nonce: &[u8], associated: &[u8], text: &mut [u8]) -> [u8; TAG_LEN];

    /// Encrypts `plain` into `sealed`, which has its length, and returns the tag.
    fn seal(&self, nonce: &[u8], associated: &[u8], plain: &[u8], sealed: &mut [u8]) -> [u8; TAG_LEN] {
        assert_eq!(plain.len(), sealed.len(), "a ciphertext has the length of its plaintext");
        for (plain, sealed) in plain.chunks(PIECE).zip(sealed.chunks_mut(PIECE)) {
            sealed.copy_from_slice(plain);
        }
        self.seal_in_place(nonce, associated, sealed)
    }

    /// Decrypts `text` in place. After a failure, the contents of `text` are unspecified and must not be used.
    fn open(
        &self,
        nonce: &[u8],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Unauthentic>;

    /// Decrypts `sealed` into the start of `into`, which must not be shorter. After a failure, the contents of `into` are
    /// unspecified and must not be used.
    fn open_into(
        &self,
        sealed: Ciphertext<'_>,
        associated: &[u8],
        into: &mut ReadBuf<'_>,
    ) -> Result<(), Unauthentic> {
        let Ciphertext { nonce, tag, text } = sealed;
        into.copy_from(text);
        self.open(nonce, associated, &mut into.bytes()[..text.len()], tag)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cipher::{Cipher, rustcrypto};

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// The implementation of this build, and for three ciphers the portable one too.
    fn implementations(cipher: Cipher, key: &[u8]) -> Vec<Box<dyn Aead>> {
        [Some(cipher.under(key).unwrap()), rustcrypto::new(cipher, key)].into_iter().flatten().collect()
    }

    #[test]
    fn every_implementation_passes_published_vectors() {
        let file = include_str!("../../fixtures/ciphers/vectors.json");
        let vectors: Vec<BTreeMap<String, serde_json::Value>> = serde_json::from_str(file).unwrap();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for vector in &vectors {
            let text = |field: &str| vector[field].as_str().unwrap();
            let cipher: Cipher = text("cipher").parse().unwrap();
            *seen.entry(cipher.as_str()).or_default() += 1;
            let (nonce, aad, plain) = (hex(text("nonce")), hex(text("aad")), hex(text("plaintext")));
            let (sealed, tag) = (hex(text("ciphertext")), hex(text("tag")));
            let tag = *tag.first_chunk().unwrap();
            for aead in implementations(cipher, &hex(text("key"))) {
                let mut bytes = sealed.clone();
                let opened = aead.open(&nonce, &aad, &mut bytes, &tag);
                let mut memory = vec![0xa5; sealed.len() + 3];
                let mut into = ReadBuf::over(&mut memory);
                let ciphertext = Ciphertext { nonce: &nonce, tag: &tag, text: &sealed };
                let opened_into = aead.open_into(ciphertext, &aad, &mut into);
                assert_eq!(opened_into, opened, "{}", text("source"));
                if vector["valid"] == false {
                    assert_eq!(opened, Err(Unauthentic), "{}", text("source"));
                    continue;
                }
                assert_eq!((opened, &bytes), (Ok(()), &plain), "{}", text("source"));
                assert_eq!(into.bytes(), [plain.as_slice(), &[0; 3]].concat(), "{}", text("source"));
                // Sealing overwrites whatever the target holds.
                let mut resealed = vec![0xa5; plain.len()];
                let made = aead.seal(&nonce, &aad, &plain, &mut resealed);
                assert_eq!((made, &resealed), (tag, &sealed), "{}", text("source"));
                resealed.clone_from(&plain);
                let made = aead.seal_in_place(&nonce, &aad, &mut resealed);
                assert_eq!((made, &resealed), (tag, &sealed), "{}", text("source"));
            }
        }
        assert_eq!(seen.len(), Cipher::ALL.len(), "{seen:?}");
    }

    #[test]
    fn implementations_agree() {
        let mut state = 1_u32;
        let mut random = |len: usize| -> Vec<u8> {
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .take(len)
            .collect()
        };
        for cipher in [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
            for (text, aad) in
                [(0, 0), (1, 20), (15, 100), (16, 0), (4068, 20), (4096 - 28 - 100, 100), (65_508, 20)]
            {
                let (key, nonce) = (random(cipher.key_len()), random(cipher.nonce_len()));
                let (text, aad) = (random(text), random(aad));
                let both = implementations(cipher, &key);
                assert_eq!(both.len(), 2);
                let results: Vec<_> = both
                    .iter()
                    .map(|aead| {
                        let mut bytes = vec![0; text.len()];
                        (aead.seal(&nonce, &aad, &text, &mut bytes), bytes)
                    })
                    .collect();
                assert!(results[0] == results[1], "{cipher}");
                for (aead, (tag, bytes)) in both.iter().zip(results.iter().rev()) {
                    let mut bytes = bytes.clone();
                    assert_eq!(aead.open(&nonce, &aad, &mut bytes, tag), Ok(()));
                    assert!(bytes == text);
                }
            }
        }
    }

    #[test]
    fn open_refuses_any_flipped_bit() {
        for cipher in Cipher::ALL {
            let (key, nonce, aad) = (vec![1; cipher.key_len()], vec![2; cipher.nonce_len()], vec![3; 20]);
            for aead in implementations(*cipher, &key) {
                let mut sealed = vec![0; 100];
                let tag = aead.seal(&nonce, &aad, &[4; 100], &mut sealed);
                for bit in 0..8 * (sealed.len() + tag.len() + nonce.len() + aad.len()) {
                    let (mut bytes, mut tag, mut nonce, mut aad) =
                        (sealed.clone(), tag, nonce.clone(), aad.clone());
                    let mut all = bytes.iter_mut().chain(&mut tag).chain(&mut nonce).chain(&mut aad);
                    *all.nth(bit / 8).unwrap() ^= 1 << (bit % 8);
                    assert_eq!(aead.open(&nonce, &aad, &mut bytes, &tag), Err(Unauthentic), "{cipher} {bit}");
                }
            }
        }
    }

    #[test]
    fn key_of_another_size_is_refused_with_expected_size() {
        for cipher in Cipher::ALL {
            let error = cipher.under(&vec![0; 48 - cipher.key_len()]).err().unwrap().to_string();
            assert!(error.contains(&format!("expected {} bytes", cipher.key_len())), "{error}");
        }
    }
}
