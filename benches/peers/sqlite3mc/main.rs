//! SQLite3 Multiple Ciphers with its fast authenticated cipher, and with its default one; with a raw key.

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

const AEGIS: &str = "PRAGMA cipher='aegis'; PRAGMA algorithm='aegis-256';
    PRAGMA key='raw:2dd29ca851e7b56e4697b0e1f08507293d761a05ce4d1b628663f411a8086d99'";
const CHACHA20: &str = "PRAGMA cipher='chacha20';
    PRAGMA key='raw:2dd29ca851e7b56e4697b0e1f08507293d761a05ce4d1b628663f411a8086d99'";

fn configure(dir: &Path, variant: &str) -> Outcome<Files> {
    match variant {
        "sqlite3mc-aegis256" => Ok(Files::new(dir, AEGIS)),
        "sqlite3mc-chacha20" => Ok(Files::new(dir, CHACHA20)),
        variant => Err(format!("unknown variant: {variant}").into()),
    }
}

fn main() -> ExitCode {
    driver::main::<Files>()
}
