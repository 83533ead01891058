//! Messages: from JSON to their place in a room or queue.
//!
//! What a session may send is what a program may: the same destinations and the same bounds. What the server says in a MESSAGE
//! cannot be said by anybody else.
//!
//! Invariant: messages of one request to one destination have their places in the order of the request.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::problem::Problem;
use super::shards::Shards;
use crate::limits;
use crate::mesh::inquiry::Inquiry;
use crate::message::Message;
use crate::message::destination::Destination;
use crate::message::fault::Fault;
use crate::wire::stomp::{own_header_line, server_header_lines};

/// Messages of one request that are under way at once. Others of a batch follow, so that no mailbox has all of it.
const UNDER_WAY_MAX: usize = 256;

/// A message as a request says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    destination: String,
    body: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// By what messages are judged.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    /// Bounds of a frame.
    pub stomp: limits::Stomp,
    /// Messages say when they were accepted.
    pub is_guarded: bool,
}

impl Judge {
    /// The message that is meant.
    ///
    /// # Errors
    /// It could not be sent by a session, either; or it says what only the server says.
    pub(super) fn message(&self, said: &Said) -> Result<Message, Problem> {
        let stomp = &self.stomp;
        if Destination::is_too_long(&said.destination, stomp.destination_bytes_max) {
            return Err(Fault::DestinationTooLong { max: stomp.destination_bytes_max }.into());
        }
        let destination = Destination::parse_send(&said.destination).map_err(Fault::from)?;
        if said.body.len() > stomp.body_bytes_max as usize {
            let detail = format!("the body is longer than stomp.body_bytes_max = {}", stomp.body_bytes_max);
            return Err(Problem::new(422, "body-too-large", detail));
        }
        let lines = self.lines(&said.headers, destination.is_of_app())?;
        Ok(Message::new(&destination, &lines, said.body.as_bytes()))
    }

    fn lines(&self, headers: &BTreeMap<String, String>, is_for_app: bool) -> Result<Vec<u8>, Problem> {
        let stomp = &self.stomp;
        let too_large = |key, max| Problem::new(422, "headers-too-large", format!("more than {key} = {max}"));
        if headers.len() > stomp.headers_max as usize {
            return Err(too_large("stomp.headers_max", stomp.headers_max));
        }
        let mut lines = Vec::new();
        for (name, value) in headers {
            let before = lines.len();
            if !own_header_line(name, value, is_for_app, &mut lines) {
                let detail = format!("only the server says the header {name:?}");
                return Err(Problem::new(422, "reserved-header", detail));
            }
            if lines.len() - before > stomp.header_bytes_max as usize {
                return Err(too_large("stomp.header_bytes_max", stomp.header_bytes_max));
            }
        }
        if lines.len() > stomp.head_bytes_max as usize {
            return Err(too_large("stomp.head_bytes_max", stomp.head_bytes_max));
        }
        if self.is_guarded {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // No sender: that is a login which was proved.
            server_header_lines(None, since.as_millis() as u64, &mut lines);
        }
        Ok(lines)
    }
}

/// Gives messages their places. Returns for each whether it has one, or why not.
pub(super) async fn publish(shards: &Shards, messages: Vec<Message>) -> Vec<Result<(), Problem>> {
    let mut outcomes = Vec::with_capacity(messages.len());
    let mut messages = messages.into_iter().peekable();
    while messages.peek().is_some() {
        let under_way: Vec<_> = messages
            .by_ref()
            .take(UNDER_WAY_MAX)
            .map(|message| {
                let owner = shards.owner_of(&message);
                shards.ask(owner, |reply| Inquiry::Publish { message, reply })
            })
            .collect();
        for answer in under_way {
            let outcome = shards.answer(answer).await;
            outcomes.push(outcome.and_then(|placed| placed.map_err(Problem::from)));
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge() -> Judge {
        Judge { stomp: limits::Stomp::default(), is_guarded: false }
    }

    fn said(json: &str) -> Said {
        serde_json::from_str(json).expect("it is a message")
    }

    #[test]
    fn headers_are_passed_on_escaped() {
        let message = judge()
            .message(&said(r#"{"destination":"/topic/a","body":"b","headers":{"x:y":"1\n2","content-type":"text/html"}}"#))
            .expect("it is right");
        assert_eq!(message.lines(), b"content-type:text/html\nx\\cy:1\\n2\n");
        assert_eq!((message.key(), message.body()), ("/topic/a", &b"b"[..]));
        let guarded = Judge { is_guarded: true, ..judge() };
        let message = guarded.message(&said(r#"{"destination":"/queue/a","body":""}"#)).expect("it is right");
        assert!(message.lines().starts_with(b"timestamp:1"), "{message:?}");
    }

    #[test]
    fn what_a_session_could_not_send_is_refused_by_the_same_name() {
        let long = "x".repeat(300);
        for (json, name) in [
            (r#"{"destination":"/exchange/a","body":""}"#.to_owned(), "bad-destination"),
            (r#"{"destination":"/user/queue/a","body":""}"#.to_owned(), "bad-destination"),
            (format!(r#"{{"destination":"/topic/{long}","body":""}}"#), "destination-too-long"),
            (format!(r#"{{"destination":"/topic/a","body":"{}"}}"#, "x".repeat(1_200_000)), "body-too-large"),
            (
                r#"{"destination":"/topic/a","body":"","headers":{"sender":"ann"}}"#.to_owned(),
                "reserved-header",
            ),
            (r#"{"destination":"/topic/a","body":"","headers":{"":"ann"}}"#.to_owned(), "reserved-header"),
            (
                r#"{"destination":"/app/a","body":"","headers":{"reply-to":"/topic/a"}}"#.to_owned(),
                "reserved-header",
            ),
            (
                r#"{"destination":"/topic/a","body":"","headers":{"sender ":"ann"}}"#.to_owned(),
                "reserved-header",
            ),
            (
                r#"{"destination":"/topic/a","body":"","headers":{"sender\u0000":"ann"}}"#.to_owned(),
                "reserved-header",
            ),
            (
                format!(r#"{{"destination":"/topic/a","body":"","headers":{{"a":"{}"}}}}"#, "x".repeat(5000)),
                "headers-too-large",
            ),
        ] {
            let problem = judge().message(&said(&json)).expect_err("it is wrong");
            assert_eq!((problem.name, problem.status), (name, 422));
        }
        for json in [r#"{"destination":"/topic/a"}"#, r#"{"destination":"/topic/a","body":"","other":1}"#] {
            assert!(serde_json::from_str::<Said>(json).is_err(), "{json}");
        }
    }
}
