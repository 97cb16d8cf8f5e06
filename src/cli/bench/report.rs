//! Prints the measurements: as tables, with bars on a terminal, or as JSON.

use std::io::{self, IsTerminal};

use comfy_table::{CellAlignment, Table};
use litefleet::{Cipher, Result};
use serde_json::{Value, json};

use super::{
    super::output::{self, Output},
    ciphers::CipherSpeed,
    commits::{CommitRate, Kind},
};

/// The length of the longest bar.
const BAR_LEN: f64 = 32.0;

/// The measurements of a run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) ciphers: Vec<CipherSpeed>,
    pub(super) commits: Vec<CommitRate>,
}

/// The fastest cipher through the page codec, of those that `filter` admits.
pub(super) fn fastest(ciphers: &[CipherSpeed], filter: impl Fn(Cipher) -> bool) -> Option<Cipher> {
    let admitted = ciphers.iter().filter(|speed| filter(speed.cipher));
    let fastest = admitted.max_by(|a, b| a.codec.both().total_cmp(&b.codec.both()));
    fastest.map(|speed| speed.cipher)
}

fn has_256_bit_key(cipher: Cipher) -> bool {
    cipher.key_len() == 32
}

impl Report {
    pub(super) fn print(&self, output: Output) -> Result<()> {
        if output.json {
            return output::json_line(&self.to_json());
        }
        let with_bars = io::stdout().is_terminal();
        let lines = [
            "Encryption of 4 KiB pages on one core, in GB/s: as databases do it, and by the cipher alone.",
            &self.cipher_table(with_bars).to_string(),
            &self.advice(),
            "",
            "Commits of one row per second on the disk of the fleet, one connection.",
            &self.commit_table(with_bars).to_string(),
        ];
        output::print(&lines.join("\n"))
    }

    fn to_json(&self) -> Value {
        let ciphers = self.ciphers.iter().map(|speed| {
            json!({
                "cipher": speed.cipher.as_str(),
                "implementation": speed.cipher.implementation(),
                "key_bits": 8 * speed.cipher.key_len(),
                "seal_bytes_per_second": speed.codec.seal.round(),
                "open_bytes_per_second": speed.codec.open.round(),
                "bare_seal_bytes_per_second": speed.bare.seal.round(),
                "bare_open_bytes_per_second": speed.bare.open.round(),
            })
        });
        let commits = self.commits.iter().map(|rate| {
            json!({
                "database": rate.kind.as_str(),
                "cipher": rate.cipher.map(Cipher::as_str),
                "normal_commits_per_second": rate.normal.round(),
                "full_commits_per_second": rate.full.round(),
            })
        });
        json!({
            "ciphers": ciphers.collect::<Vec<_>>(),
            "fastest": fastest(&self.ciphers, |_| true).map(Cipher::as_str),
            "fastest_256_bit": fastest(&self.ciphers, has_256_bit_key).map(Cipher::as_str),
            "commits": commits.collect::<Vec<_>>(),
        })
    }

    fn cipher_table(&self, with_bars: bool) -> Table {
        let max = self.ciphers.iter().map(|speed| speed.codec.both()).fold(0.0, f64::max);
        let header = ["CIPHER", "KEY", "BY", "SEAL", "OPEN", "BARE SEAL", "BARE OPEN", ""];
        let mut table = output::table(&header[..header.len() - usize::from(!with_bars)]);
        for speed in &self.ciphers {
            let gigabytes = |bytes: f64| format!("{:.2}", bytes / 1e9);
            let mut row = vec![
                speed.cipher.to_string(),
                format!("{} bits", 8 * speed.cipher.key_len()),
                speed.cipher.implementation().to_owned(),
                gigabytes(speed.codec.seal),
                gigabytes(speed.codec.open),
                gigabytes(speed.bare.seal),
                gigabytes(speed.bare.open),
            ];
            if with_bars {
                row.push(bar(speed.codec.both() / max));
            }
            table.add_row(row);
        }
        align_right(&mut table, 3..7);
        table
    }

    /// Which cipher to choose.
    fn advice(&self) -> String {
        let name = |cipher: Option<Cipher>| cipher.map_or("none", Cipher::as_str);
        let is_gcm = |cipher| matches!(cipher, Cipher::Aes128Gcm | Cipher::Aes256Gcm);
        format!(
            "Fastest here: {}. With a key of 256 bits: {}. Where a standard asks for AES-GCM: {}.",
            name(fastest(&self.ciphers, |_| true)),
            name(fastest(&self.ciphers, has_256_bit_key)),
            name(fastest(&self.ciphers, is_gcm))
        )
    }

    fn commit_table(&self, with_bars: bool) -> Table {
        let max = self.commits.iter().map(|rate| rate.normal).fold(0.0, f64::max);
        let header = ["DATABASE", "NORMAL", "FULL", ""];
        let mut table = output::table(&header[..header.len() - usize::from(!with_bars)]);
        for rate in &self.commits {
            let mut row = vec![described(rate), format!("{:.0}", rate.normal), format!("{:.0}", rate.full)];
            if with_bars {
                row.push(bar(rate.normal / max));
            }
            table.add_row(row);
        }
        align_right(&mut table, 1..3);
        table
    }
}

fn described(rate: &CommitRate) -> String {
    let cipher = rate.cipher.map_or("", Cipher::as_str);
    match rate.kind {
        Kind::Sqlite => "SQLite alone".to_owned(),
        Kind::Plain => "plain, no history".to_owned(),
        Kind::Sealed => format!("{cipher}, no history"),
        Kind::History => "plain, with history".to_owned(),
        Kind::SealedWithHistory => format!("{cipher}, with history"),
    }
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A bar for a share of the longest one, to an eighth of a character.
fn bar(share: f64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let length = BAR_LEN * if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mut bar = String::new();
    let mut whole = 1.0;
    while whole <= length {
        bar += "█";
        whole += 1.0;
    }
    let rest = (length - (whole - 1.0)) * 8.0;
    let part = PARTS.iter().zip(0_u32..).take_while(|(_, eighths)| f64::from(*eighths) <= rest).last();
    bar + part.map_or("", |(part, _)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_has_the_length_of_its_share() {
        assert_eq!(bar(1.0), "█".repeat(32));
        assert_eq!(bar(0.5), "█".repeat(16));
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(1.5 / 32.0), "█▌");
        assert_eq!(bar(f64::NAN), "");
    }
}
