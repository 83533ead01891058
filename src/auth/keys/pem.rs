//! The blocks of a PEM file (RFC 7468), cut apart.
//!
//! It decodes nothing. Text between blocks is passed over, as the RFC permits.
//!
//! Invariant: a block begins with its BEGIN line and ends with the END line of the same label.

use crate::auth::mistake::Mistake;

/// One block of a PEM file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct Block<'a> {
    /// Line of its BEGIN.
    pub(in crate::auth) line: usize,
    /// What it says it holds: `PUBLIC KEY`.
    pub(in crate::auth) label: &'a str,
    /// All of it, from BEGIN to END.
    pub(in crate::auth) text: &'a str,
}

impl<'a> Block<'a> {
    /// The lines between BEGIN and END, as one.
    pub(in crate::auth) fn base64(&self) -> String {
        let lines = self.text.lines().skip(1);
        lines.take_while(|line| !line.starts_with("-----END ")).map(str::trim).collect()
    }
}

/// The blocks of a file.
///
/// # Errors
/// A block does not end.
pub(in crate::auth) fn blocks(text: &str) -> Result<Vec<Block<'_>>, Mistake> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, usize, &str)> = None;
    let mut at = 0;
    for (line, whole) in (1..).zip(text.split_inclusive('\n')) {
        let said = whole.trim_end();
        if let Some(label) = between(said, "-----BEGIN ") {
            if let Some((line, _, label)) = open {
                return Err(unended(line, label));
            }
            open = Some((line, at, label));
        } else if let (Some(label), Some((line, begin, own))) = (between(said, "-----END "), open) {
            if label != own {
                return Err(unended(line, own));
            }
            blocks.push(Block { line, label, text: &text[begin..at + said.len()] });
            open = None;
        }
        at += whole.len();
    }
    match open {
        Some((line, _, label)) => Err(unended(line, label)),
        None => Ok(blocks),
    }
}

fn unended(line: usize, label: &str) -> Mistake {
    Mistake::on(line, format!("-----BEGIN {label}----- has no -----END {label}-----"))
}

fn between<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    line.strip_prefix(begin)?.strip_suffix("-----")
}
