//! Values to ws_frames, appended to the caller's buffer.
//!
//! Messages leave in one ws_frame each; whoever wants fragments writes headers with [`encode_header`].
//! Nothing is masked unless a key is given, and then the payload is the caller's to mask.
//!
//! Invariant: [`header_len`] bytes of header and the payload, nothing else, are appended.

use tungstenite::protocol::frame::FrameHeader;

use super::{CONTROL_BYTES_MAX, Kind, Opcode, REASON_BYTES_MAX, is_code_on_the_wire};

/// Bytes of an unmasked header in front of `len` payload bytes.
pub const fn header_len(len: u64) -> usize {
    match len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Appends a header: masked with `mask` if there is one (section 5.2).
pub fn encode_header(mask: Option<[u8; 4]>, opcode: Opcode, fin: bool, len: u64, out: &mut Vec<u8>) {
    let header = FrameHeader { is_final: fin, opcode: opcode.into(), mask, ..FrameHeader::default() };
    header.format(len, out).expect("writing to a Vec does not fail");
}

/// Writes the unmasked header of a whole message into `out`, which is as long as it: for a payload that was
/// written first, behind room for its header.
///
/// # Panics
/// If `out` is not [`header_len`] bytes long.
pub fn write_header(kind: Kind, len: u64, mut out: &mut [u8]) {
    assert_eq!(out.len(), header_len(len), "room for the header of {len} bytes");
    let header = FrameHeader { opcode: Opcode::from(kind).into(), ..FrameHeader::default() };
    header.format(len, &mut out).expect("the room is long enough");
}

/// Appends a whole message in one unmasked ws_frame.
pub fn encode_message(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(header_len(payload.len() as u64) + payload.len());
    encode_header(None, kind.into(), true, payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Appends an unmasked close frame. The reason is cut at the last character that fits into
/// [`REASON_BYTES_MAX`] bytes. A code that must not stand on the wire (1005: none was given) makes a close
/// without code and reason.
pub fn encode_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    if !is_code_on_the_wire(code) {
        encode_header(None, Opcode::Close, true, 0, out);
        return;
    }
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    encode_header(None, Opcode::Close, true, 2 + reason.len() as u64, out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends an unmasked ping.
///
/// # Panics
/// If the payload is longer than [`CONTROL_BYTES_MAX`]: that is this side's to know.
pub fn encode_ping(payload: &[u8], out: &mut Vec<u8>) {
    encode_control(Opcode::Ping, payload, out);
}

/// Appends an unmasked pong.
///
/// # Panics
/// If the payload is longer than [`CONTROL_BYTES_MAX`]; that of a decoded ping never is.
pub fn encode_pong(payload: &[u8], out: &mut Vec<u8>) {
    encode_control(Opcode::Pong, payload, out);
}

fn encode_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "a control frame of {} bytes", payload.len());
    encode_header(None, opcode, true, payload.len() as u64, out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_len_is_what_is_written() {
        for len in [0u64, 1, 125, 126, 127, 0xFFFF, 0x1_0000, 1 << 40] {
            let mut out = Vec::new();
            encode_header(None, Opcode::Text, true, len, &mut out);
            assert_eq!(out.len(), header_len(len), "{len}");
            let mut written = vec![0; header_len(len)];
            write_header(Kind::Text, len, &mut written);
            assert_eq!(written, out, "{len}");
            out.clear();
            encode_header(Some([1, 2, 3, 4]), Opcode::Text, true, len, &mut out);
            assert_eq!(out.len(), header_len(len) + 4, "{len} masked");
        }
    }

    #[test]
    fn rfc_examples() {
        // Section 5.7.
        let mut out = Vec::new();
        encode_message(Kind::Text, b"Hello", &mut out);
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        encode_ping(b"Hello", &mut out);
        assert_eq!(out, [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        encode_message(Kind::Binary, &[7; 256], &mut out);
        assert_eq!(out[..4], [0x82, 0x7E, 0x01, 0x00]);
        out.clear();
        encode_message(Kind::Binary, &vec![7; 65_536], &mut out);
        assert_eq!(out[..10], [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        encode_close(1008, &"\u{e9}".repeat(100), &mut out);
        assert_eq!(out[..4], [0x88, 2 + 122, 0x03, 0xF0]);
        assert_eq!(out.len(), 4 + 122);
        out.clear();
        encode_close(1005, "", &mut out);
        assert_eq!(out, [0x88, 0]);
    }
}
