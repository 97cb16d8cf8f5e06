//! Expressions in the schema of an untrusted file: CHECK constraints are never evaluated, and expressions that must
//! be evaluated are bounded in length, memory and time.

use std::{fs, io::Cursor, ops::ControlFlow, path::PathBuf};

use litefleet::{
    Cipher, ConnectOptions, CreateDatabaseInput, EncryptionKey, ErrorKind, Phase, RemoteEncryption, Upload,
    rusqlite::{Connection, functions::FunctionFlags},
};

use crate::{
    import::input,
    support::{Fleet, count, refused},
};

/// One cipher whose databases SQLite rewrites row by row, and one whose pages are sealed one by one.
const CIPHERS: [Cipher; 2] = [Cipher::Aegis256X2, Cipher::Aes256Gcm];

fn key(cipher: Cipher) -> EncryptionKey {
    EncryptionKey::from_bytes(&vec![0x5a; cipher.key_len()]).unwrap()
}

fn sealed(name: &str, cipher: Cipher) -> CreateDatabaseInput {
    input(name).with_encryption(RemoteEncryption::new(key(cipher), cipher).unwrap())
}

/// Replaces expensive functions of a connection by constants, so that it can create schemas that would take too long.
fn forge(connection: &Connection) {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    for (name, arguments) in [("zeroblob", 1), ("hex", 1), ("instr", 2), ("trim", 2), ("replace", 3)] {
        connection.create_scalar_function(name, arguments, flags, |_| Ok("0")).unwrap();
    }
}

/// Creates a file through a connection with [forged](forge) functions.
fn forged(fleet: &Fleet, name: &str, sql: &str) -> PathBuf {
    let path = fleet.dir.path().join(name);
    let connection = Connection::open(&path).unwrap();
    forge(&connection);
    connection.execute_batch(sql).unwrap();
    path
}

/// Imports a file as a plain database and as encrypted ones, from a path and from a stream. Returns the results.
fn import_all(fleet: &Fleet, path: &PathBuf) -> Vec<litefleet::Result<Vec<String>>> {
    let bytes = fs::read(path).unwrap();
    let mut answers = Vec::new();
    let inputs = [input("plain"), sealed("vault", CIPHERS[0]), sealed("other", CIPHERS[1])];
    for made in inputs {
        for from_path in [true, false] {
            let name = made.name.clone();
            let answer = if from_path {
                fleet.plane.import_database(made.clone(), path.as_path())
            } else {
                fleet.plane.import_database(made.clone(), Upload::Reader(&mut Cursor::new(&bytes)))
            };
            if answer.is_ok() {
                fleet.plane.destroy_database(&name).unwrap();
            }
            answers.push(answer.map(|made| made.unchecked));
        }
    }
    fleet.assert_no_debris();
    answers
}

#[test]
fn check_constraints_are_not_evaluated() {
    let fleet = Fleet::new();
    for (name, check) in [
        // One that is violated, one that fails when evaluated, and one that takes an hour.
        ("violated", "a > 0"),
        ("fails", "abs(-9223372036854775807 - 1 + a - a) > 0"),
        ("slow", "instr(zeroblob(100000000), zeroblob(50000000) || x'01') = 0"),
    ] {
        let path = fleet.dir.path().join(name);
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!(
                "PRAGMA ignore_check_constraints=ON; CREATE TABLE t(a CHECK ({check})); INSERT INTO t VALUES (0);
                 CREATE VIRTUAL TABLE f USING fts5(body, content=t, content_rowid=a)"
            ))
            .unwrap();
        for answer in import_all(&fleet, &path) {
            assert_eq!(answer.unwrap(), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn import_refuses_expressions_beyond_bounds() {
    let fleet = Fleet::new();
    let many = vec!["a + 1"; 20_000].join(", ");
    let cases = [
        // Amplification: a small row with a large result.
        (
            "length",
            "CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE INDEX i ON t(hex(zeroblob(450000000)))"
                .to_owned(),
            "bytes, the bound while its expressions are evaluated",
        ),
        (
            "stored",
            "CREATE TABLE t(a, b TEXT NOT NULL AS (hex(zeroblob(a)))); INSERT INTO t VALUES (450000000)"
                .to_owned(),
            "bytes, the bound while its expressions are evaluated",
        ),
        (
            "replaced",
            "CREATE TABLE t(a); INSERT INTO t VALUES (1);
             CREATE INDEX i ON t(a) WHERE replace(hex(zeroblob(200000)), '0', hex(zeroblob(20000))) = 'x'"
                .to_owned(),
            "bytes, the bound while its expressions are evaluated",
        ),
        // SQLite bounds these buffers by available memory only: 1.5 GB from a row of 3 MB, and 1.3 GB from none.
        (
            "escaped",
            format!(
                "CREATE TABLE t(a); INSERT INTO t VALUES (printf('%.*c', 3000000, char(1)));
                 CREATE INDEX i ON t(a + 1); PRAGMA writable_schema=ON;
                 UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(length(json_array({})))' WHERE name = 'i'",
                vec!["a"; 100].join(", ")
            ),
            "bytes, the bound while its expressions are evaluated",
        ),
        (
            "pretty",
            "CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE INDEX i ON t(a + 1); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(json_pretty(
                replace(hex(zeroblob(900)), ''00'', ''['') || replace(hex(zeroblob(900)), ''00'', '']''),
                hex(zeroblob(20000))))' WHERE name = 'i'"
                .to_owned(),
            "a call of json_pretty()",
        ),
        // A single call whose time is the product of its argument lengths.
        (
            "instr",
            "CREATE TABLE t(a); INSERT INTO t VALUES (1);
             CREATE INDEX i ON t(a) WHERE instr(zeroblob(2000000), zeroblob(1000000) || x'01') = 7"
                .to_owned(),
            "a call of instr()",
        ),
        (
            "trim",
            "CREATE TABLE t(a); INSERT INTO t VALUES (1);
             CREATE INDEX i ON t(a) WHERE trim(hex(zeroblob(500000)), hex(zeroblob(500000))) = 'x'"
                .to_owned(),
            "a call of trim()",
        ),
        // More instructions per row than the check allows between interruptions.
        (
            "row",
            format!(
                "CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE INDEX i ON t(a) WHERE a IN ({many})"
            ),
            "instructions of SQLite",
        ),
    ];
    for (name, sql, text) in cases {
        let path = forged(&fleet, name, &sql);
        for answer in import_all(&fleet, &path) {
            let (kind, found) = refused(answer);
            assert_eq!(kind, ErrorKind::Unsupported, "{name}: {found}");
            assert!(found.contains(text) && !found.contains('\n'), "{name}: {found}");
        }
    }
}

/// SQLite reads statistics whenever it loads the schema, on every connection.
#[test]
fn import_refuses_generated_column_in_statistics() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("statistics");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1); ANALYZE")
        .unwrap();
    connection
        .execute_batch(
            "PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1(tbl, idx, was, stat AS (hex(zeroblob(400000000))))'
             WHERE name = 'sqlite_stat1'",
        )
        .unwrap();
    drop(connection);
    for answer in import_all(&fleet, &path) {
        let (kind, text) = refused(answer);
        assert_eq!(kind, ErrorKind::Unsupported, "{text}");
        assert!(text.contains("sqlite_stat1 has a generated column"), "{text}");
    }
}

#[test]
fn ordinary_expressions_are_checked_beside_large_values() {
    let fleet = Fleet::new();
    let path = fleet.dir.path().join("documents");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            r#"CREATE TABLE doc(id INTEGER PRIMARY KEY, body TEXT, title TEXT NOT NULL AS (json_extract(body, '$.title')),
                                words INT AS (length(body)) STORED, picture BLOB);
               CREATE INDEX by_title ON doc(title); CREATE UNIQUE INDEX by_hex ON doc(lower(hex(title)), id);
               CREATE INDEX some ON doc(words) WHERE title LIKE 'A%' AND instr(body, 'x') > 0 AND trim(title, 'z') GLOB '*';
               INSERT INTO doc(body, picture) VALUES
                 ('{"title": "ak", "text": "' || printf('%.*c', 5000000, 'x') || '"}', zeroblob(60000000)),
                 ('{"title": "bk"}', NULL);
               ANALYZE"#,
        )
        .unwrap();
    for answer in import_all(&fleet, &path) {
        assert_eq!(answer.unwrap(), Vec::<String>::new());
    }
    // An index entry that differs from its expression is found, so the expression is evaluated.
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'lower(', 'upper(') WHERE name = 'by_hex';
             UPDATE sqlite_schema SET sql = replace(sql, 'LIKE ''A%''', 'LIKE ''B%''') WHERE name = 'some'",
        )
        .unwrap();
    for answer in import_all(&fleet, &path) {
        assert_eq!(refused(answer).0, ErrorKind::Corrupt);
    }
}

/// Every step of the check must notice cancellation.
#[test]
fn check_is_cancelled_while_it_evaluates_expressions() {
    let fleet = Fleet::new();
    let rows = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 5000) INSERT INTO t SELECT i FROM n";
    let terms = vec!["hex(zeroblob(300000)) = 'x'"; 30].join(" OR ");
    let sql = format!("CREATE TABLE t(a); {rows}; CREATE INDEX i ON t(a) WHERE {terms}");
    let path = forged(&fleet, "slow", &sql);
    for made in [input("a"), sealed("a", CIPHERS[0])] {
        let mut ticks = 0;
        let answer = fleet.plane.import_database(
            made.progress(|progress| {
                ticks += i32::from(progress.phase == Phase::Check);
                if ticks > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }),
            path.as_path(),
        );
        assert_eq!(refused(answer).0, ErrorKind::Cancelled);
        fleet.assert_no_debris();
    }
}

/// Forks, restores and exports copy pages, or let SQLite copy index entries, and so evaluate no expression of the
/// schema.
#[test]
fn fork_restore_and_export_evaluate_no_expressions() {
    let fleet = Fleet::new();
    fleet.create("a");
    let connection = fleet.connect("a");
    connection.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    forge(&connection);
    let slow = "instr(zeroblob(100000000), zeroblob(50000000) || x'01')";
    connection
        .execute_batch(&format!("CREATE INDEX i ON t({slow}); CREATE INDEX p ON t(a) WHERE {slow} = 7"))
        .unwrap();
    let now = litefleet::Timestamp::now();
    connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    drop(connection);
    let encrypted = RemoteEncryption::new(key(CIPHERS[0]), CIPHERS[0]).unwrap();
    let at =
        |name: &str| CreateDatabaseInput::fork(name, "a").with_seed(litefleet::Seed::database_at("a", now));
    fleet.plane.create_database(CreateDatabaseInput::fork("plain", "a")).unwrap();
    fleet.plane.create_database(at("then")).unwrap();
    for (made, rows) in [(CreateDatabaseInput::fork("vault", "a"), 2), (at("vault-then"), 1)] {
        let name = made.name.clone();
        fleet.plane.create_database(made.with_encryption(encrypted.clone())).unwrap();
        let options = ConnectOptions::default().encryption_key(key(CIPHERS[0]));
        let vault = fleet.plane.connect(&name, options.clone()).unwrap();
        assert_eq!(count(&vault, "SELECT count(*) FROM t NOT INDEXED"), rows, "{name}");
        let out = fleet.dir.path().join(format!("{name}.db"));
        let options = litefleet::ExportOptions::default().encryption_key(key(CIPHERS[0])).decrypt(true);
        fleet.plane.export_database(&name, &out, options).unwrap();
    }

    // A decrypted export works with ordinary expressions and large values.
    let made = CreateDatabaseInput::new("large", "default").with_encryption(encrypted);
    fleet.plane.create_database(made).unwrap();
    let vault =
        fleet.plane.connect("large", ConnectOptions::default().encryption_key(key(CIPHERS[0]))).unwrap();
    vault
        .execute_batch("CREATE TABLE t(a, b); CREATE INDEX i ON t(length(a)); INSERT INTO t VALUES (zeroblob(3000000), 1)")
        .unwrap();
    let out = fleet.dir.path().join("out.db");
    let options = litefleet::ExportOptions::default().encryption_key(key(CIPHERS[0])).decrypt(true);
    fleet.plane.export_database("large", &out, options).unwrap();
    assert_eq!(count(&Connection::open(&out).unwrap(), "SELECT length(a) FROM t"), 3_000_000);
}
