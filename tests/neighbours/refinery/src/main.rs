//! Migrations of the fleet's database by `refinery`.

#[path = "../../fleet.rs"]
mod fleet;

use refinery::{Migration, Runner};

fn main() {
    let fleet = fleet::Fleet::new();
    let migrations = [("V1__item", fleet::TABLE), ("V2__one", fleet::ITEM)]
        .map(|(name, sql)| Migration::unapplied(name, sql).unwrap());
    let mut connection = fleet.connect().unwrap();
    let report = Runner::new(&migrations).run(&mut connection).unwrap();
    assert_eq!(report.applied_migrations().len(), 2);
    let again = Runner::new(&migrations).run(&mut connection).unwrap();
    assert!(again.applied_migrations().is_empty());
    let version: String = connection.query_row(fleet::VERSION, [], |row| row.get(0)).unwrap();
    fleet.check(&version, 1);
}
