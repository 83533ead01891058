//! What the server says: STOMP frames.
//!
//! Each function appends a whole frame to a buffer, valid UTF-8, which is [wrapped](crate::wire::framing::Framing::wrap) for
//! its connection. A MESSAGE of a room or a queue is wrapped here: its class says how, and its body may be anything. Nothing
//! here keeps state.

use std::borrow::Cow;

use crate::message::class::{AckMode, Class};
use crate::message::fault::Fault;
use crate::message::past::{Epoch, Marker, Missing};
use crate::message::{Message, MessageId};
use crate::wire::stomp::{Command, Encoder, Version, transcode_lines};

/// The value of the `server` header (STOMP 1.2, CONNECTED).
pub const SERVER: &str = concat!("tcbchat/", env!("CARGO_PKG_VERSION"));

/// Where a session is told of refusals that it survives.
pub const ERRORS: &str = "/user/queue/errors";

/// A heart-beat: LF.
pub fn heart_beat(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// CONNECTED: version, heart-beats in milliseconds, session (numbers that no other session has), server, and the login that
/// the client has proved.
pub fn connected(
    version: Version,
    session: [u32; 3],
    heart_beat_ms: [u32; 2],
    login: Option<&str>,
    out: &mut Vec<u8>,
) {
    let mut encoder = Encoder::new(out, Command::Connected, version)
        .plain("version", version.as_str())
        .numbers("session", &session, b'-')
        .plain("server", SERVER);
    // STOMP 1.0 knows no heart-beats.
    if version != Version::V10 {
        encoder = encoder.numbers("heart-beat", &heart_beat_ms, b',');
    }
    if let Some(login) = login {
        encoder = encoder.known("user-name", login);
    }
    encoder.finish();
}

/// RECEIPT; that of a new token says until when the session may last, in seconds since 1970.
pub fn receipt(version: Version, id: &str, lasts_until_s: Option<u64>, out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(out, Command::Receipt, version).known("receipt-id", id);
    if let Some(at) = lasts_until_s {
        encoder = encoder.plain("expires", itoa::Buffer::new().format(at));
    }
    encoder.finish()
}

/// ERROR: the fault's sentence, and which frame it answers where that asked for a receipt.
///
/// `agreed` is the version that CONNECTED has said. Before that none is agreed, and clients differ in what escapes they undo:
/// the sentence is written so that it needs none in any version.
pub fn error(agreed: Option<Version>, fault: &Fault, receipt: Option<&str>, out: &mut Vec<u8>) {
    let mut text = fault.to_string();
    if agreed.is_none() {
        text = text.chars().map(without_escape).collect();
    }
    let version = agreed.unwrap_or(Version::V12);
    let mut encoder = Encoder::new(out, Command::Error, version).known("message", &text);
    if matches!(fault, Fault::NoCommonVersion) {
        encoder = encoder.plain("version", "1.0,1.1,1.2");
    }
    if let Some(receipt) = receipt {
        encoder = encoder.known("receipt-id", receipt);
    }
    encoder.plain("content-type", "text/plain").body(format!("{}\n", fault.name()).as_bytes());
}

/// ERROR for an end that no frame of the client has caused, with when to come again if that is known, in seconds. It needs no
/// escapes in any version.
pub fn end(sentence: &str, retry_after_s: Option<u32>, out: &mut Vec<u8>) {
    let text: String = sentence.chars().map(without_escape).collect();
    let mut encoder = Encoder::new(out, Command::Error, Version::V12).known("message", &text);
    if let Some(seconds) = retry_after_s {
        encoder = encoder.plain("retry-after", itoa::Buffer::new().format(seconds));
    }
    encoder.finish();
}

/// A refusal that the session survives: a MESSAGE to [`ERRORS`] that says what the ERROR would. `number` differs among those of
/// one session; `subscription` is left out for STOMP 1.0 subscriptions that have no id.
pub fn refusal(
    version: Version,
    subscription: Option<&str>,
    number: u64,
    fault: &Fault,
    receipt: Option<&str>,
    out: &mut Vec<u8>,
) {
    let text = fault.to_string();
    let mut encoder = Encoder::new(out, Command::Message, version);
    if let Some(subscription) = subscription {
        encoder = encoder.known("subscription", subscription);
    }
    // No room has the epoch 0.
    let id = MessageId { epoch: 0, sequence: number }.to_string();
    encoder = encoder.plain("message-id", &id).plain("destination", ERRORS).known("message", &text);
    if let Some(receipt) = receipt {
        encoder = encoder.known("receipt-id", receipt);
    }
    encoder.plain("content-type", "text/plain").body(format!("{}\n", fault.name()).as_bytes());
}

/// A MESSAGE without a body that tells a subscription to `destination` of its room's past.
pub fn marker(class: &Class, destination: &str, id: MessageId, marker: &Marker, out: &mut Vec<u8>) {
    class.framing.wrap(true, 0, out, |out| {
        let mut encoder = Encoder::new(out, Command::Message, class.version);
        if class.is_named {
            encoder = encoder.known("subscription", &class.id);
        }
        let id = id.to_string();
        encoder = encoder.plain("message-id", &id).known("destination", destination);
        if class.ack != AckMode::Auto {
            encoder = encoder.plain("ack", &id);
        }
        encoder = encoder.plain("marker", marker.name());
        let missing = match marker {
            Marker::Gap(epoch, missing) => {
                encoder = encoder.plain("epoch", Epoch(*epoch).to_string());
                Some(missing)
            }
            Marker::Recovered(_, missing) => {
                encoder = encoder.plain("recovered", if missing.is_none() { "true" } else { "false" });
                missing.as_ref()
            }
            Marker::Position(_) => None,
        };
        if let Marker::Position(position) | Marker::Recovered(position, _) = marker {
            encoder = encoder
                .plain("epoch", Epoch(position.epoch).to_string())
                .plain("sequence", itoa::Buffer::new().format(position.sequence));
        }
        if let Some(Missing { lack, from, to }) = missing {
            encoder = encoder.plain("reason", lack.name());
            if from <= to {
                encoder = encoder
                    .plain("missing-from", itoa::Buffer::new().format(*from))
                    .plain("missing-to", itoa::Buffer::new().format(*to));
            }
        }
        encoder.finish();
    });
}

/// What stands for a character that some version writes as an escape.
fn without_escape(letter: char) -> char {
    match letter {
        ':' => ';',
        '\\' => '/',
        '\r' | '\n' | '\0' => ' ',
        letter => letter,
    }
}

/// MESSAGE, as the subscription's class wants it.
pub fn message(class: &Class, id: MessageId, message: &Message, is_redelivered: bool, out: &mut Vec<u8>) {
    class.framing.wrap(message.is_utf8(), 0, out, |out| {
        message_headers(class, id, message, is_redelivered, out).body(message.body());
    });
}

/// MESSAGE with what the application has answered, as from the destination that was asked.
pub fn answer(class: &Class, id: MessageId, destination: &str, message: &Message, out: &mut Vec<u8>) {
    class.framing.wrap(message.is_utf8(), 0, out, |out| {
        message_headers_of(class, id, destination, message, false, out).body(message.body());
    });
}

/// MESSAGE without its end, [`Message::frame_end`], which must be sent next.
pub fn message_head(class: &Class, id: MessageId, message: &Message, out: &mut Vec<u8>) {
    let body_bytes = message.body().len();
    class.framing.wrap(message.is_utf8(), body_bytes + 1, out, |out| {
        message_headers(class, id, message, false, out).head(body_bytes);
    });
}

fn message_headers<'a>(
    class: &Class,
    id: MessageId,
    message: &Message,
    is_redelivered: bool,
    out: &'a mut Vec<u8>,
) -> Encoder<'a> {
    message_headers_of(class, id, message.shown(), message, is_redelivered, out)
}

fn message_headers_of<'a>(
    class: &Class,
    id: MessageId,
    destination: &str,
    message: &Message,
    is_redelivered: bool,
    out: &'a mut Vec<u8>,
) -> Encoder<'a> {
    let mut text = [0; MessageId::TEXT_BYTES_MAX];
    let id = id.format(&mut text);
    let mut encoder = Encoder::new(out, Command::Message, class.version);
    if class.is_named {
        encoder = encoder.known("subscription", &class.id);
    }
    encoder = encoder.plain("message-id", id).known("destination", destination);
    if message.is_kept() {
        let dash = id.iter().position(|byte| *byte == b'-').unwrap_or(id.len());
        encoder = encoder.plain("epoch", &id[..dash]).plain("sequence", &id[(dash + 1).min(id.len())..]);
    }
    if class.ack != AckMode::Auto {
        encoder = encoder.plain("ack", id);
    }
    if is_redelivered {
        encoder = encoder.plain("redelivered", "true");
    }
    let lines = match class.version {
        Version::V12 => Cow::Borrowed(message.lines()),
        version => {
            let mut lines = Vec::with_capacity(message.lines().len());
            transcode_lines(message.lines(), version, &mut lines);
            Cow::Owned(lines)
        }
    };
    encoder.raw_lines(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_before_connected_has_nothing_to_unescape() {
        let said = |agreed| {
            let mut out = Vec::new();
            error(agreed, &Fault::NotAuthenticated("see a:b\\c\r\n".into()), None, &mut out);
            let text = String::from_utf8_lossy(&out).into_owned();
            text.split("message:").nth(1).and_then(|rest| rest.split('\n').next()).unwrap().to_owned()
        };
        assert_eq!(said(None), "not authenticated; see a;b/c  ");
        assert_eq!(said(Some(Version::V12)), r"not authenticated\c see a\cb\\c\r\n");
        assert_eq!(said(Some(Version::V10)), r"not authenticated: see a:b\c  ");
    }
}
