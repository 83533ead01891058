//! Tokens and files of keys, made up by the fuzzer. What must hold of them is in `fuzz/checks/tokens.rs`.

#![no_main]

#[path = "../checks/tokens.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::run(data));
