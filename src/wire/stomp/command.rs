//! The commands of STOMP 1.2.
//!
//! Does not know which side may send which.
//!
//! Invariant: a command is written as it is read.

use std::fmt;

/// Declares the commands once: variant, name on the wire, whether a body is allowed.
macro_rules! commands {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:literal, body: $body:literal; )+) => {
        /// The first line of a STOMP frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Command {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl Command {
            /// Every command, in the order of the documentation.
            pub const ALL: &'static [Command] = &[ $( Command::$variant, )+ ];

            /// As it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $( Command::$variant => $name, )+ }
            }

            /// Whether the frame may have a body; STOMP 1.2, "Body": only SEND, MESSAGE and ERROR may.
            pub const fn may_have_body(self) -> bool {
                match self { $( Command::$variant => $body, )+ }
            }

            /// The command of this line; commands are case-sensitive.
            pub(super) fn from_bytes(line: &[u8]) -> Option<Command> {
                $( if line == $name.as_bytes() { return Some(Command::$variant); } )+
                None
            }
        }
    };
}

commands! {
    /// Opens a session.
    Connect = "CONNECT", body: false;
    /// The same since 1.1, so that a server can tell STOMP from HTTP's CONNECT.
    Stomp = "STOMP", body: false;
    /// A message to a destination.
    Send = "SEND", body: true;
    /// Asks for the messages of a destination.
    Subscribe = "SUBSCRIBE", body: false;
    /// Ends a subscription.
    Unsubscribe = "UNSUBSCRIBE", body: false;
    /// A message was processed.
    Ack = "ACK", body: false;
    /// A message was not processed (since 1.1).
    Nack = "NACK", body: false;
    /// Begins a transaction.
    Begin = "BEGIN", body: false;
    /// Lets a transaction happen.
    Commit = "COMMIT", body: false;
    /// Lets a transaction not happen.
    Abort = "ABORT", body: false;
    /// Ends the session.
    Disconnect = "DISCONNECT", body: false;
    /// The server's answer to CONNECT.
    Connected = "CONNECTED", body: false;
    /// A message of a subscription.
    Message = "MESSAGE", body: true;
    /// A frame that asked for a receipt was processed.
    Receipt = "RECEIPT", body: false;
    /// Something was wrong; the connection closes after it.
    Error = "ERROR", body: true;
}

impl Command {
    /// Whether clients send it.
    pub(super) const fn is_of_clients(self) -> bool {
        !matches!(self, Command::Connected | Command::Message | Command::Receipt | Command::Error)
    }

    /// Bytes of the longest command, `UNSUBSCRIBE`.
    pub(super) const BYTES_MAX: usize = 11;

    /// Whether the headers of the frame are never escaped, in no version: STOMP 1.2, "Value Encoding", for
    /// compatibility with 1.0. STOMP is to be treated as CONNECT is.
    pub(super) const fn is_never_escaped(self) -> bool {
        matches!(self, Command::Connect | Command::Stomp | Command::Connected)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_written() {
        for &command in Command::ALL {
            assert_eq!(Command::from_bytes(command.as_str().as_bytes()), Some(command));
            assert_eq!(Command::from_bytes(command.as_str().to_lowercase().as_bytes()), None);
            assert!(command.as_str().len() <= Command::BYTES_MAX);
        }
        assert_eq!(Command::from_bytes(b"PUBLISH"), None);
        assert_eq!(Command::from_bytes(b""), None);
    }
}
