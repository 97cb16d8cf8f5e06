//! Splitting SQL into statements, also while it still arrives.
//!
//! A statement ends where `sqlite3_complete` says so: at a semicolon outside of strings, comments and the body of a trigger.
//! The states and their transitions are those of SQLite's `complete.c`.

use litefleet::{Error, ErrorKind, Result};

/// A token, as far as it matters to the end of a statement.
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

/// What the tokens of a statement say so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing yet, or only semicolons.
    Start,
    /// In a statement that the next semicolon ends.
    Normal,
    /// After `EXPLAIN`.
    Explain,
    /// After `CREATE`, which may go on with `TRIGGER`.
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

/// Where the scan stands within a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    /// A word that begins at this offset.
    Word(usize),
    /// After one `-`.
    Dash,
    /// A comment to the end of the line.
    LineComment,
    /// After one `/`.
    Slash,
    /// A comment to `*/`, and whether the last byte was the `*`.
    Comment(bool),
    /// Text up to this quotation mark or bracket.
    Quotes(u8),
}

/// A statement and where it stands in all that was pushed.
pub(super) struct Statement<'a> {
    pub(super) sql: &'a str,
    /// The text from the beginning of the line in which the statement begins, to its end.
    pub(super) lines: &'a str,
    /// The number of that line, from 1.
    pub(super) line: usize,
}

/// Splits SQL that is pushed piece by piece.
pub(super) struct Statements {
    /// What was pushed, from the beginning of the line in which the next statement begins.
    text: Vec<u8>,
    /// Where the next statement begins.
    begin: usize,
    /// Where the line begins in which it does, and the number of that line.
    line: (usize, usize),
    scanned: usize,
    state: State,
    within: Within,
    /// Whether a token other than a space or a semicolon was found in the next statement.
    is_begun: bool,
}

impl Statements {
    pub(super) fn new() -> Self {
        Self {
            text: Vec::new(),
            begin: 0,
            line: (0, 1),
            scanned: 0,
            state: State::Start,
            within: Within::Nothing,
            is_begun: false,
        }
    }

    pub(super) fn push(&mut self, sql: &[u8]) {
        let (kept_from, _) = self.line;
        self.text.drain(..kept_from);
        self.begin -= kept_from;
        self.scanned -= kept_from;
        self.line.0 = 0;
        if let Within::Word(at) = &mut self.within {
            *at -= kept_from;
        }
        self.text.extend_from_slice(sql);
    }

    /// The next statement that a semicolon ends, or `None` until more is pushed.
    pub(super) fn next_complete(&mut self) -> Result<Option<Statement<'_>>> {
        while self.scanned < self.text.len() {
            if self.scan_byte() {
                let was_begun = self.is_begun;
                let (begin, end) = (self.begin, self.scanned);
                let line = self.line;
                self.skip_to(end);
                if was_begun {
                    return self.statement(begin, end, line).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// What is left after the last semicolon, if it is more than spaces and comments.
    pub(super) fn rest(&mut self) -> Result<Option<Statement<'_>>> {
        self.end_word();
        // A `-` or `/` that turned out to begin no comment, and a string that does not end, are tokens too.
        let is_token = matches!(self.within, Within::Dash | Within::Slash | Within::Quotes(_));
        if !self.is_begun && !is_token {
            return Ok(None);
        }
        let (begin, end, line) = (self.begin, self.text.len(), self.line);
        self.is_begun = false;
        self.within = Within::Nothing;
        self.statement(begin, end, line).map(Some)
    }

    /// Whether all that was pushed is complete statements, spaces and comments.
    pub(super) fn is_complete(sql: &str) -> bool {
        let mut statements = Self::new();
        statements.push(sql.as_bytes());
        while statements.scanned < statements.text.len() {
            if statements.scan_byte() {
                statements.skip_to(statements.scanned);
            }
        }
        let is_between = matches!(statements.within, Within::Nothing | Within::LineComment);
        is_between && statements.state == State::Start
    }

    /// Scans a byte, and says whether it ends a statement.
    fn scan_byte(&mut self) -> bool {
        let (at, byte) = (self.scanned, self.text[self.scanned]);
        self.scanned += 1;
        self.within = match (self.within, byte) {
            (Within::Word(_), byte) if is_word(byte) => return false,
            (Within::LineComment, byte) if byte != b'\n' => return false,
            (Within::LineComment, _) | (Within::Comment(true), b'/') => Within::Nothing,
            (Within::Comment(_), byte) => Within::Comment(byte == b'*'),
            (Within::Dash, b'-') => Within::LineComment,
            (Within::Slash, b'*') => Within::Comment(false),
            (Within::Quotes(end), byte) if byte != end => return false,
            (Within::Quotes(_), _) => {
                self.token(Token::Other);
                Within::Nothing
            }
            (within, byte) => {
                match within {
                    Within::Word(begin) => self.token(Token::of_word(&self.text[begin..at])),
                    Within::Dash | Within::Slash => self.token(Token::Other),
                    _ => {}
                }
                match byte {
                    b';' => {
                        self.within = Within::Nothing;
                        self.state = self.state.after(Token::Semicolon);
                        return self.state == State::Start;
                    }
                    b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => Within::Nothing,
                    b'-' => Within::Dash,
                    b'/' => Within::Slash,
                    b'[' => Within::Quotes(b']'),
                    b'\'' | b'"' | b'`' => Within::Quotes(byte),
                    byte if is_word(byte) => Within::Word(at),
                    _ => {
                        self.token(Token::Other);
                        Within::Nothing
                    }
                }
            }
        };
        false
    }

    fn token(&mut self, token: Token) {
        self.is_begun = true;
        self.state = self.state.after(token);
    }

    fn end_word(&mut self) {
        if let Within::Word(begin) = self.within {
            self.token(Token::of_word(&self.text[begin..]));
            self.within = Within::Nothing;
        }
    }

    /// The next statement begins here.
    fn skip_to(&mut self, begin: usize) {
        let passed = &self.text[self.begin..begin];
        if let Some(newline) = passed.iter().rposition(|byte| *byte == b'\n') {
            let lines = passed.split(|byte| *byte == b'\n').count() - 1;
            self.line = (self.begin + newline + 1, self.line.1 + lines);
        }
        self.begin = begin;
        self.is_begun = false;
    }

    fn statement(
        &self,
        begin: usize,
        end: usize,
        (line_begin, line): (usize, usize),
    ) -> Result<Statement<'_>> {
        let bytes = &self.text[line_begin..end];
        let lines = std::str::from_utf8(bytes).map_err(|error| {
            let before = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count() - 1;
            Error::new(ErrorKind::Invalid, format!("line {} is not UTF-8 text", line + before))
        })?;
        Ok(Statement { sql: &lines[begin - line_begin..], lines, line })
    }
}

/// Whether a byte belongs to a name, a keyword or a number, as SQLite sees it.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements of a text that is pushed in pieces of `len` bytes, with the lines in which they begin.
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
    fn statements_end_where_sqlite_ends_them_however_they_arrive() {
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
    fn the_shell_waits_for_what_is_not_complete() {
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
    fn text_that_is_not_utf8_is_refused_by_its_line() {
        let mut statements = Statements::new();
        statements.push(b"select 1;\nselect '\xff';");
        assert_eq!(statements.next_complete().unwrap().unwrap().sql, "select 1;");
        let error = statements.next_complete().map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "line 2 is not UTF-8 text");
    }
}
