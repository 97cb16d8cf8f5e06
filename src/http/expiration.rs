//! How long a token lives: the durations of the API, such as `2w1d30m`.

use std::time::Duration;

/// The longest life of a token that has an end: a hundred years.
const LIFE_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// Reads a duration of whole weeks, days, hours, minutes and seconds, in that order and each at most once, such as `7d3h2m1s`;
/// nothing stands for `never`, which `none`, `default` and an empty text are too.
///
/// # Errors
///
/// The documented sentence for anything else.
pub(super) fn parse(text: &str) -> Result<Option<Duration>, &'static str> {
    const REFUSED: &str = "Invalid expiration format";
    if matches!(text, "" | "never" | "none" | "default") {
        return Ok(None);
    }
    let mut units = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)].into_iter();
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().map_err(|_| REFUSED)?;
        let unit = rest[digits..].chars().next().ok_or(REFUSED)?;
        let (_, worth) = units.find(|(name, _)| *name == unit).ok_or(REFUSED)?;
        seconds = count.checked_mul(worth).and_then(|more| seconds.checked_add(more)).ok_or(REFUSED)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    if (1..=LIFE_MAX).contains(&seconds) { Ok(Some(Duration::from_secs(seconds))) } else { Err(REFUSED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_api_writes_them() {
        let seconds = |text| parse(text).map(|life| life.map(|life| life.as_secs()));
        assert_eq!(seconds("2w1d30m"), Ok(Some(2 * 604_800 + 86_400 + 1_800)));
        assert_eq!(seconds("7d3h2m1s"), Ok(Some(7 * 86_400 + 3 * 3_600 + 121)));
        for never in ["", "never", "none", "default"] {
            assert_eq!(seconds(never), Ok(None), "{never}");
        }
        for wrong in
            ["0d", "d", "1", "1d2w", "1d1d", "-1d", "1.5h", "1é", "99999999999999999999d", "101w9999999d"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
