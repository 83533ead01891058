//! STOMP as the peers need it: a frame from text, and the frames they send as text.
//!
//! Invariant: nothing here knows of sockets or tasks.

/// The answer to CONNECT: no heart-beats.
pub const CONNECTED: &str = "CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0";

/// A client's frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// CONNECT, SUBSCRIBE, SEND, DISCONNECT.
    pub command: &'a str,
    /// The room.
    pub destination: Option<&'a str>,
    /// The receipt asked for.
    pub receipt: Option<&'a str>,
    /// All after the head, without the NUL.
    pub body: &'a str,
}

/// Reads a frame; a heart-beat is none.
pub fn read(text: &str) -> Option<Frame<'_>> {
    let (head, body) = text.split_once("\n\n")?;
    let mut lines = head.lines();
    let mut frame =
        Frame { command: lines.next()?, destination: None, receipt: None, body: body.trim_end_matches('\0') };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name {
            "destination" => frame.destination = Some(value),
            "receipt" => frame.receipt = Some(value),
            _ => {}
        }
    }
    Some(frame)
}

/// RECEIPT.
pub fn receipt(id: &str) -> String {
    format!("RECEIPT\nreceipt-id:{id}\n\n\0")
}

/// MESSAGE; its id is as long as tcbchat's (see [`crate::floor`]).
pub fn message(destination: &str, id: u64, body: &str) -> String {
    format!(
        "MESSAGE\nsubscription:0\nmessage-id:00000000f1000000-{id}\ndestination:{destination}\ncontent-type:text/plain\n\
         content-length:{}\n\n{body}\0",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_and_a_heart_beat_is_none() {
        let frame = read("SEND\ndestination:/topic/a\nreceipt:7\n\nhello\0").unwrap();
        let (destination, receipt) = (Some("/topic/a"), Some("7"));
        assert_eq!(frame, Frame { command: "SEND", destination, receipt, body: "hello" });
        assert_eq!(read("\n"), None);
        assert!(message("/topic/a", 3, "hi").ends_with("content-length:2\n\nhi\0"));
    }
}
