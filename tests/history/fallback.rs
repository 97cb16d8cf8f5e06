//! A view whose snapshot is damaged falls back to an older snapshot, even if the first attempt to find one fails.

use std::{fs, os::unix::fs::FileExt, path::Path};

use litefleet::{Cipher, Error};

use crate::{
    maintain::{maintain_a_day_later, restart_wal, with_history, write},
    support::{Ledger, contents, read_contents},
};

/// The names of the snapshots of a history.
fn snapshots(ledger: &Ledger) -> Vec<String> {
    let names = crate::support::files(&ledger.database_dir().join("archive"));
    let is_snapshot = |name: &String| Path::new(name).extension().is_some_and(|kind| kind == "db");
    names.into_iter().filter(is_snapshot).collect()
}

#[test]
fn view_retries_fallback_after_a_failed_read() {
    for cipher in [None, Some(Cipher::Aegis256)] {
        let (mut ledger, connection) = with_history(cipher, 5);
        maintain_a_day_later(&ledger);
        for _ in 0..2 {
            write(&mut ledger, &connection, 1);
            restart_wal(&connection);
        }
        write(&mut ledger, &connection, 1);
        let expected = contents(&connection);
        let at = ledger.states.last().unwrap().from;
        let (view, _) = ledger.plane.connect_at("orders", at, ledger.options()).unwrap();
        let archive = ledger.database_dir().join("archive");
        let names = snapshots(&ledger);
        assert!(names.len() > 1, "{names:?}");
        let newest = archive.join(names.last().unwrap());
        let len = usize::try_from(fs::metadata(&newest).unwrap().len()).unwrap();
        // Damage every page but the first, which the view has read.
        let damaged = fs::File::options().write(true).open(&newest).unwrap();
        damaged.write_all_at(&vec![0x5a; len - 4096], 4096).unwrap();
        // A directory in place of the stamp file is a read error, not damage.
        let stamps = archive.join("000000000001.stamps");
        let aside = ledger.database_dir().join("aside");
        fs::rename(&stamps, &aside).unwrap();
        fs::create_dir(&stamps).unwrap();
        let error = read_contents(&view).map_err(|error| Error::from_sqlite(&view, error)).unwrap_err();
        assert!(error.to_string().contains("000000000001.stamps"), "{error}");
        fs::remove_dir(&stamps).unwrap();
        fs::rename(&aside, &stamps).unwrap();
        assert!(contents(&view) == expected, "{cipher:?}");
    }
}
