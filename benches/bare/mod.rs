//! The ciphers as their crates provide them, in place and without any overhead.

use litefleet::Cipher;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// A page aligned to a cache line.
#[repr(align(64))]
pub(crate) struct Aligned([u8; 4096]);

impl Aligned {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; 4096]))
    }

    pub(crate) fn page(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A cipher with a key, and a counter as nonce.
pub(crate) struct Bare {
    cipher: Cipher,
    ring: Option<LessSafeKey>,
    counter: u64,
    tag: [u8; 16],
}

impl Bare {
    pub(crate) fn new(cipher: Cipher) -> Self {
        let algorithm = match cipher {
            Cipher::Aes128Gcm => Some(&AES_128_GCM),
            Cipher::Aes256Gcm => Some(&AES_256_GCM),
            Cipher::ChaCha20Poly1305 => Some(&CHACHA20_POLY1305),
            _ => None,
        };
        let ring = algorithm.and_then(|algorithm| {
            UnboundKey::new(algorithm, &vec![7; cipher.key_len()]).ok().map(LessSafeKey::new)
        });
        Self { cipher, ring, counter: 0, tag: [0; 16] }
    }

    fn nonce<const LEN: usize>(&mut self) -> [u8; LEN] {
        self.counter += 1;
        self.same_nonce()
    }

    fn same_nonce<const LEN: usize>(&self) -> [u8; LEN] {
        let mut nonce = [0; LEN];
        nonce[..8].copy_from_slice(&self.counter.to_be_bytes());
        nonce
    }

    /// Opens what `seal` has sealed last.
    pub(crate) fn open(&mut self, page: &mut [u8]) {
        macro_rules! aegis {
            ($($variant:ident $module:ident $key:literal)*) => {
                match self.cipher {
                    $(Cipher::$variant => {
                        let nonce = self.same_nonce();
                        aegis::$module::$variant::<16>::new(&[7; $key], &nonce)
                            .decrypt_in_place(page, &self.tag, &[])
                            .is_ok()
                    })*
                    _ => unreachable!("ring implements the remaining ciphers"),
                }
            };
        }
        let used = page.len() - usize::from(self.cipher.reserved_bytes());
        let page = &mut page[..used];
        let opened = if let Some(key) = &self.ring {
            let nonce = Nonce::assume_unique_for_key(self.same_nonce());
            key.open_in_place_separate_tag(nonce, Aad::empty(), self.tag.into(), page, 0..).is_ok()
        } else {
            aegis! {
                Aegis128L aegis128l 16
                Aegis128X2 aegis128x2 16
                Aegis128X4 aegis128x4 16
                Aegis256 aegis256 32
                Aegis256X2 aegis256x2 32
                Aegis256X4 aegis256x4 32
            }
        };
        assert!(opened, "the page was just sealed");
    }

    /// Seals the part of a page before its reserved bytes.
    pub(crate) fn seal(&mut self, page: &mut [u8]) {
        macro_rules! aegis {
            ($($variant:ident $module:ident $key:literal)*) => {
                match self.cipher {
                    $(Cipher::$variant => {
                        let nonce = self.nonce();
                        aegis::$module::$variant::<16>::new(&[7; $key], &nonce).encrypt_in_place(page, &[])
                    })*
                    _ => unreachable!("ring implements the remaining ciphers"),
                }
            };
        }
        let used = page.len() - usize::from(self.cipher.reserved_bytes());
        let page = &mut page[..used];
        if self.ring.is_some() {
            let nonce = Nonce::assume_unique_for_key(self.nonce());
            let key = self.ring.as_ref().unwrap_or_else(|| unreachable!("it is there"));
            match key.seal_in_place_separate_tag(nonce, Aad::empty(), page) {
                Ok(tag) => self.tag.copy_from_slice(tag.as_ref()),
                Err(error) => panic!("{error}"),
            }
            return;
        }
        self.tag = aegis! {
            Aegis128L aegis128l 16
            Aegis128X2 aegis128x2 16
            Aegis128X4 aegis128x4 16
            Aegis256 aegis256 32
            Aegis256X2 aegis256x2 32
            Aegis256X4 aegis256x4 32
        };
    }
}
