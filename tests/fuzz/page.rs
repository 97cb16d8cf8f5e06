//! Sealed pages: a sealed page opens to its plaintext, and nothing else opens.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use litefleet::{
    Cipher, EncryptionKey, PageFormat, RemoteEncryption,
    internals::{Pages, empty_database},
};

/// The smallest page that every cipher supports.
const PAGE_SIZE: usize = PAGE_LEN as usize;
const PAGE_LEN: u16 = 1024;

/// Every combination of cipher and format, with its reserved bytes.
static PAGES: LazyLock<Vec<(u8, RemoteEncryption)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for cipher in Cipher::ALL {
        let key = EncryptionKey::from_bytes(&vec![7; cipher.key_len()]).expect("a key of that size");
        let native = RemoteEncryption::new(key, *cipher).expect("a key of that size");
        all.push((cipher.reserved_bytes(), native.clone()));
        if *cipher != Cipher::ChaCha20Poly1305 {
            all.push((cipher.reserved_bytes(), native.with_page_format(PageFormat::Turso)));
        }
    }
    all
});

/// A plain page that contains the given bytes.
fn plain(number: u32, reserved: u8, bytes: &[u8]) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    let mut start = 0;
    if number == 1 {
        page[..100].copy_from_slice(&empty_database(reserved)[..100]);
        page[16..18].copy_from_slice(&PAGE_LEN.to_be_bytes());
        start = 100;
    }
    let len = bytes.len().min(PAGE_SIZE - usize::from(reserved) - start);
    page[start..start + len].copy_from_slice(&bytes[..len]);
    page
}

fuzz_target!(|data: &[u8]| {
    let Some((&[which, number, other, at, to, change], bytes)) = data.split_first_chunk() else { return };
    let (reserved, encryption) = &PAGES[usize::from(which) % PAGES.len()];
    let mut pages = Pages::new(encryption, PAGE_LEN.into()).expect("pages of that size");
    let (number, other) = (u32::from(number) + 1, u32::from(other) + 1);

    // Arbitrary bytes do not open, and the buffer is wiped.
    let mut garbage = bytes.to_vec();
    assert!(!pages.open(number, &mut garbage), "{} arbitrary bytes opened", bytes.len());
    assert!(garbage.iter().all(|byte| *byte == 0), "the buffer was not wiped");
    garbage.resize(PAGE_SIZE, change);
    assert!(!pages.open(number, &mut garbage), "an arbitrary page opened");

    let plain = plain(number, *reserved, bytes);
    let mut sealed = vec![0; PAGE_SIZE];
    assert!(pages.seal(number, &plain, &mut sealed), "page {number} was not sealed");
    let mut opened = sealed.clone();
    assert!(
        pages.open(number, &mut opened) && opened == plain,
        "page {number} did not open to its plaintext"
    );

    // A single changed byte.
    let at = usize::from(at) * 256 + usize::from(to);
    let mut changed = sealed.clone();
    changed[at % PAGE_SIZE] ^= change;
    assert!(change == 0 || !pages.open(number, &mut changed), "byte {at} changed by {change} is undetected");

    // Another page number. Turso's format does not bind a page to its number, except page 1.
    let says = encryption.page_format() != Some(PageFormat::Turso) || number == 1 || other == 1;
    let moved = pages.open(other, &mut sealed);
    assert!(number == other || !says || !moved, "page {number} opened as page {other}");
});
