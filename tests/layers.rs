//! The direction of layers: which module may name which.
//!
//! Every source file is read as tokens, so comments and strings do not count and macro bodies do. Each path
//! that starts at the crate's root (`crate::`, `super::` as far up, `tcbchat::` in the binary) must lead to a
//! layer below. The same is asked of `mio`, which belongs to `net` alone.
//!
//! The layers that the documentation shows are compared with the table here.
//!
//! It does not know what a re-export leads to: whoever re-exports upwards has named the upper layer himself.

use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The layers from the lowest to the highest. A module sees those of the layers before its own; not its
/// neighbours.
const LAYERS: &[&[&str]] = &[
    &["limits", "time", "metrics", "footprint", "share"],
    &["tcb", "buf", "wire", "auth"],
    &["message", "policy"],
    &["conn", "session", "broker"],
    &["members"],
    &["mesh"],
    &["services"],
    &["shard"],
    &["net"],
    &["ops", "config"],
    &["walls"],
    &["main"],
];

/// Files of the binary, which all belong to the layer `main`.
const BINARY: &[&str] = &["main", "cli", "ctl", "doctor", "health", "lifecycle", "output", "passwd", "token"];

/// The crate whose name only `net` may say.
const EVENT_LOOP_CRATE: &str = "mio";

#[test]
fn modules_see_only_the_layers_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    find_sources(&root, &mut files);
    assert!(files.len() > 5, "no sources under {}", root.display());
    let mut violations = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a source file can be read");
        let inside = file.strip_prefix(&root).expect("found under the root").display().to_string();
        violations.extend(check(&inside, &text));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn find_sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the source directory can be listed") {
        let path = entry.expect("a directory entry can be read").path();
        if path.is_dir() {
            find_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What a file, named as below `src/`, does against the rules; one line each.
fn check(file: &str, text: &str) -> Vec<String> {
    if file == "lib.rs" {
        // The root declares the modules and is none of the layers.
        return Vec::new();
    }
    let modules: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    let module = modules[0].clone();
    let module = if BINARY.contains(&module.as_str()) { "main" } else { module.as_str() };
    let Some(own) = layer(module) else {
        return vec![format!("{file}: the module `{module}` is in no layer; give it one in tests/layers.rs")];
    };
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut walk = Walk { modules, named: Vec::new() };
    walk.stream(tokens);

    let mut violations = Vec::new();
    for (line, named) in walk.named {
        if named == EVENT_LOOP_CRATE {
            if module != "net" {
                violations.push(format!("{file}:{line}: only net names {EVENT_LOOP_CRATE}"));
            }
        } else if named != module && layer(&named).is_some_and(|layer| layer >= own) {
            violations.push(format!("{file}:{line}: {module} must not see {named}"));
        }
    }
    violations
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The layers as `docs/ARCHITECTURE.md` shows them: a block of names, with `<` between the layers.
#[test]
fn the_picture_of_the_layers_is_this_table() {
    let text = include_str!("../docs/ARCHITECTURE.md");
    let block = text.split("```").find(|block| block.trim_start().starts_with(LAYERS[0][0]));
    let block = block.expect("docs/ARCHITECTURE.md has a picture of the layers");
    let shown: Vec<Vec<&str>> = block.split('<').map(|layer| layer.split_whitespace().collect()).collect();
    let (binary, below) = shown.split_last().expect("the picture has layers");
    assert_eq!(binary, BINARY);
    assert_eq!(below, &LAYERS[..LAYERS.len() - 1]);
}

/// The same of the map in the crate's documentation, where the binary is not a row.
#[test]
fn the_map_of_the_crate_is_this_table() {
    let text = include_str!("../src/lib.rs");
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    let mut shown: Vec<Vec<&str>> = Vec::new();
    for row in rows.skip(1) {
        let mut cells = row.split('|').map(str::trim);
        let (layer, module) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
        let module = module.trim_matches(|quote| "[]`".contains(quote));
        match shown.last_mut() {
            Some(modules) if layer.is_empty() => modules.push(module),
            _ => shown.push(vec![module]),
        }
    }
    assert_eq!(shown, &LAYERS[..LAYERS.len() - 1]);
}

/// A walk over the tokens of one file.
struct Walk {
    /// The module path of the tokens at hand, without `crate`.
    modules: Vec<String>,
    /// Modules named directly below the root, and [`EVENT_LOOP_CRATE`], with their lines.
    named: Vec<(usize, String)>,
}

impl Walk {
    fn stream(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.stream(group.stream()),
                TokenTree::Ident(ident) if ident == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        self.modules.push(name.to_string());
                        self.stream(body.stream());
                        self.modules.pop();
                        at += 2;
                    }
                }
                TokenTree::Ident(ident) => at = self.path(&tokens, at, &ident.to_string()),
                _ => {}
            }
            at += 1;
        }
    }

    /// Follows a path that starts at `at`; returns the index of the last token that is done with.
    fn path(&mut self, tokens: &[TokenTree], at: usize, first: &str) -> usize {
        if first == EVENT_LOOP_CRATE && is_path_separator(tokens, at + 1) {
            self.named.push((line(&tokens[at]), first.to_owned()));
            return at;
        }
        // The number of modules left when the path has gone as far up as it says.
        let mut depth = match first {
            "crate" | "tcbchat" => 0,
            "super" => self.modules.len().saturating_sub(1),
            _ => return at,
        };
        let mut at = at;
        while is_path_separator(tokens, at + 1) {
            at += 3;
            match tokens.get(at) {
                Some(TokenTree::Ident(ident)) if ident == "super" => depth = depth.saturating_sub(1),
                Some(token @ TokenTree::Ident(ident)) if depth == 0 => {
                    self.named.push((line(token), ident.to_string()));
                    return at;
                }
                Some(TokenTree::Group(group)) if depth == 0 && group.delimiter() == Delimiter::Brace => {
                    self.heads(group.stream());
                    return at;
                }
                // Below the root of the crate: inside the file's own top module. A group may still hold
                // anything, so it is left to the walk.
                _ => return at - 1,
            }
        }
        at
    }

    /// The first names of the paths of a use group at the root.
    fn heads(&mut self, group: TokenStream) {
        let mut first = true;
        for token in group {
            match &token {
                TokenTree::Ident(ident) if first => {
                    self.named.push((line(&token), ident.to_string()));
                    first = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ',' => first = true,
                _ => {}
            }
        }
    }
}

/// Whether `::` starts at this index and something follows.
fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1) && tokens.len() > at + 2
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

#[test]
fn what_is_against_the_direction_is_found() {
    let cases: &[(&str, &str, &str)] = &[
        ("tcb/table.rs", "use crate::net::reactor;", "tcb/table.rs:1: tcb must not see net"),
        ("wire.rs", "\n\nfn f() { crate::session::f() }", "wire.rs:3: wire must not see session"),
        ("wire.rs", "use crate::{limits, shard::{Shard, Mesh}};", "wire.rs:1: wire must not see shard"),
        ("tcb.rs", "use crate::buf::Pool;", "tcb.rs:1: tcb must not see buf"),
        ("tcb/index.rs", "use super::super::conn;", "tcb/index.rs:1: tcb must not see conn"),
        ("tcb.rs", "use super::conn::Connection;", "tcb.rs:1: tcb must not see conn"),
        ("buf.rs", "mod a { mod b { use super::super::super::ops; } }", "buf.rs:1: buf must not see ops"),
        ("time.rs", "macro_rules! m { () => { $crate::shard::x() } }", "time.rs:1: time must not see shard"),
        ("conn.rs", "use mio::Poll;", "conn.rs:1: only net names mio"),
        ("shard.rs", "fn f(poll: &mio::Poll) {}", "shard.rs:1: only net names mio"),
        ("config/plan.rs", "use crate::walls::forecast;", "config/plan.rs:1: config must not see walls"),
        ("net.rs", "use crate::ops::Site;", "net.rs:1: net must not see ops"),
        ("novelty.rs", "", "novelty.rs: the module `novelty` is in no layer"),
    ];
    for (file, text, expected) in cases {
        let violations = check(file, text);
        assert_eq!(violations.len(), 1, "{file}: {text}: {violations:?}");
        assert!(violations[0].starts_with(expected), "{violations:?}");
    }
}

#[test]
fn what_is_in_order_is_not_blamed() {
    let cases: &[(&str, &str)] = &[
        ("lib.rs", "pub mod net; use crate::net::server;"),
        ("tcb/table.rs", "use super::index::Index; use crate::time::Tick; use crate::tcb::state::State;"),
        (
            "tcb/table.rs",
            "// use crate::net;\n/// [`crate::net`]\nconst TEXT: &str = \"crate::net::reactor\";",
        ),
        ("tcb/table.rs", "#[cfg(test)] mod tests { use super::*; use super::super::index; }"),
        ("tcb.rs", "mod net {} fn f() { self::net::g(); net::h() }"),
        ("net/reactor.rs", "use mio::{Events, Poll}; use crate::shard::Shard; use crate::{tcb, wire::http};"),
        ("main.rs", "mod cli; use tcbchat::{config, net::server}; fn f() { crate::cli::parse() }"),
        ("cli.rs", "use tcbchat::config::keys; use crate::doctor;"),
    ];
    for (file, text) in cases {
        assert_eq!(check(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
