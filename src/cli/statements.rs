//! Splits SQL into statements, incrementally.
//!
//! As for `sqlite3_complete`, a statement ends at a semicolon outside of strings, comments and the bodies of triggers. The states
//! and transitions are those of SQLite's `complete.c`.

use litefleet::{Error, ErrorKind, Result};

/// The tokens that matter for the end of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Semicolon,
    Other,
    Explain,
    Create,
    Temp,
    Trigger,
    End,
}

impl Token {
    fn of_word(word: &[u8]) -> Self {
        const WORDS: [(&str, Token); 6] = [
            ("create", Token::Create),
            ("temp", Token::Temp),
            ("temporary", Token::Temp),
            ("trigger", Token::Trigger),
            ("explain", Token::Explain),
            ("end", Token::End),
        ];
        let found = WORDS.iter().find(|(known, _)| word.eq_ignore_ascii_case(known.as_bytes()));
        found.map_or(Self::Other, |(_, token)| *token)
    }
}

/// The state after the tokens of a statement so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No token, or only semicolons.
    Start,
    /// In a statement that ends at the next semicolon.
    Normal,
    /// After `EXPLAIN`.
    Explain,
    /// After `CREATE`, which `TRIGGER` may follow.
    Create,
    /// In the body of a trigger.
    Trigger,
    /// After a semicolon in the body of a trigger.
    TriggerSemicolon,
    /// After `;END` in the body of a trigger.
    TriggerEnd,
}

impl State {
    fn after(self, token: Token) -> Self {
        match (self, token) {
            (Self::Trigger | Self::TriggerSemicolon, Token::Semicolon) => Self::TriggerSemicolon,
            (_, Token::Semicolon) => Self::Start,
            (Self::TriggerSemicolon, Token::End) => Self::TriggerEnd,
            (Self::Trigger | Self::TriggerSemicolon | Self::TriggerEnd, _)
            | (Self::Create, Token::Trigger) => Self::Trigger,
            (Self::Start, Token::Explain) | (Self::Explain, Token::Other) => Self::Explain,
            (Self::Start | Self::Explain, Token::Create) | (Self::Create, Token::Temp) => Self::Create,
            _ => Self::Normal,
        }
    }
}

/// The state of the scanner within a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    Nothing,
    /// In a word that starts at this offset.
    Word(usize),
    /// After one `-`.
    Dash,
    /// In a comment to the end of the line.
    LineComment,
    /// After one `/`.
    Slash,
    /// In a comment to `*/`, and whether the last byte was `*`.
    Comment(bool),
    /// In a string or identifier that ends at this quotation mark or bracket.
    Quotes(u8),
}

/// A statement and its position in the input.
pub(super) struct Statement<'a> {
    pub(super) sql: &'a str,
    /// The text from the start of the line on which the statement starts, to its end.
    pub(super) lines: &'a str,
    /// The number of that line, from 1.
    pub(super) line: usize,
}

/// A line of the input.
#[derive(Clone, Copy)]
struct Line {
    /// Its offset in the text.
    start: usize,
    /// Its number, from 1.
    number: usize,
}

/// Splits SQL that arrives in pieces.
pub(super) struct Statements {
    /// The input from the start of the line on which the next statement starts.
    text: Vec<u8>,
    /// The offset of the next statement.
    start: usize,
    /// The line on which it starts.
    line: Line,
    scanned: usize,
    state: State,
    scan: Scan,
    /// Whether the next statement has a token other than semicolons.
    has_token: bool,
}

impl Statements {
    pub(super) fn new() -> Self {
        Self {
            text: Vec::new(),
            start: 0,
            line: Line { start: 0, number: 1 },
            scanned: 0,
            state: State::Start,
            scan: Scan::Nothing,
            has_token: false,
        }
    }

    pub(super) fn push(&mut self, sql: &[u8]) {
        let kept_from = self.line.start;
        self.text.drain(..kept_from);
        self.start -= kept_from;
        self.scanned -= kept_from;
        self.line.start = 0;
        if let Scan::Word(at) = &mut self.scan {
            *at -= kept_from;
        }
        self.text.extend_from_slice(sql);
    }

    /// Returns the next complete statement, or `None` if the input contains no other.
    pub(super) fn next_complete(&mut self) -> Result<Option<Statement<'_>>> {
        while self.scanned < self.text.len() {
            if self.scan_byte() {
                let had_token = self.has_token;
                let (start, end) = (self.start, self.scanned);
                let line = self.line;
                self.skip_to(end);
                if had_token {
                    return self.statement(start, end, line).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Returns the text after the last semicolon, or `None` if it has only spaces and comments.
    pub(super) fn rest(&mut self) -> Result<Option<Statement<'_>>> {
        self.end_word();
        // A `-` or `/` that starts no comment is a token, and so is an unterminated string.
        let is_token = matches!(self.scan, Scan::Dash | Scan::Slash | Scan::Quotes(_));
        if !self.has_token && !is_token {
            return Ok(None);
        }
        let (start, end, line) = (self.start, self.text.len(), self.line);
        self.has_token = false;
        self.scan = Scan::Nothing;
        self.statement(start, end, line).map(Some)
    }

    /// Whether `sql` has only complete statements, spaces and comments.
    pub(super) fn is_complete(sql: &str) -> bool {
        let mut statements = Self::new();
        statements.push(sql.as_bytes());
        while statements.scanned < statements.text.len() {
            if statements.scan_byte() {
                statements.skip_to(statements.scanned);
            }
        }
        let is_between = matches!(statements.scan, Scan::Nothing | Scan::LineComment);
        is_between && statements.state == State::Start
    }

    /// Scans a byte. Returns whether it ends a statement.
    fn scan_byte(&mut self) -> bool {
        let (at, byte) = (self.scanned, self.text[self.scanned]);
        self.scanned += 1;
        self.scan = match (self.scan, byte) {
            (Scan::Word(_), byte) if is_word(byte) => return false,
            (Scan::LineComment, byte) if byte != b'\n' => return false,
            (Scan::LineComment, _) | (Scan::Comment(true), b'/') => Scan::Nothing,
            (Scan::Comment(_), byte) => Scan::Comment(byte == b'*'),
            (Scan::Dash, b'-') => Scan::LineComment,
            (Scan::Slash, b'*') => Scan::Comment(false),
            (Scan::Quotes(end), byte) if byte != end => return false,
            (Scan::Quotes(_), _) => {
                self.token(Token::Other);
                Scan::Nothing
            }
            (scan, byte) => {
                match scan {
                    Scan::Word(start) => self.token(Token::of_word(&self.text[start..at])),
                    Scan::Dash | Scan::Slash => self.token(Token::Other),
                    _ => {}
                }
                match byte {
                    b';' => {
                        self.scan = Scan::Nothing;
                        self.state = self.state.after(Token::Semicolon);
                        return self.state == State::Start;
                    }
                    b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => Scan::Nothing,
                    b'-' => Scan::Dash,
                    b'/' => Scan::Slash,
                    b'[' => Scan::Quotes(b']'),
                    b'\'' | b'"' | b'`' => Scan::Quotes(byte),
                    byte if is_word(byte) => Scan::Word(at),
                    _ => {
                        self.token(Token::Other);
                        Scan::Nothing
                    }
                }
            }
        };
        false
    }

    fn token(&mut self, token: Token) {
        self.has_token = true;
        self.state = self.state.after(token);
    }

    fn end_word(&mut self) {
        if let Scan::Word(start) = self.scan {
            self.token(Token::of_word(&self.text[start..]));
            self.scan = Scan::Nothing;
        }
    }

    /// Starts the next statement at the offset `start`.
    fn skip_to(&mut self, start: usize) {
        let skipped = &self.text[self.start..start];
        if let Some(newline) = skipped.iter().rposition(|byte| *byte == b'\n') {
            let lines = skipped.split(|byte| *byte == b'\n').count() - 1;
            self.line = Line { start: self.start + newline + 1, number: self.line.number + lines };
        }
        self.start = start;
        self.has_token = false;
    }

    fn statement(&self, start: usize, end: usize, line: Line) -> Result<Statement<'_>> {
        let bytes = &self.text[line.start..end];
        let lines = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count() - 1;
            Error::new(ErrorKind::Invalid, format!("line {} is not UTF-8 text", line.number + before))
        })?;
        Ok(Statement { sql: &lines[start - line.start..], lines, line: line.number })
    }
}

/// Whether a byte belongs to an identifier, keyword or number in SQLite.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits `sql`, which is pushed in pieces of `len` bytes. Returns the statements with the lines on which they start.
    fn split(sql: &str, len: usize) -> Vec<(String, usize)> {
        let mut statements = Statements::new();
        let mut found = Vec::new();
        for piece in sql.as_bytes().chunks(len) {
            statements.push(piece);
            while let Some(statement) = statements.next_complete().unwrap() {
                assert!(statement.lines.ends_with(statement.sql));
                found.push((statement.sql.trim().to_owned(), statement.line));
            }
        }
        found.extend(statements.rest().unwrap().map(|rest| (rest.sql.trim().to_owned(), rest.line)));
        found
    }

    #[test]
    fn statements_end_as_in_sqlite_for_any_piece_size() {
        let sql = "select ';' ; -- a; comment\n /* b; */ create temp trigger t after insert on x begin
            select case when 1 then 2 end; delete from y; end; insert into \"a;b\" values ('ü')\n;;\n select 1 - 2 / 3";
        let whole = split(sql, sql.len());
        let texts: Vec<_> =
            whole.iter().map(|(text, line)| (text.split_whitespace().next().unwrap(), *line)).collect();
        assert_eq!(texts, [("select", 1), ("--", 1), ("insert", 3), ("select", 4)]);
        assert!(whole[1].0.ends_with("delete from y; end;"), "{whole:?}");
        assert_eq!(whole[2].0, "insert into \"a;b\" values ('ü')\n;");
        for len in 1..20 {
            assert_eq!(split(sql, len), whole, "in pieces of {len} bytes");
        }
        assert_eq!(split("-- nothing\n /* here */ ;; \n", 3), []);
        assert_eq!(split("select 1; select 'open", 4).len(), 2);
    }

    #[test]
    fn incomplete_statements_are_recognized() {
        for whole in [
            "",
            " ",
            "select 1;",
            "select 1; -- x",
            "-- x",
            ";;",
            "create trigger t after insert on x begin select 1; end;",
            "explain query plan create table t(a);",
            "create table trigger(a); select 1;",
        ] {
            assert!(Statements::is_complete(whole), "{whole:?}");
        }
        for open in [
            "select 1",
            "select ';",
            "select 1; select",
            "select 1; -",
            "/* ;",
            "/*/ ;",
            "select [a;",
            "create trigger t after insert on x begin select 1;",
            "explain create temporary trigger t after insert on x begin select 1; end",
        ] {
            assert!(!Statements::is_complete(open), "{open:?}");
        }
    }

    #[test]
    fn invalid_utf8_is_reported_with_its_line() {
        let mut statements = Statements::new();
        statements.push(b"select 1;\nselect '\xff';");
        assert_eq!(statements.next_complete().unwrap().unwrap().sql, "select 1;");
        let error = statements.next_complete().map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "line 2 is not UTF-8 text");
    }
}
