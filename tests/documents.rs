//! What the documents name is there: files and headings that links lead to, and what `docs/SECURITY.md` says stops a threat.
//!
//! It reads Markdown as far as links, headings and tables go, and knows nothing of what is true. Links out of the repository
//! are not followed.
//!
//! Invariant: a name that is looked for as a whole is found as a whole; a part of another name is none.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tcbchat::config::keys;
use tcbchat::metrics::CATALOGUE;
use tcbchat::ops::metrics::{PREFIX, SERVER};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a folder that end in this.
fn find(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry can be read").path();
        let is_ours =
            !path.ends_with("node_modules") && !path.ends_with("target") && !path.ends_with(".venv");
        if path.is_dir() && is_ours {
            find(&path, extension, files);
        } else if path.extension().is_some_and(|own| own == extension) {
            files.push(path);
        }
    }
}

/// Lines outside of fenced and indented blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence && !line.starts_with("    ")
    })
}

/// What links of a line lead to.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn has_heading(text: &str, wanted: &str) -> bool {
    prose(text).any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn links_lead_somewhere() {
    let mut files = vec![root().join("README.md"), root().join("client-sim/README.md")];
    find(&root().join("docs"), "md", &mut files);
    find(&root().join("examples"), "md", &mut files);
    let (mut count, mut broken) = (0, Vec::new());
    for file in files {
        let text = read(&file);
        for target in prose(&text).flat_map(links).filter(|target| !target.contains("://")) {
            count += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = match path {
                "" => file.clone(),
                path => file.parent().expect("a file is in a folder").join(path),
            };
            let is_right = there.exists()
                && (heading.is_empty() || there.is_file() && has_heading(&read(&there), heading));
            if !is_right {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(count > 50, "links are found");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What stands between grave accents.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn what_stops_a_threat_is_there() {
    let mut sources = Vec::new();
    for folder in ["src", "tests", "fuzz"] {
        find(&root().join(folder), "rs", &mut sources);
    }
    let mut functions = HashSet::new();
    for source in &sources {
        let text = read(source);
        for rest in text.split("fn ").skip(1) {
            functions.insert(
                rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("").to_owned(),
            );
        }
    }
    let names = CATALOGUE.iter().map(|metric| metric.name).chain(SERVER.iter().map(|metric| metric.name));
    let metrics: HashSet<String> = names.map(|name| format!("{PREFIX}{name}")).collect();
    let text = read(&root().join("docs/SECURITY.md"));
    let (_, table) = text.split_once("| threat |").expect("there is a table of threats");
    let (table, _) = table.split_once("\n\n").expect("it has an end");
    let mut missing = Vec::new();
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert!(rows.len() > 20, "rows are found");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [_, _, keys, numbers, tests] = cells[..] else { panic!("a row of five cells: {row}") };
        let is_key = |name: &str| match name.split_once('.') {
            Some((section, key)) => keys::find(section, key).is_some(),
            // A whole section, or the rules.
            None => {
                let section = name.trim_matches(['[', ']']);
                section == "rules" || keys::catalogue().iter().any(|key| key.section == section)
            }
        };
        missing.extend(quoted(keys).filter(|name| !is_key(name)));
        missing.extend(quoted(numbers).filter(|name| !metrics.contains(*name)));
        missing.extend(quoted(tests).filter(|name| !functions.contains(*name)));
        assert!(quoted(tests).next().is_some(), "a threat without a test: {row}");
    }
    assert!(missing.is_empty(), "named in docs/SECURITY.md, and not there: {missing:#?}");
}

#[test]
fn headings_are_called_as_in_links() {
    for (heading, called) in [
        (" Who a client is", "who-a-client-is"),
        (" `[listen]`", "listen"),
        (" Fair shares: who is cut back", "fair-shares-who-is-cut-back"),
    ] {
        assert_eq!(anchor(heading), called);
    }
    assert!(has_heading("a\n## Two words\n", "two-words") && !has_heading("```\n# No\n```\n", "no"));
    assert_eq!(links("a [b](c.md) and [d](e#f).").collect::<Vec<_>>(), ["c.md", "e#f"]);
}
