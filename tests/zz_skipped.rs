//! Not a test: the last target of a run, which lists what the tests before it have left out.
//!
//! Without libtest, so that its lines are shown. Under `CI=true` nothing can be left out, and a test that would be fails.

#[path = "support/skipped.rs"]
#[allow(dead_code, reason = "other targets note")]
mod skipped;

use std::process::ExitCode;

/// A line of this target.
const OWN: &str = "zz_skipped: this line shows that the list works\n";

fn main() -> ExitCode {
    // Somebody who lists or filters tests runs none.
    if std::env::args().len() > 1 {
        return ExitCode::SUCCESS;
    }
    // One that it makes itself, so that an empty list can't be a list that is never filled.
    skipped::record(OWN);
    let mut lines = skipped::take();
    let Some(own) = lines.iter().position(|line| line == OWN.trim_end()) else {
        eprintln!("The list of skipped tests does not work.");
        return ExitCode::FAILURE;
    };
    lines.remove(own);
    match lines.len() {
        0 => println!("\nNo test was skipped."),
        count => {
            println!("\n{}", "=".repeat(100));
            println!("{count} SKIPPED: these are shown as passed above, and have tested nothing.\n");
            lines.iter().for_each(|line| println!("  {line}"));
            println!("\n.ci/setup installs what is missing.\n{}", "=".repeat(100));
        }
    }
    ExitCode::SUCCESS
}
