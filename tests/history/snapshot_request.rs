//! After a damaged log, the history continues from a snapshot of the live database.

use std::{fs, thread, time::Duration};

use litefleet::{ErrorKind, MaintainOptions, VerifyOptions};

use crate::{
    maintain::{CIPHERS, maintain, set_window, with_history, write},
    support::{files, now},
};

#[test]
fn snapshot_of_live_database_bypasses_damaged_log() {
    for (cipher, mode) in CIPHERS.into_iter().zip(["RESTART", "TRUNCATE"]) {
        for rolled_back in [false, true] {
            let (mut ledger, connection) = with_history(cipher, 3);
            let archive = ledger.database_dir().join("archive");
            let segment = archive.join("000000000002.wal");
            let whole = fs::read(&segment).unwrap();
            fs::write(&segment, &whole[..whole.len() - 10]).unwrap();
            let error = ledger.plane.maintain_database("orders", MaintainOptions::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(files(&archive).contains(&"wanted".into()));
            let begin = |sql: &str| {
                connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
                connection.execute_batch(sql).unwrap();
            };
            if rolled_back {
                // A rolled-back transaction begins the WAL, and the next commit begins it again.
                begin("PRAGMA cache_size = 2; BEGIN; UPDATE t SET value = randomblob(200000); ROLLBACK");
                assert!(files(&archive).contains(&"000000000005.sum".into()));
            } else {
                begin("");
            }
            let first_after_damage = ledger.states.len();
            for _ in 0..2 {
                write(&mut ledger, &connection, 6);
                connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
            }
            write(&mut ledger, &connection, 1);
            ledger.states.last_mut().unwrap().to = now();
            assert!(!files(&archive).contains(&"wanted".into()));
            assert!(files(&archive).contains(&"000000000005.sum".into()));
            let mut refused = 0;
            for (number, state) in ledger.states.clone().into_iter().enumerate() {
                match ledger.viewed_at(state.from) {
                    Ok(found) => assert!(found == state.contents, "state {number}"),
                    Err(error) => {
                        assert!(number < first_after_damage, "state {number}: {error}");
                        assert!(error.to_string().contains("000000000002.wal"), "{error}");
                        refused += 1;
                    }
                }
            }
            assert!(refused >= 6, "{refused}");
            // Maintenance continues from the snapshot.
            maintain(&ledger);
            let verified = ledger.plane.verify_database("orders", VerifyOptions::default());
            let findings = verified.unwrap().findings;
            let names_damaged_log = |finding: &litefleet::Finding| finding.file.ends_with("000000000002.wal");
            assert!(!findings.is_empty() && findings.iter().all(names_damaged_log), "{findings:?}");

            // There is no gap: once the file is restored, every instant is restorable.
            fs::write(&segment, &whole).unwrap();
            for state in &ledger.states {
                assert!(ledger.viewed_at(state.from).unwrap() == state.contents);
            }
            assert_eq!(ledger.plane.points("orders", ..).unwrap().windows.len(), 1);
            fs::remove_file(&segment).unwrap();

            thread::sleep(Duration::from_millis(1100));
            set_window(&ledger, "1s");
            assert!(maintain(&ledger).generations >= 4);
            let last = ledger.states.last().unwrap().clone();
            assert!(ledger.contents_at(last.from).unwrap() == last.contents);
            drop(connection);
        }
    }
}
