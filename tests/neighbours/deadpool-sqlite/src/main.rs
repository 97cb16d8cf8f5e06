//! A pool of connections to the fleet's database, with the wrapper of `deadpool-sqlite`, whose own manager opens by path.

#[path = "../../fleet.rs"]
mod fleet;

use std::sync::Arc;

use deadpool::managed::{Manager, Metrics, Pool, RecycleResult};
use deadpool_sqlite::{Config, Runtime};
use deadpool_sync::SyncWrapper;
use fleet::Fleet;
use litefleet::rusqlite::Connection;

struct Connections(Arc<Fleet>);

impl Manager for Connections {
    type Type = SyncWrapper<Connection>;
    type Error = litefleet::Error;

    async fn create(&self) -> Result<Self::Type, Self::Error> {
        let fleet = Arc::clone(&self.0);
        SyncWrapper::new(Runtime::Tokio1, move || fleet.connect()).await
    }

    async fn recycle(&self, _: &mut Self::Type, _: &Metrics) -> RecycleResult<Self::Error> {
        Ok(())
    }
}

// LEASE: open the database through `Config::new` and the URI of a lease.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let fleet = Arc::new(Fleet::new());
    let pool: Pool<Connections> = Pool::builder(Connections(Arc::clone(&fleet))).max_size(2).build().unwrap();
    let write = |sql: &'static str| {
        let pool = pool.clone();
        async move {
            pool.get().await.unwrap().interact(move |connection| connection.execute_batch(sql)).await.unwrap()
        }
    };
    write(fleet::TABLE).await.unwrap();
    write(fleet::ITEM).await.unwrap();

    let memory = Config::new(":memory:").create_pool(Runtime::Tokio1).unwrap().get().await.unwrap();
    let version =
        memory.interact(|memory| memory.query_row(fleet::VERSION, [], |row| row.get::<_, String>(0)));
    fleet.check(&version.await.unwrap().unwrap(), 1);
}
