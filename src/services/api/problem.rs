//! What the API refuses, as `application/problem+json` (RFC 9457).
//!
//! A problem has the name by which programs tell it from others, in `type` and `name`, and a sentence for people. What a
//! message is refused for has the name that a session's ERROR has ([`Fault::name`]).
//!
//! Invariant: a status of 5xx says that the same request may succeed later.

use std::borrow::Cow;

use serde::Serialize;

use crate::message::fault::Fault;

/// Seconds after which a request that was refused for now may be made again.
const RETRY_AFTER_S: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The status.
    pub status: u16,
    /// The name.
    pub name: &'static str,
    /// The sentence.
    pub detail: Cow<'static, str>,
    /// Methods that the path has, for 405.
    pub allow: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    name: &'static str,
    detail: &'a str,
}

impl Problem {
    /// A problem with this status, name and sentence.
    pub fn new(status: u16, name: &'static str, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem { status, name, detail: detail.into(), allow: None }
    }

    /// No token, or a wrong one.
    pub fn token() -> Problem {
        Problem::new(401, "not-authenticated", "a request needs the token of api.token_file")
    }

    /// What is asked for is not there.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(404, "not-found", detail)
    }

    /// What is said is JSON, and not what it should be.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(422, "invalid", detail)
    }

    /// The server ends.
    pub fn stopping() -> Problem {
        Problem::new(503, "stopping", "the server is shutting down")
    }

    /// It takes too long.
    pub fn timeout(ms: u32) -> Problem {
        let detail = format!(
            "no answer within api.request_timeout_ms = {ms}; a publication may still get its place: repeat it with its \
             Idempotency-Key"
        );
        Problem::new(504, "timeout", detail)
    }

    /// The value of `Retry-After`, in seconds, if there is one.
    pub fn retry_after_s(&self) -> Option<u32> {
        (self.status == 503).then_some(RETRY_AFTER_S)
    }

    /// As JSON.
    pub fn body(&self) -> Vec<u8> {
        let title = match self.status {
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            413 => "Content Too Large",
            422 => "Unprocessable Content",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "Internal Server Error",
        };
        let Problem { status, name, detail, .. } = self;
        let body = Body { r#type: format!("urn:tcbchat:{name}"), title, status: *status, name, detail };
        serde_json::to_vec(&body).expect("texts and a number are JSON")
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        // 1013 is "try again later".
        let status = if fault.close_code() == 1013 { 503 } else { 422 };
        Problem::new(status, fault.name(), fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::destination::BadDestination;

    #[test]
    fn a_fault_of_a_session_has_its_name_here_too() {
        let full = Problem::from(Fault::QueueFull { bound: "rooms.queue_messages_max", max: 7 });
        assert_eq!((full.status, full.name, full.retry_after_s()), (503, "queue-full", Some(1)));
        let bad = Problem::from(Fault::BadDestination(BadDestination::EmptyName));
        assert_eq!((bad.status, bad.name, bad.retry_after_s()), (422, "bad-destination", None));
        let body: serde_json::Value = serde_json::from_slice(&bad.body()).expect("it is JSON");
        assert_eq!((&body["type"], &body["status"]), (&"urn:tcbchat:bad-destination".into(), &422.into()));
        assert_eq!(body["detail"], "destination has no name behind its prefix");
    }
}
