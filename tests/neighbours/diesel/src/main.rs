//! `diesel` opens a database of the fleet under a lease.

#[path = "../../fleet.rs"]
mod fleet;

use diesel::{
    Connection, RunQueryDsl, SqliteConnection, connection::SimpleConnection, dsl::sql, sql_query, sql_types::Text,
};

fn main() {
    let fleet = fleet::Fleet::new();
    let lease = fleet.lease();
    let mut connection = SqliteConnection::establish(lease.uri()).unwrap();
    connection.batch_execute(fleet::TABLE).unwrap();
    connection
        .transaction(|connection| {
            sql_query("INSERT INTO item VALUES (?)").bind::<Text, _>("one").execute(connection)?;
            sql_query("INSERT INTO item VALUES (?)").bind::<Text, _>("two").execute(connection)
        })
        .unwrap();
    let _undone = connection.transaction(|connection| {
        sql_query(fleet::ITEM).execute(connection)?;
        Err::<(), _>(diesel::result::Error::RollbackTransaction)
    });

    let foreign = format!("ATTACH '{}' AS x", fleet.foreign_file());
    connection.batch_execute(&foreign).unwrap_err();
    fleet.block_writes(true);
    connection.batch_execute(fleet::ITEM).unwrap_err();
    fleet.block_writes(false);

    let version: String =
        diesel::select(sql::<Text>(&format!("({})", fleet::VERSION))).get_result(&mut connection).unwrap();
    fleet.check(&version, 2);
    fleet.check_history(2);
    let uri = lease.uri().to_owned();
    drop(lease);
    connection.batch_execute(fleet::ITEM).unwrap();
    assert!(SqliteConnection::establish(&uri).is_err());
}
