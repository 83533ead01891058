//! WebSocket frames, made up by the fuzzer. What must hold of them is in `fuzz/checks/ws.rs`.

#![no_main]

#[path = "../checks/ws.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::run(data));
