//! The tour: the main features on real files, step by step, in a temporary fleet.

use std::path::Path;

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, EncryptionKey, Error,
    ErrorKind, RemoteEncryption, RestoreOptions, Result, Timestamp, rusqlite::Connection,
};

use super::output::print;

pub(crate) fn run() -> Result<()> {
    let root = std::env::temp_dir().join(format!("litefleet-tour-{}", std::process::id()));
    let plane = ControlPlane::open(root.join("fleet"))?;
    print(&format!("A control plane on {}", plane.root().display()))?;
    let toured = tour(&plane, &root);
    drop(plane);
    std::fs::remove_dir_all(&root)
        .map_err(|error| Error::new(ErrorKind::Io, format!("removing {}: {error}", root.display())))?;
    toured?;
    print("\nDone; its directory is removed. Your own: litefleet --root DIR group create default")
}

fn tour(plane: &ControlPlane, root: &Path) -> Result<()> {
    plane.create_group("default")?;
    let made = plane.create_database(CreateDatabaseInput::new("orders", "default"))?;
    print(&format!("\n1. Created database {} ({}), an empty SQLite file:", made.name, made.id))?;
    show_file(plane, "orders")?;

    let orders = plane.connect("orders", ConnectOptions::default())?;
    execute(
        &orders,
        "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, price INTEGER);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
         INSERT INTO item SELECT i, 'item ' || i, i % 97 FROM n",
    )?;
    print(&format!("\n2. Wrote 10,000 rows through rusqlite; sum(price) = {}", sum(&orders)?))?;

    plane.create_database(CreateDatabaseInput::fork("experiment", "orders"))?;
    let experiment = plane.connect("experiment", ConnectOptions::default())?;
    execute(&experiment, "UPDATE item SET price = price * 2")?;
    print(&format!(
        "\n3. Forked it while it is open, and doubled the prices in the fork:\n   orders {}, experiment {}",
        sum(&orders)?,
        sum(&experiment)?
    ))?;
    show_file(plane, "experiment")?;

    let file = root.join("uploaded.sqlite");
    let outside = Connection::open(&file).map_err(|error| Error::new(ErrorKind::Sql, error.to_string()))?;
    execute(
        &outside,
        "PRAGMA page_size=1024; CREATE TABLE item(name, price); INSERT INTO item VALUES ('pen', 3), ('ink', 4)",
    )?;
    plane.import_database(CreateDatabaseInput::new("shop", "default"), file.as_path())?;
    let shop = plane.connect("shop", ConnectOptions::default())?;
    print(&format!("\n4. Imported a SQLite file that another program wrote; sum(price) = {}", sum(&shop)?))?;
    show_file(plane, "shop")?;

    let limit = DatabaseChanges::default().size_limit("64kb".parse()?);
    plane.configure_database("shop", limit)?;
    let refused = execute(&shop, "INSERT INTO item VALUES (randomblob(1000000), 1)");
    print("\n5. Limited it to 64kb. A write beyond that, on the connection that was already open:")?;
    print(&format!(
        "   {}; sum(price) is still {}",
        refused.err().map_or_else(String::new, |error| error.to_string()),
        sum(&shop)?
    ))?;

    let key = EncryptionKey::generate(Cipher::Aegis256X2)?;
    let encryption = RemoteEncryption::new(key.clone(), Cipher::Aegis256X2)?;
    plane.create_database(CreateDatabaseInput::fork("vault", "orders").with_encryption(encryption))?;
    let vault = plane.connect("vault", ConnectOptions::default().encryption_key(key))?;
    print(&format!(
        "\n6. Forked orders into a database whose pages are encrypted under aegis256x2; sum(price) = {};\n   without its key: {}",
        sum(&vault)?,
        plane
            .connect("vault", ConnectOptions::default())
            .err()
            .map_or_else(String::new, |error| error.to_string())
    ))?;
    show_file(plane, "vault")?;

    execute(&orders, "DELETE FROM item WHERE price > 50")?;
    let commits = plane.points("orders", ..)?.points;
    print("\n7. Deleted rows of orders by mistake. Its recovery points, one for each commit:")?;
    for commit in &commits {
        print(&format!("   {}  {} pages", commit.at, commit.pages))?;
    }
    let (deleted, wrong) = (sum(&orders)?, commits.len().saturating_sub(2));
    let before = commits.get(wrong).map_or_else(Timestamp::now, |commit| commit.at);
    let (view, _) = plane.connect_at("orders", before, ConnectOptions::default())?;
    print(&format!("   sum(price) is {deleted} now, and {} in a view of the second to last", sum(&view)?))?;
    let restored = plane.restore_database("orders", before, RestoreOptions::default())?;
    print(&format!("\n8. Restored orders to it in one transaction; sum(price) = {}", sum(&orders)?))?;
    if let Some(undo) = restored.undo {
        print(&format!("   A restore to {undo} would undo that."))?;
    }

    plane.destroy_database("experiment")?;
    print(&format!(
        "\n9. Destroyed the fork. Left in the fleet: {}",
        plane
            .list_databases(litefleet::ListDatabases::default())?
            .iter()
            .map(|found| found.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    ))
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.execute_batch(sql).map_err(|error| Error::from_sqlite(connection, error))
}

fn sum(connection: &Connection) -> Result<i64> {
    connection
        .query_row("SELECT sum(price) FROM item", [], |row| row.get(0))
        .map_err(|error| Error::from_sqlite(connection, error))
}

fn show_file(plane: &ControlPlane, name: &str) -> Result<()> {
    print(&format!(
        "   {} ({} bytes with its log)",
        plane.database_path(name)?.display(),
        plane.database_size(name)?
    ))
}
