//! SQLCipher with its defaults, and a raw key.

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

/// 256 bits, without a salt: SQLCipher then writes its own into the file.
const KEY: &str = "PRAGMA key=\"x'2dd29ca851e7b56e4697b0e1f08507293d761a05ce4d1b628663f411a8086d99'\"";

fn configure(dir: &Path, variant: &str) -> Outcome<Files> {
    match variant {
        "sqlcipher" => Ok(Files::new(dir, KEY)),
        variant => Err(format!("unknown variant: {variant}").into()),
    }
}

fn main() -> ExitCode {
    driver::main::<Files>()
}
