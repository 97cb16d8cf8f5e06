//! Seals and opens a page of 4096 bytes: with this crate's codec, including nonce, layout and copy; with a bare
//! in-place call of the cipher's crate; and, for comparison, copies it.

mod bare;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use litefleet::{Cipher, EncryptionKey, RemoteEncryption, internals::Pages};

const PAGE: usize = 4096;

fn seal_and_open(criterion: &mut Criterion) {
    for cipher in Cipher::ALL {
        let mut group = criterion.benchmark_group(cipher.as_str());
        group.throughput(Throughput::Bytes(PAGE as u64));
        let key = EncryptionKey::generate(*cipher).unwrap_or_else(|error| panic!("{error}"));
        let encryption = RemoteEncryption::new(key, *cipher).unwrap_or_else(|error| panic!("{error}"));
        let mut pages = Pages::new(&encryption, 4096).unwrap_or_else(|error| panic!("{error}"));
        let mut plain = bare::Aligned::new();
        let used = PAGE - usize::from(cipher.reserved_bytes());
        plain.page()[..used].fill(7);
        let mut sealed = bare::Aligned::new();
        group.bench_function("seal", |bench| {
            bench.iter(|| assert!(pages.seal(2, black_box(plain.page()), sealed.page())));
        });
        assert!(pages.seal(2, plain.page(), sealed.page()));
        let mut opened = bare::Aligned::new();
        group.bench_function("copy and open", |bench| {
            bench.iter(|| {
                opened.page().copy_from_slice(sealed.page());
                assert!(pages.open(2, black_box(opened.page())));
            });
        });
        let mut bare = bare::Bare::new(*cipher);
        group.bench_function("bare seal", |bench| bench.iter(|| bare.seal(black_box(plain.page()))));
        group.bench_function("bare seal and open", |bench| {
            bench.iter(|| {
                bare.seal(black_box(plain.page()));
                bare.open(plain.page());
            });
        });
        group.finish();
    }
    let mut group = criterion.benchmark_group("copy");
    group.throughput(Throughput::Bytes(PAGE as u64));
    let (mut from, mut to) = (bare::Aligned::new(), bare::Aligned::new());
    group.bench_function("memcpy", |bench| {
        bench.iter(|| black_box(to.page()).copy_from_slice(black_box(from.page())));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots();
    targets = seal_and_open
}
criterion_main!(benches);
