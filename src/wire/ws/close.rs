//! The payload of a close frame (RFC 6455 sections 5.5.1 and 7.4).
//!
//! Does not decide which code a connection closes with.
//!
//! Invariant: a code that passes here may be sent back on the wire as it is.

use super::{CONTROL_BYTES_MAX, WsError};

/// Bytes of a close reason at most: a control payload without the code.
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Whether an endpoint may send this close code: those that section 7.4.1 and the IANA registry define for
/// the wire, and the ranges for libraries (3000-3999) and private use (4000-4999). 1004, 1005, 1006 and
/// 1015 are reserved, never sent.
pub fn is_code_on_the_wire(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Code and reason of a close frame's payload, unmasked; `None` of an empty one.
pub(super) fn parse(payload: &[u8]) -> Result<Option<(u16, &str)>, WsError> {
    match payload {
        [] => Ok(None),
        [_] => Err(WsError::ClosePayload),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_code_on_the_wire(code) {
                return Err(WsError::CloseCode);
            }
            let reason = std::str::from_utf8(reason).map_err(|_| WsError::CloseReason)?;
            Ok(Some((code, reason)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_reasons() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03"), Err(WsError::ClosePayload));
        assert_eq!(parse(b"\x03\xE8"), Ok(Some((1000, ""))));
        assert_eq!(parse(b"\x03\xE8bye"), Ok(Some((1000, "bye"))));
        assert_eq!(parse(b"\x03\xE8\xFF"), Err(WsError::CloseReason));
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(parse(&code.to_be_bytes()), Err(WsError::CloseCode), "{code}");
        }
        for code in [1000u16, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(parse(&code.to_be_bytes()), Ok(Some((code, ""))), "{code}");
        }
    }
}
