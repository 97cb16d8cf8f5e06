//! Commands that are printed for the user to run.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// The path of this program as it was called. A relative path is made absolute, so that it works in any directory.
pub(super) fn program() -> OsString {
    match std::env::args_os().next() {
        Some(called) if called.as_bytes().contains(&b'/') => {
            std::path::absolute(Path::new(&called)).map_or(called, Into::into)
        }
        Some(called) if !called.is_empty() => called,
        _ => "litefleet".into(),
    }
}

/// Quotes the words of a command for a POSIX shell.
pub(super) fn quoted(words: &[impl AsRef<OsStr>]) -> String {
    let words = words.iter().map(|word| {
        let word = word.as_ref().to_string_lossy();
        // Quoting fails only for NUL, which neither arguments nor paths can contain.
        shlex::try_quote(&word).map_or_else(|_| word.to_string(), Cow::into_owned)
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        let words =
            ["litefleet", "--root", "/srv/my fleet", "it's", "$HOME", "2026-01-31T12:00:00.000001Z", ""];
        assert_eq!(
            quoted(&words),
            r#"litefleet --root '/srv/my fleet' "it's" '$HOME' 2026-01-31T12:00:00.000001Z ''"#
        );
    }
}
