//! File headers: arbitrary bytes cause no panic, and yield only valid page sizes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use litefleet::internals::page_size;

fuzz_target!(|data: &[u8]| {
    // The input alone, and after the magic of each format.
    for start in [&b""[..], b"SQLite format 3\0", b"LFleet\x01", b"Turso\0"] {
        let mut header = [0; 100];
        header[..start.len()].copy_from_slice(start);
        let len = data.len().min(100 - start.len());
        header[start.len()..start.len() + len].copy_from_slice(&data[..len]);
        if let Ok(size) = page_size(&header) {
            assert!(size.is_power_of_two() && (512..=65_536).contains(&size), "{size}");
        }
    }
});
