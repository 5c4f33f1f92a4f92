//! The documentation names what exists: tests behind claims, files behind links, keys behind tables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const DOCUMENTS: [&str; 5] = [
    "README.md",
    "docs/semantics.md",
    "docs/administration.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
];

/// All Rust sources below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn has_function(source: &str, name: &str) -> bool {
    source.contains(&format!("fn {name}("))
}

#[test]
fn named_tests_exist() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let beside_the_code: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let text = read("docs/semantics.md");
    let mut missing = BTreeSet::new();
    let mut count = 0;
    for name in quoted(&text) {
        let parts: Vec<&str> = name.split("::").collect();
        let is_there = match parts[..] {
            // The explanation of the notation itself.
            [_, "T"] | [_, _, "T"] => continue,
            ["mounted", module, test] => {
                has_function(&read(format!("tests/mounted/{module}.rs")), test)
            }
            [file @ ("mount_cli" | "run_cli"), test] => {
                has_function(&read(format!("tests/{file}.rs")), test)
            }
            ["unit", test] => has_function(&beside_the_code, test),
            _ => continue,
        };
        count += 1;
        if !is_there {
            missing.insert(name);
        }
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    assert!(count > 100, "only {count} found");
}

#[test]
fn each_claim_names_a_test() {
    let text = read("docs/semantics.md");
    for claim in text.split("\n- **").skip(1) {
        let claim = claim.split("\n\n").next().unwrap_or_default();
        let number = claim.split("**").next().unwrap_or_default();
        let refers = claim.contains("See Q10") || number == "D12";
        assert!(
            refers || quoted(claim).any(|name| name.contains("::")),
            "{number} names no test"
        );
    }
}

#[test]
fn links_lead_to_files() {
    for document in DOCUMENTS {
        let text = read(document);
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || target.contains("://") {
                continue;
            }
            let place = root().join(document);
            let file = place.parent().unwrap().join(path);
            assert!(file.exists(), "{document}: {target}");
        }
    }
}

#[test]
fn the_readme_shows_exactly_the_keys_that_work() {
    use ttlfs::rule::{Gate, Key, NOT_YET_SUPPORTED};
    let text = read("README.md");
    let (_, rest) = text.split_once("### Rules").unwrap();
    let (table, rest) = rest.split_once("\n\nGiven with `-o`").unwrap();
    let (_, rest) = rest.split_once("## Not yet").unwrap();
    let (not_yet, _) = rest.split_once("\n## ").unwrap();
    let shown: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|line| quoted_first_cell(line))
        .collect();
    let works: BTreeSet<&str> = Key::spellings(Gate::Supported).chain(["match"]).collect();
    assert_eq!(shown, works);
    for key in NOT_YET_SUPPORTED {
        let name = key.name();
        let is_listed = quoted(not_yet).any(|listed| {
            listed == name
                || listed
                    .strip_suffix('*')
                    .is_some_and(|start| name.starts_with(start))
        });
        assert!(is_listed, "{name} is not in the list");
    }
}

/// The names of the first cell of a row whose first "| `" is cut off.
fn quoted_first_cell(row: &str) -> Vec<&str> {
    let cell = row.split(" |").next().unwrap_or_default();
    let mut names = vec![cell.split('`').next().unwrap_or_default()];
    names.extend(cell.split('`').skip(2).step_by(2));
    names
}

#[test]
fn documents_are_plain_text() {
    for document in DOCUMENTS {
        let text = read(document);
        let strange = text.lines().position(|line| !line.is_ascii());
        assert_eq!(strange, None, "{document}: a line that isn't ASCII");
    }
}
