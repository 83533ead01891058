//! The files that a measurement leaves.

use std::path::PathBuf;

use serde::Serialize;
use tcbchat_bench::{output, show, write_json, write_text};

/// Options for a result in two forms.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", value_parser = output)]
    json: Option<PathBuf>,
    /// Write the result as Markdown
    #[arg(long, value_name = "FILE", value_parser = output)]
    markdown: Option<PathBuf>,
}

impl Files {
    /// Writes what was asked for, and prints the Markdown. One that cannot be written costs no other.
    ///
    /// # Errors
    /// A sentence for the user: which file, and why it cannot be written.
    pub fn publish(&self, report: &impl Serialize, markdown: &str) -> Result<(), String> {
        let json = self.json.as_deref().map_or(Ok(()), |path| write_json(path, report));
        let text = self.markdown.as_deref().map_or(Ok(()), |path| write_text(path, markdown));
        json.and(text).and(show(markdown))
    }
}
