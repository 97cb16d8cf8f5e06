//! Numbered transactions, and the state after each, computed by a plain database in memory.

use std::hash::{DefaultHasher, Hash, Hasher};

use litefleet::rusqlite::{self, Connection};

use crate::support::{query, run};

/// The schema before the first transaction. The table `state` holds the number of the last transaction.
pub(crate) const SCHEMA: &str = "CREATE TABLE state(n INTEGER); INSERT INTO state VALUES (0);
    CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT NOT NULL, bytes TEXT); CREATE INDEX i ON t(word)";

/// A deterministic pseudo-random generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A random index.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}

/// The statements of transaction `n`, a function of `n`: growth, shrinking, repeated updates, savepoints, large rows,
/// tables created and dropped.
pub(crate) fn transaction(n: u64, schema: &str) -> String {
    let change = match n % 9 {
        0 | 6 => format!(
            "WITH RECURSIVE k(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM k WHERE i < {})
             INSERT INTO t(word, bytes) SELECT (i * 7919 + {n}) % 1009 || ' of {n}',
                printf('%.*c', (i * 37 + {n} * 101) % 900, char(97 + {n} % 26)) FROM k",
            20 + n % 50
        ),
        1 => format!("UPDATE t SET word = word || '.{n}' WHERE id % 5 = {n} % 5"),
        2 => format!("DELETE FROM t WHERE id % 11 = {n} % 11"),
        3 => format!("INSERT INTO t(word, bytes) VALUES ('large {n}', printf('%.*c', 20000 + {n} % 7 * 4096, 'l'))"),
        4 => format!(
            "INSERT INTO t(word) VALUES ('one {n}'); SAVEPOINT s; DELETE FROM t WHERE id % 2;
             UPDATE t SET bytes = bytes || 'undone'; ROLLBACK TO s; UPDATE t SET bytes = bytes || '{n}' WHERE id % 4 = 1"
        ),
        5 => format!(
            "UPDATE t SET bytes = printf('%.*c', (id * 53 + {n}) % 1500, 'm') WHERE id % 3 = {n} % 3;
             UPDATE t SET word = {n} || word WHERE id % 2; UPDATE t SET bytes = bytes || 'e' WHERE id % 7 = 0"
        ),
        7 => format!(
            "DELETE FROM t WHERE id % 2 = {n} / 9 % 2 AND (SELECT count(*) FROM t) > 300;
             UPDATE t SET bytes = substr(bytes, 1, 700), word = substr(word, 1, 60)"
        ),
        _ if (n / 9).is_multiple_of(2) => format!("CREATE TABLE {schema}.x{} AS SELECT * FROM t LIMIT 200", n / 18 % 3),
        _ => format!("DROP TABLE IF EXISTS {schema}.x{}; INSERT INTO t(word) VALUES ('dropped')", n / 18 % 3),
    };
    // Drop the table first if it exists.
    let first =
        if n % 9 == 8 { format!("DROP TABLE IF EXISTS {schema}.x{};", n / 18 % 3) } else { String::new() };
    format!("BEGIN IMMEDIATE; {first} {change}; UPDATE state SET n = {n}; COMMIT")
}

/// The number of the last transaction.
pub(crate) fn number(connection: &Connection) -> rusqlite::Result<u64> {
    query::<i64>(connection, "SELECT n FROM state").map(i64::cast_unsigned)
}

/// A fingerprint of the contents.
pub(crate) fn digest(connection: &Connection, schema: &str) -> rusqlite::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut take = |sql: &str| -> rusqlite::Result<()> {
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for at in 0..columns {
                row.get_ref(at)?.as_bytes_or_null()?.hash(&mut hasher);
            }
        }
        Ok(())
    };
    take("SELECT CAST(n AS TEXT) FROM state")?;
    take("SELECT CAST(id AS TEXT), word, bytes FROM t ORDER BY id")?;
    take("SELECT word, CAST(id AS TEXT) FROM t INDEXED BY i ORDER BY word, id")?;
    for table in ["x0", "x1", "x2"] {
        let is_there = format!("SELECT count(*) FROM {schema}.sqlite_schema WHERE name = '{table}'");
        if query::<i64>(connection, &is_there)? > 0 {
            take(&format!("SELECT '{table}', word, bytes FROM {schema}.{table}"))?;
        }
    }
    Ok(hasher.finish())
}

/// The expected state after each transaction.
pub(crate) struct Model {
    connection: Connection,
    digests: Vec<u64>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let connection = Connection::open_in_memory().unwrap();
        run(&connection, SCHEMA).unwrap();
        let digests = vec![digest(&connection, "main").unwrap()];
        Self { connection, digests }
    }

    /// The digest after transaction `n`.
    pub(crate) fn after(&mut self, n: u64) -> u64 {
        let n = usize::try_from(n).unwrap();
        while self.digests.len() <= n {
            run(&self.connection, &transaction(self.digests.len() as u64, "main")).unwrap();
            self.digests.push(digest(&self.connection, "main").unwrap());
        }
        self.digests[n]
    }

    /// Checks the integrity of a database and that it is in the state of some transaction. Returns that transaction's
    /// number.
    pub(crate) fn check(&mut self, connection: &Connection, schema: &str) -> Result<u64, String> {
        let n = number(connection).map_err(|error| format!("reading the transaction number: {error}"))?;
        let found = digest(connection, schema)
            .map_err(|error| format!("reading all rows after transaction {n}: {error}"))?;
        if found != self.after(n) {
            return Err(format!("wrong rows after transaction {n}"));
        }
        let check: String = query(connection, &format!("PRAGMA {schema}.integrity_check"))
            .map_err(|error| format!("integrity check after transaction {n}: {error}"))?;
        if check == "ok" { Ok(n) } else { Err(format!("integrity check after transaction {n}: {check}")) }
    }
}
