//! Rules, patterns, people and destinations, made up by the fuzzer. What must hold of them is in `fuzz/checks/policy.rs`.

#![no_main]

#[path = "../checks/policy.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::run(data));
