//! Files written here are read by Turso's engine, and the reverse. Requires a Python with `pyturso` 0.8.3, which
//! `LITEFLEET_PYTURSO` names; `.ci/run` installs one.

use std::{path::Path, process::Command};

use litefleet::{Cipher, CreateDatabaseInput, ExportOptions, PageFormat, RemoteEncryption};

use crate::{
    encryption::{copy_files, formats, key, with_key},
    support::{Fleet, count},
};

/// Opens a file with Turso's engine and runs statements; prints the rows of the last one.
const SCRIPT: &str = r#"
import sys, turso
path, cipher, key, *statements = sys.argv[1:]
connection = turso.connect(path, experimental_features="encryption",
                           encryption=turso.EncryptionOpts(cipher=cipher, hexkey=key))
for statement in statements:
    rows = connection.execute(statement).fetchall()
    connection.commit()
print(rows)
connection.close()
"#;

fn turso(python: &str, file: &Path, cipher: Cipher, statements: &[&str]) -> String {
    let hex: String = (0..cipher.key_len()).map(|_| "5a").collect();
    let output = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(file)
        .args([cipher.as_str(), &hex])
        .args(statements)
        .output()
        .unwrap();
    assert!(output.status.success(), "{cipher}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs pyturso 0.8.3: set LITEFLEET_PYTURSO to a Python that has it"]
fn files_round_trip_through_tursos_engine() {
    let python = std::env::var_os("LITEFLEET_PYTURSO").expect("LITEFLEET_PYTURSO is set");
    let python = python.to_str().unwrap();
    for cipher in Cipher::ALL.iter().copied().filter(|cipher| formats(*cipher).len() == 2) {
        let fleet = Fleet::new();
        fleet.create_sealed("ours", cipher, PageFormat::Turso);
        // An empty database.
        let empty = fleet.dir.path().join("empty");
        copy_files(&fleet.database_dir("ours"), &empty, &["data.db"]);
        assert_eq!(
            turso(python, &empty.join("data.db"), cipher, &["CREATE TABLE x(a)", "SELECT count(*) FROM x"]),
            "[(0,)]"
        );

        // Rows in the file, and more in the WAL.
        let connection = fleet.unlock("ours", cipher);
        connection
            .execute_batch(
                "PRAGMA cache_size=5;
                 CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT); CREATE INDEX i ON t(word);
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                 INSERT INTO t SELECT i, 'word ' || i FROM n;
                 PRAGMA wal_checkpoint(TRUNCATE);
                 BEGIN; UPDATE t SET word = word || '!'; UPDATE t SET word = word || '?' WHERE id % 2; COMMIT;
                 INSERT INTO t(word) VALUES ('the last one')",
            )
            .unwrap();
        let live = fleet.dir.path().join("live");
        copy_files(&fleet.database_dir("ours"), &live, &["data.db", "data.db-wal"]);
        let file = live.join("data.db");
        assert!(std::fs::metadata(live.join("data.db-wal")).unwrap().len() > 10_000);
        let sum = "SELECT count(*), sum(id), sum(length(word)), max(word) FROM t";
        let expected = connection
            .query_row(sum, [], |row| {
                Ok(format!(
                    "[({}, {}, {}, '{}')]",
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, String>(3)?
                ))
            })
            .unwrap();
        assert_eq!(turso(python, &file, cipher, &[sum]), expected, "{cipher}");
        assert_eq!(turso(python, &file, cipher, &["PRAGMA integrity_check"]), "[('ok',)]", "{cipher}");

        // Rows written by Turso's engine are read here.
        turso(python, &file, cipher, &["INSERT INTO t(word) VALUES ('theirs')"]);
        let theirs = fleet.dir.path().join("theirs.db");
        turso(
            python,
            &theirs,
            cipher,
            &[
                "CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT)",
                "INSERT INTO t(word) VALUES ('one'), ('two')",
                "INSERT INTO t(word) SELECT word || id FROM t",
            ],
        );
        let encryption = RemoteEncryption::new(key(cipher), cipher).unwrap();
        for (name, file, rows) in [("again", &file, 502), ("theirs", &theirs, 4)] {
            for (format, suffix) in [(PageFormat::Native, "native"), (PageFormat::Turso, "turso")] {
                let name = format!("{name}-{suffix}");
                let input = CreateDatabaseInput::new(&name, "default")
                    .with_encryption(encryption.clone().with_page_format(format));
                fleet.plane.import_database(input, file.as_path()).unwrap();
                let connection = fleet.plane.connect(&name, with_key(key(cipher))).unwrap();
                assert_eq!(count(&connection, "SELECT count(*) FROM t"), rows, "{cipher} {name}");
                connection.execute_batch("INSERT INTO t(word) VALUES ('ours')").unwrap();
            }
        }
        // An export in Turso's format is readable there.
        let exported = fleet.dir.path().join("exported.db");
        let options = ExportOptions::default().encryption_key(key(cipher)).page_format(PageFormat::Turso);
        fleet.plane.export_database("again-native", &exported, options).unwrap();
        assert_eq!(turso(python, &exported, cipher, &["SELECT count(*) FROM t"]), "[(503,)]", "{cipher}");
    }
}
