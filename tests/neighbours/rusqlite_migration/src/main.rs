//! Migrations of the fleet's database by `rusqlite_migration`.

#[path = "../../fleet.rs"]
mod fleet;

use rusqlite_migration::{M, Migrations, SchemaVersion};

fn main() {
    let fleet = fleet::Fleet::new();
    let migrations = Migrations::new(vec![M::up(fleet::TABLE).down("DROP TABLE item"), M::up(fleet::ITEM)]);
    let mut connection = fleet.connect().unwrap();
    migrations.to_latest(&mut connection).unwrap();
    let version: String = connection.query_row(fleet::VERSION, [], |row| row.get(0)).unwrap();
    fleet.check(&version, 1);
    assert!(
        matches!(migrations.current_version(&connection).unwrap(), SchemaVersion::Inside(version) if version.get() == 2)
    );
}
