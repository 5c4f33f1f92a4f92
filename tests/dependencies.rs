//! Dependencies: licences that deny.toml allows, from the default registry only, and no wildcard versions.
//!
//! The same as `cargo deny check licenses bans sources`, for machines where that isn't installed.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is built for this machine. Packages for others needn't have been downloaded.
fn metadata() -> Value {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(rustc.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("a host");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn policy() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

fn strings(policy: &toml::Table, section: &str, key: &str) -> Vec<String> {
    let values = policy[section][key].as_array().expect("a list");
    values
        .iter()
        .map(|value| value.as_str().expect("text").to_owned())
        .collect()
}

/// Does a licence expression (SPDX: AND, OR, WITH, parentheses; `/` in old crates) come down to allowed licences?
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let answer = alternatives(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "not understood: {expression}");
    answer
}

fn alternatives(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut answer = conjunction(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        answer |= conjunction(words, at, allowed);
    }
    answer
}

fn conjunction(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut answer = licence(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        answer &= licence(words, at, allowed);
    }
    answer
}

fn licence(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    if words[*at] == "(" {
        *at += 1;
        let answer = alternatives(words, at, allowed);
        assert_eq!(words.get(*at), Some(&")"));
        *at += 1;
        return answer;
    }
    let mut name = words[*at].to_owned();
    *at += 1;
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words[*at + 1]);
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = [
        "MIT".to_owned(),
        "Apache-2.0 WITH LLVM-exception".to_owned(),
        "Zlib".to_owned(),
    ];
    for yes in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "Apache-2.0 WITH LLVM-exception",
        "(MIT OR GPL-3.0) AND Zlib",
    ] {
        assert!(is_allowed(yes, &allowed), "{yes}");
    }
    for no in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "Apache-2.0",
        "(MIT OR Zlib) AND GPL-3.0",
    ] {
        assert!(!is_allowed(no, &allowed), "{no}");
    }
}

#[test]
fn licences_are_allowed() {
    let allowed = strings(&policy(), "licenses", "allow");
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 10);
    for package in packages {
        let licence = package["license"]
            .as_str()
            .unwrap_or_else(|| panic!("{} says no licence", package["id"]));
        assert!(
            is_allowed(licence, &allowed),
            "{}: {licence}; allowed are {allowed:?}",
            package["id"]
        );
    }
}

#[test]
fn sources_are_known() {
    // As cargo-deny does by default: cargo's own registry, no other, no git.
    let mut sources = std::collections::BTreeSet::new();
    for package in metadata()["packages"].as_array().expect("packages") {
        // Our own package has no source.
        let Some(source) = package["source"].as_str() else {
            assert_eq!(
                package["name"],
                env!("CARGO_PKG_NAME"),
                "a dependency by path"
            );
            continue;
        };
        assert!(
            source.starts_with("registry+"),
            "{} comes from {source}",
            package["id"]
        );
        sources.insert(source.to_owned());
    }
    assert_eq!(sources.len(), 1, "{sources:?}");
}

#[test]
fn versions_are_no_wildcards() {
    let metadata = metadata();
    let own = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .find(|package| package["source"].is_null());
    for dependency in own.expect("our package")["dependencies"]
        .as_array()
        .expect("dependencies")
    {
        assert_ne!(dependency["req"], "*", "{}", dependency["name"]);
    }
}
