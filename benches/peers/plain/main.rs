//! SQLite as `rusqlite` bundles it. Also the writer beside Litestream.

#[path = "../driver/mod.rs"]
mod driver;
#[path = "../files.rs"]
mod files;
#[path = "../sqlite.rs"]
mod sqlite;

use std::{path::Path, process::ExitCode};

use driver::Outcome;
use files::Files;
use rusqlite;

fn configure(dir: &Path, variant: &str) -> Outcome<Files> {
    let files = Files::new(dir, "");
    match variant {
        "plain" => Ok(files),
        // Litestream checkpoints in the writer's place, and recommends these settings.
        "litestream" => Ok(Files {
            settings: "PRAGMA busy_timeout=5000; PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0",
            ..files
        }),
        variant => Err(format!("unknown variant: {variant}").into()),
    }
}

fn main() -> ExitCode {
    driver::main::<Files>()
}
