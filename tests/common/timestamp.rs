//! Reading RFC 3339 timestamps, as the virtual attributes show them.

use std::time::Duration;

/// The time since 1970 that a timestamp such as `2026-01-31T12:00:00.5Z` or `...+01:00` means.
#[track_caller]
pub fn parse(text: &str) -> Duration {
    try_parse(text).unwrap_or_else(|| panic!("not an RFC 3339 timestamp: {text:?}"))
}

fn try_parse(text: &str) -> Option<Duration> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let numbers = |text: &str, separator: char| -> Option<Vec<i64>> {
        text.split(separator)
            .map(|word| word.parse().ok())
            .collect()
    };
    let date = numbers(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let clock = numbers(clock, ':')?;
    let (&[year, month, day], &[hour, minute, second]) = (&date[..], &clock[..]) else {
        return None;
    };
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let parts = numbers(&zone[1..], ':')?;
            let minutes = parts.first()? * 60 + parts.get(1)?;
            if zone.starts_with('-') {
                -minutes
            } else {
                minutes
            }
        }
    };
    // Days since 1970 of a civil date, counting years from March.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days =
        year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    let mut digits = fraction.to_owned();
    digits.truncate(9);
    let nanoseconds: u32 = format!("{digits:0<9}").parse().ok()?;
    Some(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

#[test]
fn timestamps_are_read() {
    assert_eq!(parse("1970-01-01T00:00:00Z"), Duration::ZERO);
    assert_eq!(
        parse("2026-02-28T23:59:59.25Z"),
        Duration::from_millis(1_772_323_199_250)
    );
    assert_eq!(
        parse("2024-02-29T13:00:00+01:00"),
        Duration::from_secs(1_709_208_000)
    );
}
