//! What a guest hears: a server's frames, each told apart and cut into what a measurement needs.
//!
//! Only what tcbchat sends to a session that behaves: one STOMP frame, or one heart-beat, in each WebSocket frame, which is
//! whole and not masked (RFC 6455 section 5.1). Anything else is a problem, and is said in words.
//!
//! Invariant: what is returned as used is whole.

use memchr::memmem;

/// One frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// The session is there.
    Connected,
    /// The answer to the frame that asked for this receipt.
    Receipt(&'a [u8]),
    /// A message of a room.
    Message {
        /// Its place in the room's order: the last part of its `message-id`.
        sequence: u64,
        /// What its sender has said.
        body: &'a [u8],
    },
    /// A heart-beat.
    Beat,
}

/// Why a guest hears nothing more.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// The server has ended the session, in its own words.
    Ended(String),
    /// Something is not as it must be.
    Wrong(String),
}

impl From<String> for Problem {
    fn from(wrong: String) -> Self {
        Problem::Wrong(wrong)
    }
}

impl From<Problem> for String {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Ended(text) | Problem::Wrong(text) => text,
        }
    }
}

/// The longest frame that is waited for.
pub const FRAME_BYTES_MAX: usize = 128 * 1024;

/// The first frame of these bytes and its length; `None` if it is not whole.
///
/// # Errors
/// It is nothing that a session in good order is sent; an ERROR of the server in its own words.
pub fn frame(bytes: &[u8]) -> Result<Option<(usize, Heard<'_>)>, Problem> {
    let Some((head, payload)) = lengths(bytes)? else { return Ok(None) };
    let Some(payload) = bytes.get(head..head + payload) else { return Ok(None) };
    if bytes[0] == 0x88 {
        let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
        return Err(Problem::Ended(format!("the server closes the connection: {reason}")));
    }
    if bytes[0] != 0x81 {
        return Err(Problem::Wrong(format!("a WebSocket frame that begins with {:#04x}", bytes[0])));
    }
    Ok(Some((head + payload.len(), stomp_frame(payload)?)))
}

/// Bytes of the head and of the payload of the first frame, if there are enough to say.
fn lengths(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some((&[_, length], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let (head, payload) = match length {
        0..126 => (2, u64::from(length)),
        126 => match rest.first_chunk() {
            Some(length) => (4, u64::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (10, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        _ => return Err("a masked WebSocket frame".to_owned()),
    };
    if payload > (FRAME_BYTES_MAX - head) as u64 {
        return Err(format!("a WebSocket frame of {payload} bytes"));
    }
    Ok(Some((head, payload as usize)))
}

fn stomp_frame(payload: &[u8]) -> Result<Heard<'_>, Problem> {
    if payload == b"\n" {
        return Ok(Heard::Beat);
    }
    let text = || format!("a frame that is not expected: {}", String::from_utf8_lossy(payload).trim());
    let strange = || Problem::Wrong(text());
    let whole = payload.strip_suffix(b"\0").ok_or_else(strange)?;
    let head = memmem::find(whole, b"\n\n").ok_or_else(strange)?;
    let (head, body) = (&whole[..head], &whole[head + 2..]);
    let header = |name: &[u8]| {
        head.split(|byte| *byte == b'\n').skip(1).find_map(|line| line.strip_prefix(name)?.strip_prefix(b":"))
    };
    let heard = match head.split(|byte| *byte == b'\n').next() {
        Some(b"MESSAGE") => header(b"message-id")
            .and_then(|id| std::str::from_utf8(id).ok()?.rsplit_once('-')?.1.parse().ok())
            .map(|sequence| Heard::Message { sequence, body }),
        Some(b"RECEIPT") => header(b"receipt-id").map(Heard::Receipt),
        Some(b"CONNECTED") => Some(Heard::Connected),
        Some(b"ERROR") => return Err(Problem::Ended(text())),
        _ => None,
    };
    heard.ok_or_else(strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One frame as a server sends it.
    fn sent(payload: &str) -> Vec<u8> {
        let mut bytes = vec![0x81];
        match payload.len() {
            length @ 0..126 => bytes.push(length as u8),
            length @ 126..65_536 => {
                bytes.push(126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(payload.as_bytes());
        bytes
    }

    #[test]
    fn frames_of_every_length_are_cut_out_and_told_apart() {
        for length in [0, 80, 1_000, 70_000] {
            let body = "x".repeat(length);
            let text = format!("MESSAGE\nsubscription:0\nmessage-id:1f-42\ndestination:/topic/a\n\n{body}\0");
            let mut bytes = sent(&text);
            let whole = bytes.len();
            let heard = Heard::Message { sequence: 42, body: body.as_bytes() };
            for cut in 0..whole {
                assert_eq!(frame(&bytes[..cut]), Ok(None), "{cut} of {whole}");
            }
            bytes.extend(sent("\n"));
            assert_eq!(frame(&bytes), Ok(Some((whole, heard))));
            assert_eq!(frame(&bytes[whole..]), Ok(Some((3, Heard::Beat))));
        }
        let receipt = sent("RECEIPT\nreceipt-id:in\n\n\0");
        assert_eq!(frame(&receipt), Ok(Some((receipt.len(), Heard::Receipt(b"in")))));
        let connected = sent("CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0");
        assert_eq!(frame(&connected), Ok(Some((connected.len(), Heard::Connected))));
    }

    #[test]
    fn what_ends_a_session_is_a_problem_in_the_server_s_words() {
        let error = frame(&sent("ERROR\nmessage:slow consumer\n\nit does not read\0")).unwrap_err();
        let Problem::Ended(error) = error else { panic!("{error:?}") };
        assert!(error.contains("slow consumer") && error.contains("it does not read"), "{error}");
        let error = frame(b"\x88\x06\x03\xf0slow").unwrap_err();
        assert_eq!(error, Problem::Ended("the server closes the connection: slow".to_owned()));
        for strange in [
            &b"\x01\x01\n"[..],
            b"\x81\x81\0\0\0\0\n",
            b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
            &sent("MESSAGE\nmessage-id:1f\n\n\0"),
            &sent("MESSAGE\nmessage-id:1f-1\n\nno end"),
            &sent("RECEIPT\n\n\0"),
        ] {
            assert!(matches!(frame(strange), Err(Problem::Wrong(_))), "{strange:?}");
        }
    }
}
