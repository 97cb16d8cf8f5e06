//! Sealing and opening pages: between the plain pages of SQLite and the sealed pages in a file.
//!
//! Both have the same size. SQLite leaves the reserved bytes at the end of a plain page zero. In a sealed page they hold the tag
//! and the nonce.

use std::{fmt, ops::Range};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{
    HEADER_LEN,
    offsets::{EXPANSION, PAGE_SIZE_AT, RESERVED_AT},
    seal::{PageFormat, SALT_LEN, Seal},
};
use crate::{
    cipher::{Aead, Ciphertext, EncryptionKey, NONCE_LEN_MAX, Nonces, TAG_LEN},
    error::{Error, ErrorKind, Result},
    sys::read_buf::ReadBuf,
};

/// The minimum number of usable bytes of a page.
const USABLE_MIN: u32 = 480;

/// The maximum number of reserved bytes, as zeros.
const ZEROS: [u8; u8::MAX as usize] = [0; u8::MAX as usize];

/// Why a page was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    /// The tag does not match: the page is damaged, is at another place, or was sealed with another key.
    Unauthentic,
    /// The page has another size or number of reserved bytes, or its reserved bytes are not zero.
    Layout,
    /// The operating system has no random bytes.
    NoNonce,
}

/// Seals and opens the pages of one file.
pub(crate) struct PageCodec {
    seal: Seal,
    page_size: usize,
    aead: Box<dyn Aead>,
    mask: Hmac<Sha256>,
}

impl fmt::Debug for PageCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCodec")
            .field("seal", &self.seal)
            .field("page_size", &self.page_size)
            .finish_non_exhaustive()
    }
}

impl PageCodec {
    /// Makes the codec of a file with this seal.
    ///
    /// Fails with [`ErrorKind::WrongKey`] if the key check of the seal does not match.
    pub(crate) fn new(seal: Seal, page_size: u32, key: &EncryptionKey) -> Result<Self> {
        key.check_size(seal.cipher)?;
        if seal.is_key(key) == Some(false) {
            return Err(Error::new(
                ErrorKind::WrongKey,
                "this is not the key that the database is encrypted under",
            ));
        }
        let reserved = u32::from(seal.cipher.reserved_bytes());
        if page_size < USABLE_MIN + reserved {
            let message = format!("pages of {page_size} bytes are too small for {}", seal.cipher);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mask = Hmac::new_from_slice(&seal.mask_key(key))
            .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
        Ok(Self { aead: seal.cipher.under(&seal.page_key(key))?, seal, page_size: page_size as usize, mask })
    }

    pub(crate) fn seal(&self) -> &Seal {
        &self.seal
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// The part of a sealed page that is ciphertext.
    fn text(&self, page_number: u32) -> Range<usize> {
        let start = if page_number == 1 { HEADER_LEN } else { 0 };
        start..self.page_size - usize::from(self.seal.cipher.reserved_bytes())
    }

    /// The associated data of a page. `header` is the sealed header of page 1.
    fn associated<'a>(
        &self,
        page_number: u32,
        header: &'a [u8],
        own: &'a mut [u8; SALT_LEN + 4],
    ) -> &'a [u8] {
        match (page_number, self.seal.format) {
            (1, _) => header,
            (_, PageFormat::Turso) => &[],
            (_, PageFormat::Native) => {
                own[..SALT_LEN].copy_from_slice(&self.seal.salt);
                own[SALT_LEN..].copy_from_slice(&page_number.to_be_bytes());
                own
            }
        }
    }

    /// Seals the plain page `page_number` into `sealed`. Both have the page size.
    pub(crate) fn seal_page(
        &self,
        page_number: u32,
        plain: &[u8],
        sealed: &mut [u8],
        nonces: &mut Nonces,
    ) -> Result<(), PageFault> {
        let text = self.text(page_number);
        if plain.len() != self.page_size || plain[text.end..] != ZEROS[..self.page_size - text.end] {
            return Err(PageFault::Layout);
        }
        if page_number == 1 && !self.fits(plain) {
            return Err(PageFault::Layout);
        }
        let (body, tail) = sealed.split_at_mut(text.end);
        let (header, body) = body.split_at_mut(text.start);
        let (tag, nonce) = tail.split_at_mut(TAG_LEN);
        nonces.fill(nonce).map_err(|_| PageFault::NoNonce)?;
        if page_number == 1 {
            header.copy_from_slice(&plain[..text.start]);
            self.seal.stamp(header);
        }
        let mut own = [0; SALT_LEN + 4];
        let associated = self.associated(page_number, header, &mut own);
        tag.copy_from_slice(&self.aead.seal(nonce, associated, &plain[text], body));
        Ok(())
    }

    /// Opens the sealed page `page_number` in place. After a failure the page is all zeros.
    pub(crate) fn open_page(&self, page_number: u32, page: &mut [u8]) -> Result<(), PageFault> {
        let opened = self.try_open(page_number, page);
        if opened.is_err() {
            page.fill(0);
        }
        opened
    }

    /// Opens the sealed page `page_number` into `into`, which has the page size. After a failure `into` is all zeros.
    pub(crate) fn open_page_into(
        &self,
        page_number: u32,
        sealed: &[u8],
        into: &mut ReadBuf<'_>,
    ) -> Result<(), PageFault> {
        if sealed.len() != self.page_size || into.len() != self.page_size {
            into.bytes().fill(0);
            return Err(PageFault::Layout);
        }
        // The header is not part of the text.
        if page_number == 1 {
            into.copy_from(sealed);
            return self.open_page(page_number, into.bytes());
        }
        let (text, tail) = sealed.split_at(self.text(page_number).end);
        let Some((tag, nonce)) = tail.split_first_chunk() else { return Err(PageFault::Layout) };
        let mut own = [0; SALT_LEN + 4];
        let associated = self.associated(page_number, &[], &mut own);
        let sealed = Ciphertext { nonce, tag, text };
        let opened = self.aead.open_into(sealed, associated, into).map_err(|_| PageFault::Unauthentic);
        let page = into.bytes();
        let rest = if opened.is_ok() { text.len() } else { 0 };
        page[rest..].fill(0);
        opened
    }

    fn try_open(&self, page_number: u32, page: &mut [u8]) -> Result<(), PageFault> {
        if page.len() != self.page_size {
            return Err(PageFault::Layout);
        }
        let text = self.text(page_number);
        let (body, tail) = page.split_at_mut(text.end);
        let (header, body) = body.split_at_mut(text.start);
        let (Some(tag), nonce) = (tail.first_chunk::<TAG_LEN>(), &tail[TAG_LEN..]) else {
            return Err(PageFault::Layout);
        };
        let mut own = [0; SALT_LEN + 4];
        self.aead
            .open(nonce, self.associated(page_number, header, &mut own), body, tag)
            .map_err(|_| PageFault::Unauthentic)?;
        tail.fill(0);
        if page_number == 1 {
            self.seal.unstamp(header, 0);
            if !self.fits(page) {
                return Err(PageFault::Layout);
            }
        }
        Ok(())
    }

    /// Turns bytes of a sealed header, from offset `from` on, into those of the plain header. They are not authenticated: only
    /// opening page 1 authenticates them.
    pub(crate) fn unstamp(&self, bytes: &mut [u8], from: usize) {
        self.seal.unstamp(bytes, from);
    }

    /// Whether the header of the plain page 1 has the page size and the reserved bytes of this codec.
    fn fits(&self, page: &[u8]) -> bool {
        let size = match u16::from_be_bytes([page[PAGE_SIZE_AT], page[PAGE_SIZE_AT + 1]]) {
            1 => 65_536,
            size => usize::from(size),
        };
        size == self.page_size
            && page[RESERVED_AT] == self.seal.cipher.reserved_bytes()
            && page[EXPANSION].iter().all(|byte| *byte == 0)
    }

    /// The mask of the page's checksum in a rollback journal, which is a sum of plaintext. Every sealed page has another mask,
    /// which cannot be computed without the key.
    pub(crate) fn journal_mask(&self, sealed: &[u8]) -> [u8; 4] {
        let tail = &sealed[self.page_size - usize::from(self.seal.cipher.reserved_bytes())..];
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.mask.clone().chain_update(tail).finalize().into_bytes()[..4]);
        mask
    }
}

const _: () = {
    // The tag and the nonce fill the reserved bytes, whose number is one byte in the header.
    assert!(TAG_LEN + NONCE_LEN_MAX <= u8::MAX as usize);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cipher::Cipher,
        page::{Header, empty_database},
    };

    fn key(cipher: Cipher, byte: u8) -> EncryptionKey {
        EncryptionKey::from_bytes(&vec![byte; cipher.key_len()]).unwrap()
    }

    fn formats(cipher: Cipher) -> impl Iterator<Item = PageFormat> {
        [PageFormat::Native, PageFormat::Turso].into_iter().filter(move |format| format.check(cipher).is_ok())
    }

    fn codec(cipher: Cipher, format: PageFormat) -> PageCodec {
        let key = key(cipher, 1);
        PageCodec::new(Seal::new(format, cipher, &key).unwrap(), 4096, &key).unwrap()
    }

    /// A page with content, and reserved bytes of zero.
    fn plain(cipher: Cipher, number: u32) -> Vec<u8> {
        if number == 1 {
            return empty_database(cipher.reserved_bytes()).to_vec();
        }
        let used = 4096 - usize::from(cipher.reserved_bytes());
        (0..4096).map(|at| if at < used { u8::try_from(at % 251).unwrap() } else { 0 }).collect()
    }

    fn sealed(codec: &PageCodec, number: u32) -> Vec<u8> {
        let mut sealed = vec![0; 4096];
        let mut nonces = Nonces::new().unwrap();
        codec.seal_page(number, &plain(codec.seal.cipher, number), &mut sealed, &mut nonces).unwrap();
        sealed
    }

    /// Opens a page into another buffer, whose contents are then those of the result.
    fn opened_into(codec: &PageCodec, number: u32, sealed: &[u8]) -> (Result<(), PageFault>, Vec<u8>) {
        let mut memory = vec![0xa5; 4096];
        let mut into = ReadBuf::over(&mut memory);
        let opened = codec.open_page_into(number, sealed, &mut into);
        (opened, into.bytes().to_vec())
    }

    #[test]
    fn sealed_page_opens_only_at_its_number() {
        for cipher in Cipher::ALL {
            for format in formats(*cipher) {
                let codec = codec(*cipher, format);
                for number in [1, 2, 3, u32::MAX] {
                    let page = sealed(&codec, number);
                    let mut opened = page.clone();
                    assert_eq!(codec.open_page(number, &mut opened), Ok(()));
                    assert!(opened == plain(*cipher, number), "{cipher} {format} {number}");
                    assert!(opened_into(&codec, number, &page) == (Ok(()), opened));
                    // Sealing a page again gives other bytes.
                    assert!(sealed(&codec, number)[200..] != page[200..]);
                    let (mut elsewhere, other) = (page.clone(), if number == 3 { 4 } else { 3 });
                    let moved = codec.open_page(other, &mut elsewhere);
                    assert!(opened_into(&codec, other, &page) == (moved, elsewhere.clone()));
                    // The tags of this format do not cover page numbers.
                    let unnoticed = format == PageFormat::Turso && number != 1;
                    assert_eq!(moved.is_ok(), unnoticed, "{cipher} {format} {number}");
                    assert!(unnoticed || elsewhere.iter().all(|byte| *byte == 0));
                }
            }
        }
    }

    #[test]
    fn open_page_refuses_any_flipped_bit() {
        for (cipher, format) in [
            (Cipher::Aes128Gcm, PageFormat::Native),
            (Cipher::Aegis256, PageFormat::Native),
            (Cipher::Aegis128X2, PageFormat::Turso),
        ] {
            let codec = codec(cipher, format);
            for number in [1, 2] {
                let page = sealed(&codec, number);
                for at in (0..110).chain((110..4000).step_by(37)).chain(4000..4096) {
                    let mut changed = page.clone();
                    changed[at] ^= 1 << (at % 8);
                    let refused = (Err(PageFault::Unauthentic), vec![0; 4096]);
                    assert!(opened_into(&codec, number, &changed) == refused, "byte {at}");
                    assert_eq!(
                        codec.open_page(number, &mut changed),
                        Err(PageFault::Unauthentic),
                        "byte {at}"
                    );
                    assert!(changed.iter().all(|byte| *byte == 0));
                }
            }
        }
    }

    #[test]
    fn header_has_documented_layout() {
        for cipher in Cipher::ALL {
            for format in formats(*cipher) {
                let codec = codec(*cipher, format);
                let (page, plain) = (sealed(&codec, 1), plain(*cipher, 1));
                let seal = codec.seal();
                match format {
                    PageFormat::Native => {
                        assert_eq!(page[..8], [b"LFleet\x01".as_slice(), &[cipher.id()]].concat());
                        assert_eq!((&page[16..72], &page[88..100]), (&plain[16..72], &plain[88..100]));
                        assert_eq!(page[72..88], seal.salt);
                        assert!(seal.salt != [0; SALT_LEN]);
                    }
                    PageFormat::Turso => {
                        assert_eq!(page[..16], [b"Turso\0".as_slice(), &[cipher.id()], &[0; 9]].concat());
                        assert_eq!(page[16..100], plain[16..100]);
                    }
                }
                assert!(page[100..200] != plain[100..200]);
                let header = Header::parse(page.first_chunk().unwrap()).unwrap();
                assert_eq!((header.seal, header.page_size), (Some(*seal), 4096));
                // The native format detects a wrong key.
                let native = format == PageFormat::Native;
                assert_eq!(seal.is_key(&key(*cipher, 1)), native.then_some(true));
                assert_eq!(seal.is_key(&key(*cipher, 2)), native.then_some(false));
                let wrong = PageCodec::new(*seal, 4096, &key(*cipher, 2)).map(|_| ());
                assert_eq!(wrong.err().map(|error| error.kind()), native.then_some(ErrorKind::WrongKey));
            }
        }
    }

    #[test]
    fn seal_page_refuses_another_layout() {
        let codec = codec(Cipher::Aegis256, PageFormat::Native);
        let mut nonces = Nonces::new().unwrap();
        let mut seal = |number, plain: &[u8]| codec.seal_page(number, plain, &mut vec![0; 4096], &mut nonces);
        assert_eq!(seal(1, &empty_database(48)), Ok(()));
        for reserved in [0, 28, 47, 49] {
            assert_eq!(seal(1, &empty_database(reserved)), Err(PageFault::Layout));
        }
        let mut page = plain(Cipher::Aegis256, 2);
        page[4095] = 1;
        assert_eq!(seal(2, &page), Err(PageFault::Layout));
        assert_eq!(seal(2, &page[..2048]), Err(PageFault::Layout));
        let short = opened_into(&codec, 2, &page[..2048]);
        assert!(short == (Err(PageFault::Layout), vec![0; 4096]));
        // The bytes of the salt, and another page size in the header.
        for at in [72, 91, 16] {
            let mut page = empty_database(48);
            page[at] = 0x20;
            assert_eq!(seal(1, &page), Err(PageFault::Layout));
        }
        let key = key(Cipher::Aegis256, 1);
        let small = Seal::new(PageFormat::Native, Cipher::Aegis256, &key).unwrap();
        assert_eq!(PageCodec::new(small, 512, &key).map(|_| ()).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
