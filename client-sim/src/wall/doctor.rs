//! What `tcbchat doctor` says of a stage before it is played on.
//!
//! The doctor is asked on the stage itself, under the limits and with the keys that the first server there will
//! have: it reads them, predicts where that stops, and the wall then shows it. Its JSON is documented in
//! `docs/DOCTOR.md`.
//!
//! Invariant: a prediction is shown and held against what came, never used.

use serde_json::Value;

use super::outcome::commas;
use super::stage::{Launch, Stage};

/// What the doctor reports on a stage, with a server's process if it is one that runs; `None` when it says nothing that
/// can be read.
fn report(stage: &Stage, launch: &Launch, connections: Option<u64>, pid: Option<u32>) -> Option<Value> {
    let mut words = vec!["doctor".to_owned(), "--json".to_owned()];
    words.extend(connections.into_iter().flat_map(|count| ["--connections".to_owned(), count.to_string()]));
    words.extend(pid.into_iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = stage.command(&stage.binary, &words, launch).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// Where a server that is started so will stop.
pub fn maximum(stage: &Stage, launch: &Launch) -> Option<u64> {
    report(stage, launch, None, None)?["maximum"]["connections"].as_u64()
}

/// Where the server of this process will stop, its connections included.
pub fn maximum_of(stage: &Stage, launch: &Launch, pid: u32) -> Option<u64> {
    report(stage, launch, None, Some(pid))?["maximum"]["connections"].as_u64()
}

/// What is left of a wall's limit, as the doctor sees it on the stage.
pub fn left(stage: &Stage, launch: &Launch, wall: &str) -> Option<u64> {
    let report = report(stage, launch, None, None)?;
    let bound = report["walls"].as_array()?.iter().find(|bound| bound["id"] == wall)?;
    Some(bound["limit"].as_u64()?.saturating_sub(bound["in_use"].as_u64().unwrap_or(0)))
}

/// The doctor's sentence about a wall and so many connections; `None` when it does not say anything that can
/// be read.
pub fn predict(stage: &Stage, wall: &str, launch: &Launch, connections: u64) -> Option<String> {
    sentence(&report(stage, launch, Some(connections), None)?, wall)
}

/// Of the several bounds of one wall, the one that stops first, or else the one that the doctor has a remark on.
fn sentence(report: &Value, wall: &str) -> Option<String> {
    let bounds = report["walls"].as_array()?.iter().filter(|bound| bound["row"] == wall);
    let bound = bounds.min_by_key(|bound| {
        (bound["stops_at"].as_u64().unwrap_or(u64::MAX), bound["verdict"].as_str() == Some("fits"))
    })?;
    let name = bound["name"].as_str()?;
    let mut text = match (bound["stops_at"].as_u64(), bound["limit"].as_u64()) {
        (Some(stops_at), _) => format!("predicts that {name} stops at {} connections", commas(stops_at)),
        (None, Some(limit)) => format!("reads {} for {name}", commas(limit)),
        (None, None) => format!("finds no bound in {name}"),
    };
    if let Some(fix) = bound["fix"]["now"][0].as_str() {
        text.push_str(&format!("; advises: {fix}"));
    }
    let lowest = &report["lowest"];
    if let (Some(at), Some(of)) = (lowest["connections"].as_u64(), lowest["name"].as_str()) {
        text.push_str(&format!("; the lowest wall of all: {of}, {} connections", commas(at)));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_bound_that_stops_first_speaks_for_the_wall() {
        let report = json!({
            "lowest": {"connections": 256, "name": "RLIMIT_NOFILE"},
            "walls": [
                {"row": "nat", "name": "nf_conntrack_max", "stops_at": 10, "limit": 10, "verdict": "fits"},
                {"row": "connections", "name": "fs.file-max", "stops_at": 90_000, "limit": 1, "verdict": "fits"},
                {"row": "connections", "name": "RLIMIT_NOFILE", "stops_at": 256, "limit": 512, "verdict": "stops",
                 "fix": {"now": ["ulimit -n 1024"]}},
                {"row": "user-ports", "name": "ip_local_port_range", "stops_at": null, "limit": 3977,
                 "verdict": "notice"},
            ]
        });
        assert_eq!(
            sentence(&report, "connections").unwrap(),
            "predicts that RLIMIT_NOFILE stops at 256 connections; advises: ulimit -n 1024; the lowest wall of \
             all: RLIMIT_NOFILE, 256 connections"
        );
        assert!(sentence(&report, "user-ports").unwrap().starts_with("reads 3,977 for ip_local_port_range;"));
        assert_eq!(sentence(&report, "backlog"), None);
        assert_eq!(sentence(&json!({"error": "usage"}), "nat"), None);
    }
}
