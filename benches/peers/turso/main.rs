//! Turso's engine: plain, and encrypted with AES-256-GCM.

#[path = "../driver/mod.rs"]
mod driver;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use driver::{Bind, Connection, Outcome, Peer, Value, add, digest};
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};
use turso::{Builder, EncryptionOpts};

const KEY: &str = "2dd29ca851e7b56e4697b0e1f08507293d761a05ce4d1b628663f411a8086d99";

struct Files {
    dir: PathBuf,
    is_encrypted: bool,
}

struct Turso {
    runtime: Runtime,
    connection: turso::Connection,
    _database: turso::Database,
}

impl Connection for Turso {
    fn batch(&mut self, sql: &str) -> Outcome<()> {
        for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
            self.runtime.block_on(async {
                let mut rows = self.connection.query(statement, ()).await?;
                while rows.next().await?.is_some() {}
                Ok::<_, turso::Error>(())
            })?;
        }
        Ok(())
    }

    fn each(&mut self, statements: &[&str], steps: u32, bind: Bind<'_>) -> Outcome<u64> {
        let connection = &self.connection;
        let run = async {
            let mut prepared = Vec::new();
            for statement in statements {
                prepared.push(connection.prepare(statement).await?);
            }
            let (mut values, mut sum) = (Vec::new(), 0_u64);
            for step in 0..steps {
                for (index, statement) in prepared.iter_mut().enumerate() {
                    values.clear();
                    bind(step, index, &mut values);
                    let parameters: Vec<_> = values.iter().map(value).collect();
                    let columns = statement.column_count();
                    let mut rows = statement.query(parameters).await?;
                    while let Some(row) = rows.next().await? {
                        for column in 0..columns {
                            let value = match row.get_value(column)? {
                                turso::Value::Integer(value) => value.cast_unsigned(),
                                turso::Value::Text(text) => digest(text.as_bytes()),
                                turso::Value::Blob(bytes) => digest(&bytes),
                                _ => 0,
                            };
                            sum = add(sum, value);
                        }
                    }
                }
            }
            Ok::<_, turso::Error>(sum)
        };
        Ok(self.runtime.block_on(run)?)
    }

    fn back_up_to(&mut self, _target: &mut Self) -> Outcome<bool> {
        Ok(false)
    }
}

fn value(value: &Value) -> turso::Value {
    match value {
        Value::Integer(value) => turso::Value::Integer(*value),
        Value::Text(value) => turso::Value::Text((*value).to_owned()),
        Value::Blob(value) => turso::Value::Blob(value.to_vec()),
    }
}

impl Files {
    fn connect(&self, path: &Path, is_encrypted: bool) -> Outcome<Turso> {
        let path = path.to_str().ok_or("the path is not UTF-8")?;
        let mut builder = Builder::new_local(path).experimental_vacuum(true);
        if is_encrypted {
            let options = EncryptionOpts { cipher: "aes256gcm".into(), hexkey: KEY.into() };
            builder = builder.experimental_encryption(true).with_encryption(options);
        }
        let runtime = RuntimeBuilder::new_current_thread().build()?;
        let database = runtime.block_on(builder.build())?;
        let connection = database.connect()?;
        let mut turso = Turso { runtime, connection, _database: database };
        turso.batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL")?;
        Ok(turso)
    }
}

impl Peer for Files {
    type Connection = Turso;

    fn start(dir: &Path, variant: &str) -> Outcome<Self> {
        let is_encrypted = match variant {
            "turso" => false,
            "turso-aes256gcm" => true,
            variant => return Err(format!("unknown variant: {variant}").into()),
        };
        Ok(Self { dir: dir.to_owned(), is_encrypted })
    }

    fn create(&self, name: &str) -> Outcome<()> {
        // Its databases are in WAL mode with pages of 4 KiB.
        self.open(name).map(|_| ())
    }

    fn open(&self, name: &str) -> Outcome<Turso> {
        self.connect(&self.path(name)?, self.is_encrypted)
    }

    fn open_file(&self, path: &Path) -> Outcome<Turso> {
        // Version 0.8.3 writes the plaintext of an encrypted database.
        self.connect(path, false)
    }

    fn path(&self, name: &str) -> Outcome<PathBuf> {
        Ok(self.dir.join(name).with_extension("db"))
    }
}

fn main() -> ExitCode {
    driver::main::<Files>()
}
