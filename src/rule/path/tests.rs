use proptest::prelude::*;

use super::*;

fn path(text: &str) -> RulePath {
    text.parse().unwrap_or_else(|wrong| panic!("{wrong}"))
}

fn means(rule: &str, dir: &str) -> bool {
    let names: Vec<&[u8]> = dir
        .split('/')
        .filter(|name| !name.is_empty())
        .map(str::as_bytes)
        .collect();
    path(rule).matches(&names)
}

#[test]
fn a_literal_path_means_one_directory() {
    assert!(means("/", "") && !means("/", "a"));
    assert!(
        means("/a/b", "a/b")
            && !means("/a/b", "a")
            && !means("/a/b", "a/b/c")
            && !means("/a/b", "b/a")
    );
    assert_eq!(path("/a/b").literal(), Some(vec![&b"a"[..], b"b"]));
    assert_eq!(path("/").literal(), Some(vec![]));
    assert_eq!(path("/a/*").literal(), None);
    assert!(means("/[x]?{y}", "[x]?{y}") && !means("/[x]", "x"));
}

#[test]
fn stars_stay_within_a_name() {
    assert!(means("/*", "a") && !means("/*", "") && !means("/*", "a/b"));
    assert!(means("/jobs/*/tmp", "jobs/7/tmp") && !means("/jobs/*/tmp", "jobs/tmp"));
    assert!(
        means("/build-*", "build-")
            && means("/build-*", "build-1")
            && !means("/build-*", "rebuild-1")
    );
    assert!(means("/a*b*c", "abc") && means("/a*b*c", "aXbXbXc") && !means("/a*b*c", "ac"));
    assert!(!means("/ab*ba", "aba") && means("/ab*ba", "abba"));
}

#[test]
fn two_stars_mean_any_depth() {
    assert!(
        means("/**/cache", "cache")
            && means("/**/cache", "a/b/cache")
            && !means("/**/cache", "cache/x")
    );
    assert!(means("/a/**/b", "a/b") && means("/a/**/b", "a/x/y/b") && !means("/a/**/b", "x/a/b"));
    assert!(means("/a/**", "a/x") && means("/a/**", "a/x/y") && !means("/a/**", "a"));
    assert!(means("/**", "a") && !means("/**", ""));
    assert_eq!(path("/a/**/**/b"), path("/a/**/b"));
}

#[test]
fn a_path_has_one_spelling() {
    for (typed, canonical) in [
        ("/", "/"),
        ("//", "/"),
        ("/a/", "/a"),
        ("//a///b//", "/a/b"),
        ("/**/**", "/**"),
    ] {
        assert_eq!(path(typed).as_str(), canonical);
        assert_eq!(path(typed), path(canonical));
    }
}

#[test]
fn what_is_no_path_is_refused() {
    let long = format!("/{}", "x".repeat(256));
    let deep = "/x".repeat(65);
    for text in [
        "",
        "a",
        "a/b",
        "./a",
        "/a/../b",
        "/..",
        "/.",
        "/a**",
        "/**b",
        "/***",
        "/a\0b",
        "/.ttlfs",
        "/.ttlfs/x",
        &long,
        &deep,
    ] {
        assert!(text.parse::<RulePath>().is_err(), "{text}");
    }
    assert!("/a/.ttlfs".parse::<RulePath>().is_ok());
}

#[test]
fn globs_match_names_of_any_bytes() {
    let globs = |texts: &[&str]| Globs::new(texts.iter().map(|&text| text.to_owned()));
    let logs = globs(&["*.log", "core.[0-9]*", "?"]).unwrap();
    for name in [
        &b"a.log"[..],
        b".log",
        b"\xff\xfe.log",
        b"core.12",
        b"x",
        b"new\nline.log",
    ] {
        assert!(logs.matches(name), "{name:?}");
    }
    for name in [&b"a.logs"[..], b"log", b"core.x", b"xy", b"a.LOG"] {
        assert!(!logs.matches(name), "{name:?}");
    }
    for bad in ["", "a/b", "[", "[z-a]", "{a", "a\0"] {
        assert!(globs(&[bad]).is_err(), "{bad}");
    }
    assert!(globs(&["x"; 100]).is_ok());
    assert!(Globs::new((0..65).map(|n| n.to_string())).is_err());
}

#[test]
fn no_path_takes_long() {
    let path = path(&"/**/*".repeat(32));
    let names = vec![&b"x"[..]; 1000];
    assert!(path.matches(&names) && !path.matches(&names[..31]));
}

/// Stars by the definition: a star is any string.
fn naive_stars(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|skipped| naive_stars(rest, &name[skipped..])),
        [byte, rest @ ..] => name.first() == Some(byte) && naive_stars(rest, &name[1..]),
    }
}

proptest! {
    #[test]
    fn stars_are_as_defined(pattern in "[ab]{0,3}(\\*[ab]{1,2}){0,3}\\*?", name in "[ab]{0,8}") {
        prop_assume!(!pattern.is_empty());
        prop_assert_eq!(Step::new(&pattern).matches(name.as_bytes()), naive_stars(pattern.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn a_path_round_trips_and_means_its_example(text in "(/(a|b|\\*|\\*\\*|a\\*|\\*b)){0,5}/?") {
        prop_assume!(!text.is_empty());
        let path = path(&text);
        prop_assert_eq!(path.to_string().parse::<RulePath>().unwrap(), path.clone());
        let example = path.example();
        let names: Vec<&[u8]> = example.iter().map(Vec::as_slice).collect();
        prop_assert!(path.matches(&names));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<RulePath>();
        let _ = Globs::new([text]);
    }
}
