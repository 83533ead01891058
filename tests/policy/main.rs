//! Rules against everything: random ones against a plain model, and logins and destinations chosen to do harm.
//!
//! What has one input and one answer is a unit test beside the code.

#[path = "../../fuzz/checks/policy.rs"]
mod checks;
#[path = "../support/counting.rs"]
mod counting;

mod allocations;
mod properties;
