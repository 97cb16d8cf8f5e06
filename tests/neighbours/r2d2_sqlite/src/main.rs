//! A pool of `r2d2_sqlite`, whose connections are to a database of the fleet under a lease.

#[path = "../../fleet.rs"]
mod fleet;

use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;

fn main() {
    let fleet = fleet::Fleet::new();
    let lease = fleet.lease();
    let manager = SqliteConnectionManager::file(lease.uri());
    let pool = Pool::builder().max_size(2).test_on_check_out(true).build(manager).unwrap();
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    first.execute_batch(fleet::TABLE).unwrap();
    second.execute_batch(fleet::ITEM).unwrap();

    let foreign = format!("ATTACH '{}' AS x", fleet.foreign_file());
    first.execute_batch(&foreign).unwrap_err();
    fleet.block_writes(true);
    let blocked = first.execute_batch(fleet::ITEM).unwrap_err();
    fleet.check_blocked(blocked.sqlite_error().unwrap().extended_code);
    fleet.block_writes(false);

    let version: String = second.query_row(fleet::VERSION, [], |row| row.get(0)).unwrap();
    fleet.check(&version, 1);
    fleet.check_history(2);
}
