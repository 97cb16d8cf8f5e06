//! The sizes and the contents of the databases.

use super::Value;

/// The sizes of the workloads.
pub(super) struct Scale {
    pub(super) rows: u32,
    pub(super) commits: u32,
    pub(super) full_commits: u32,
    pub(super) reads: u32,
    pub(super) updates: u32,
    pub(super) opens: u32,
    pub(super) ledger_rows: u32,
    pub(super) sustained: u32,
    pub(super) sustained_full: u32,
    pub(super) paced: u32,
}

impl Scale {
    pub(super) fn named(name: &str) -> Option<Self> {
        let full = Self {
            rows: 420_000,
            commits: 20_000,
            full_commits: 2_000,
            reads: 200_000,
            updates: 50_000,
            opens: 300,
            ledger_rows: 51_200,
            sustained: 60_000,
            sustained_full: 6_000,
            paced: 2_200,
        };
        match name {
            "full" => Some(full),
            "small" => Some(full.divided_by(10)),
            "smoke" => Some(full.divided_by(100)),
            _ => None,
        }
    }

    fn divided_by(self, divisor: u32) -> Self {
        Self {
            rows: self.rows / divisor,
            commits: self.commits / divisor,
            full_commits: self.full_commits / divisor,
            reads: self.reads / divisor,
            updates: self.updates / divisor,
            opens: self.opens / divisor.min(10),
            ledger_rows: self.ledger_rows / divisor,
            sustained: self.sustained / divisor,
            sustained_full: self.sustained_full / divisor,
            // Its instants need some time between them.
            paced: self.paced / divisor.min(5),
        }
    }
}

/// Deterministic contents, equal for all peers.
pub(super) struct Data {
    state: u64,
    bytes: &'static [u8],
    text: &'static str,
}

impl Data {
    pub(super) fn new(seed: u64) -> Self {
        let mut data = Self { state: 0x9e37_79b9_7f4a_7c15, bytes: &[], text: "" };
        data.bytes = (0..1 << 20).map(|_| data.next().to_le_bytes()[3]).collect::<Vec<u8>>().leak();
        let letters = data.bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect::<String>();
        data.text = letters.leak();
        data.state ^= seed.wrapping_mul(0xd134_2543_de82_ef95);
        data
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    pub(super) fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }

    fn text(&mut self, len: usize) -> Value {
        let at = self.below(1 << 19) as usize;
        Value::Text(&self.text[at..at + len])
    }

    pub(super) fn blob(&mut self, len: usize) -> Value {
        let at = self.below(1 << 19) as usize;
        Value::Blob(&self.bytes[at..at + len])
    }

    pub(super) fn row(&mut self, into: &mut Vec<Value>) {
        let k = i64::from(self.below(1000));
        let (text, blob) = (self.text(90), self.blob(120));
        into.extend([Value::Integer(k), text, blob]);
    }
}
