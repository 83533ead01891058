//! STOMP frames, made up by the fuzzer. What must hold of them is in `fuzz/checks/stomp.rs`.

#![no_main]

#[path = "../checks/stomp.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::run(data));
