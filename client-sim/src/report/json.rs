//! The report as JSON.
//!
//! Invariant: what is written is one JSON object and a line end.

use std::fs;
use std::io;
use std::path::Path;

use super::Report;

/// Writes the report.
///
/// # Errors
/// The file cannot be written.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    fs::write(path, text)
}
