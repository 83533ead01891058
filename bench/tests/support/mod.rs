//! `bench` as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");

/// Runs `bench` with so many descriptors for each table, both sides on one core, and has it write these files.
pub fn bench(descriptors: u32, line: &str, files: &[(&str, &Path)]) -> Output {
    bench_anywhere(descriptors, &format!("{line} --server-core=0 --client-core=0"), files)
}

/// The same of a measurement that does not say where it runs.
pub fn bench_anywhere(descriptors: u32, line: &str, files: &[(&str, &Path)]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), BENCH]);
    command.args(line.split_whitespace());
    command.args(files.iter().map(|(option, path)| format!("{option}={}", path.display())));
    // `cargo test --workspace` has built the programs that are measured. Without them, `bench` builds them.
    let beside = |name| PathBuf::from(BENCH).with_file_name(name).exists();
    if beside("tcbchat") && beside("client-sim") {
        command.env_remove("CARGO");
    }
    command.stdin(Stdio::null()).output().unwrap()
}

pub fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}
