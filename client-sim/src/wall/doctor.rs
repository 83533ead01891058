//! What `tcbchat doctor` says of a stage, before it is played on.
//!
//! The doctor reads the machine and the configuration, as the stage has them, and predicts where it stops;
//! the wall then shows it. A server without that command says nothing here, and the wall is played without.
//!
//! Invariant: a prediction is only ever shown, never used.

use std::process::Command;

use serde_json::Value;

use super::stage::Stage;

/// The doctor's sentence about so many connections on this stage: how many it predicts, and the wall it
/// names. `None` when the server has no such command.
pub fn predict(stage: &Stage, connections: u64) -> Option<String> {
    let output = Command::new(&stage.binary)
        .args(["doctor", "--json", "--connections", &connections.to_string()])
        .output()
        .ok()?;
    sentence(&serde_json::from_slice(&output.stdout).ok()?)
}

fn sentence(report: &Value) -> Option<String> {
    let predicted = report.get("predicted")?.as_u64()?;
    let wall = report.get("lowest")?.as_str()?;
    Some(format!("predicts {} connections; the lowest wall is {wall}", super::outcome::commas(predicted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_a_sentence() {
        let report = serde_json::json!({"predicted": 3977, "lowest": "user-ports"});
        assert_eq!(sentence(&report).unwrap(), "predicts 3,977 connections; the lowest wall is user-ports");
        assert_eq!(sentence(&serde_json::json!({"error": "usage"})), None);
    }
}
