//! Requests and their answers, made up by the fuzzer. What must hold of them is in `fuzz/checks/http.rs`.

#![no_main]

#[path = "../checks/http.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::run(data));
