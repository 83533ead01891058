//! The codecs against everything: inputs made at random, cut at random, and an independent peer.
//!
//! Rules that have one input and one answer are unit tests beside the code.

#[path = "../../fuzz/checks/http.rs"]
mod http_checks;
#[path = "../../fuzz/checks/stomp.rs"]
mod stomp_checks;
#[path = "../../fuzz/checks/ws.rs"]
mod ws_checks;

#[path = "../support/counting.rs"]
mod counting;

mod allocations;
mod http;
mod pipe;
mod stomp;
mod ws;
