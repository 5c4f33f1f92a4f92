use proptest::prelude::*;

use super::time::UNITS;
use super::*;
use std::time::Duration;

fn seconds(text: &str) -> Option<u64> {
    text.parse::<Interval>().ok().map(Interval::seconds)
}

fn bytes(text: &str) -> Option<u64> {
    text.parse::<Size>().ok().map(Size::bytes)
}

#[test]
fn durations_take_every_unit_alone_and_combined() {
    for (text, expected) in [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("24h", 86_400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1h30m", 5_400),
        ("1w2d3h4m5s", 604_800 + 2 * 86_400 + 3 * 3_600 + 4 * 60 + 5),
        ("30m1h", 5_400),
        ("007d", 604_800),
        ("9223372036", Interval::MAX_SECONDS),
    ] {
        assert_eq!(seconds(text), Some(expected), "{text}");
    }
}

#[test]
fn what_is_no_duration_is_refused() {
    for text in [
        "",
        " ",
        "s",
        "h1",
        "1x",
        "1H",
        "1D",
        "1.5h",
        "-1s",
        "+1s",
        "1h ",
        " 1h",
        "1 h",
        "1h30",
        "1h1h",
        "1ms",
        "1y",
        "never",
        "1h-30m",
        "\u{661}h",
        "0x10",
        "1_000",
        "1e3",
        "9223372037",
        "15251w",
        "18446744073709551616",
        "99999999999999999999999s",
        "30500568904943w",
        "18446744073709551615s1s",
        "1\u{e9}",
        "1h\n",
    ] {
        assert_eq!(seconds(text), None, "{text:?}");
    }
}

#[test]
fn durations_print_as_people_write_them() {
    for (secs, expected) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (5_400, "1h30m"),
        (86_400, "1d"),
        (8 * 86_400, "8d"),
        (14 * 86_400, "2w"),
        (86_401, "1d1s"),
    ] {
        assert_eq!(Interval::from_seconds(secs).unwrap().to_string(), expected);
    }
}

#[test]
fn a_lifetime_is_never_nothing() {
    assert_eq!("never".parse(), Ok(Ttl::Never));
    assert_eq!(
        "1m".parse(),
        Ok(Ttl::After(Interval::from_seconds(60).unwrap()))
    );
    for text in ["0", "0s", "0h0m", "Never", "", "off"] {
        assert!(text.parse::<Ttl>().is_err(), "{text}");
    }
    assert_eq!(Ttl::Never.meant(), None);
    assert_eq!(
        "90".parse::<Ttl>().unwrap().meant(),
        Some(Duration::from_secs(90))
    );
}

#[test]
fn no_warning_is_off() {
    assert_eq!("off".parse(), Ok(WarnBefore(None)));
    assert_eq!("0".parse(), Ok(WarnBefore(None)));
    assert_eq!(WarnBefore(None).to_string(), "off");
    assert!("never".parse::<WarnBefore>().is_err());
}

#[test]
fn sizes_take_binary_and_decimal_units_in_either_case() {
    for (text, expected) in [
        ("0", 0),
        ("4096", 4096),
        ("1k", 1 << 10),
        ("1K", 1 << 10),
        ("1KiB", 1 << 10),
        ("1kib", 1 << 10),
        ("1KIB", 1 << 10),
        ("1kB", 1_000),
        ("1KB", 1_000),
        ("3m", 3 << 20),
        ("3MiB", 3 << 20),
        ("3MB", 3_000_000),
        ("10G", 10 << 30),
        ("10GiB", 10 << 30),
        ("10gb", 10_000_000_000),
        ("2T", 2 << 40),
        ("2TiB", 2 << 40),
        ("2TB", 2_000_000_000_000),
        ("9223372036854775807", Size::MAX_BYTES),
        ("8388607T", 8_388_607 << 40),
    ] {
        assert_eq!(bytes(text), Some(expected), "{text}");
    }
}

#[test]
fn what_is_no_size_is_refused() {
    for text in [
        "",
        "K",
        "B",
        "10B",
        "1Ki",
        "1iB",
        "1KiBB",
        "1P",
        "1E",
        "1.5G",
        "-1",
        "+1",
        "1 G",
        " 1G",
        "1G ",
        "1KK",
        "1G1M",
        "9223372036854775808",
        "8388608T",
        "18446744073709551616",
        "16777216T",
        "99999999999999999999G",
        "1%",
        "never",
        "0x10",
        "1_000",
        "\u{ff11}",
        "1\u{212a}",
    ] {
        assert_eq!(bytes(text), None, "{text:?}");
    }
    let error = "16777216T".parse::<Size>().unwrap_err().to_string();
    assert_eq!(error, "`16777216T` is more than 9223372036854775807 bytes");
}

#[test]
fn percentages_are_from_0_to_100() {
    for (text, hundredths) in [
        ("0%", 0),
        ("5%", 500),
        ("100%", 10_000),
        ("2.5%", 250),
        ("0.05%", 5),
        ("100.00%", 10_000),
    ] {
        assert_eq!(
            text.parse::<Percent>().map(Percent::hundredths),
            Ok(hundredths),
            "{text}"
        );
    }
    for text in [
        "",
        "%",
        "5",
        "101%",
        "100.01%",
        "-5%",
        "5%%",
        "5.%",
        ".5%",
        "5.123%",
        "5 %",
        "+5%",
        "99999999999999999999%",
    ] {
        assert!(text.parse::<Percent>().is_err(), "{text:?}");
    }
    assert_eq!(Percent::whole(50).of(u64::MAX), u64::MAX / 2);
    assert_eq!(Percent::FULL.of(u64::MAX), u64::MAX);
}

#[test]
fn a_limit_of_0_is_none_and_a_share_is_never_0() {
    let limit = |text: &str, backing| text.parse::<SizeOrPercent>().unwrap().limit_bytes(backing);
    assert_eq!(limit("0", 1000), None);
    assert_eq!(limit("0%", 1000), None);
    assert_eq!(limit("25%", 1000), Some(250));
    assert_eq!(limit("1%", 1), Some(1));
    assert_eq!(limit("10K", 1), Some(10_240));
    assert_eq!(limit("100%", u64::MAX), Some(Size::MAX_BYTES));
    assert_eq!("0".parse::<Count>().unwrap().limit(), None);
}

#[test]
fn counts_take_the_units_of_tmpfs() {
    let count = |text: &str| text.parse::<Count>().ok().and_then(Count::limit);
    assert_eq!(count("1000"), Some(1000));
    assert_eq!(count("1k"), Some(1024));
    assert_eq!(count("2M"), Some(2 << 20));
    for text in [
        "",
        "k",
        "1T",
        "1KiB",
        "-1",
        "1.5k",
        "9223372036854775808",
        "18446744073709551615k",
    ] {
        assert!(text.parse::<Count>().is_err(), "{text}");
    }
}

#[test]
fn modes_are_octal() {
    for (text, bits) in [
        ("0", 0),
        ("777", 0o777),
        ("0750", 0o750),
        ("0o640", 0o640),
        ("1777", 0o1777),
    ] {
        assert_eq!(text.parse::<Mode>().map(Mode::bits), Ok(bits), "{text}");
    }
    for text in [
        "",
        "0o",
        "8",
        "0x1ff",
        "-1",
        "+7",
        "10000",
        "rwx",
        "77777777777777777777777777",
    ] {
        assert!(text.parse::<Mode>().is_err(), "{text}");
    }
    assert!("1777".parse::<PermissionBits>().is_err());
    assert_eq!(PermissionBits::new(0o70).to_string(), "0070");
}

#[test]
fn passes_are_1_to_35() {
    for passes in 0..=300_u32 {
        assert_eq!(
            passes.to_string().parse::<Passes>().is_ok(),
            (1..=35).contains(&passes)
        );
    }
}

#[test]
fn an_error_is_one_line_whatever_was_typed() {
    let error = "1\n2\u{1b}[31m".parse::<Size>().unwrap_err().to_string();
    assert_eq!(error, r"`1\n2\u{1b}[31m` is not a size");
    assert!(
        "x".repeat(10_000)
            .parse::<Size>()
            .unwrap_err()
            .to_string()
            .len()
            < 200
    );
}

fn round_trip<T: Value + PartialEq + std::fmt::Debug>(text: &str) -> Result<(), TestCaseError> {
    if let Ok(value) = text.parse::<T>() {
        prop_assert_eq!(value.to_string().parse::<T>(), Ok(value));
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_duration_round_trips(secs in 0..=Interval::MAX_SECONDS) {
        let interval = Interval::from_seconds(secs).unwrap();
        prop_assert_eq!(interval.to_string().parse(), Ok(interval));
    }

    #[test]
    fn every_size_round_trips(number in 0..=Size::MAX_BYTES, shift in 0..63_u32) {
        for bytes in [number, number >> shift, number >> shift << shift & Size::MAX_BYTES] {
            let size = Size::from_bytes(bytes).unwrap();
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn every_percentage_and_mode_round_trips(hundredths in 0..=10_000_u16, bits in 0..=0o7777_u32) {
        let percent = Percent::from_hundredths(hundredths).unwrap();
        prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        let mode = Mode::new(bits);
        prop_assert_eq!(mode.to_string().parse(), Ok(mode));
    }

    #[test]
    fn durations_add_up(parts in proptest::sample::subsequence(vec![0_usize, 1, 2, 3, 4], 1..=5), n in 0..100_000_u64) {
        let text: String = parts.iter().map(|&unit| format!("{n}{}", UNITS[unit].0)).collect();
        let sum = parts.iter().map(|&unit| n * UNITS[unit].1).sum::<u64>();
        prop_assert_eq!(seconds(&text), Some(sum).filter(|&sum| sum <= Interval::MAX_SECONDS));
    }

    #[test]
    fn sizes_multiply_exactly(number in any::<u64>(), suffix in "[kKmMgGtT]?(i[bB]|[bB])?") {
        let letter = suffix.chars().next().map(|c| c.to_ascii_lowercase());
        let base: u128 = if suffix.len() == 2 { 1000 } else { 1024 };
        let expected = match letter {
            None => Some(u128::from(number)),
            Some(letter) => "kmgt".find(letter).map(|power| u128::from(number) * base.pow(power as u32 + 1)),
        };
        let expected = expected.filter(|&bytes| bytes <= u128::from(Size::MAX_BYTES));
        prop_assert_eq!(bytes(&format!("{number}{suffix}")).map(u128::from), expected);
    }

    #[test]
    fn nothing_panics_and_what_parses_round_trips(text in "[0-9kKmMgGtTiBbsmhdwnevr%. ]{0,12}|\\PC{0,12}") {
        round_trip::<Interval>(&text)?;
        round_trip::<Ttl>(&text)?;
        round_trip::<WarnBefore>(&text)?;
        round_trip::<Size>(&text)?;
        round_trip::<Percent>(&text)?;
        round_trip::<SizeOrPercent>(&text)?;
        round_trip::<Count>(&text)?;
        round_trip::<Mode>(&text)?;
        round_trip::<Passes>(&text)?;
    }
}
