//! The fleet's database on the thread of a connection of `tokio-rusqlite`.

#[path = "../../fleet.rs"]
mod fleet;

use tokio_rusqlite::Connection;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = fleet::Fleet::new();
    let connection = Connection::from(fleet.connect().unwrap());
    connection.call(|connection| connection.execute_batch(fleet::TABLE)).await.unwrap();
    connection.call(|connection| connection.execute(fleet::ITEM, [])).await.unwrap();
    let version =
        connection.call(|connection| connection.query_row(fleet::VERSION, [], |row| row.get::<_, String>(0)));
    fleet.check(&version.await.unwrap(), 1);
    connection.close().await.unwrap();
}
