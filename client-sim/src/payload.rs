//! The body of a simulated chat message: who sent it, where, which one it is and when it was meant to leave.
//!
//! Plain ASCII, so that a message is a text frame that a person can read in a capture; padded to the asked
//! size with a fill that is verified on arrival. It knows nothing of STOMP.
//!
//! Invariant: [`Stamp::read`] of what [`Stamp::write`] wrote gives the same stamp, for every size from
//! [`BYTES_MIN`].

/// Bytes of the stamp itself, the smallest body.
pub const BYTES_MIN: usize = 8 + 1 + 8 + 1 + 8 + 1 + 16 + 1;

/// The byte that fills a body up to its size.
const FILL: u8 = b'.';

/// The identity of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The room it is sent to.
    pub room: u32,
    /// The client that sends it.
    pub sender: u32,
    /// How many messages that client has sent before.
    pub seq: u32,
    /// Microseconds after the start of the run at which it should have been sent.
    pub intended_us: u64,
}

impl Stamp {
    /// The number that stands for this message in the order of its room.
    pub fn id(&self) -> u64 {
        u64::from(self.sender) << 32 | u64::from(self.seq)
    }

    /// Appends the body, `bytes` long ([`BYTES_MIN`] if that is more).
    pub fn write(&self, bytes: usize, out: &mut Vec<u8>) {
        let end = out.len() + bytes.max(BYTES_MIN);
        hex(u64::from(self.room), 8, out);
        out.push(b' ');
        hex(u64::from(self.sender), 8, out);
        out.push(b' ');
        hex(u64::from(self.seq), 8, out);
        out.push(b' ');
        hex(self.intended_us, 16, out);
        out.push(b' ');
        out.resize(end, FILL);
    }

    /// Reads a body; `None` when it is not exactly one that [`Stamp::write`] makes of `bytes` bytes.
    pub fn read(body: &[u8], bytes: usize) -> Option<Self> {
        if body.len() != bytes.max(BYTES_MIN) {
            return None;
        }
        let (stamp, fill) = body.split_at(BYTES_MIN);
        let field = |at: usize, len: usize| (stamp[at + len] == b' ').then(|| unhex(&stamp[at..at + len]))?;
        let read = Self {
            room: u32::try_from(field(0, 8)?).ok()?,
            sender: u32::try_from(field(9, 8)?).ok()?,
            seq: u32::try_from(field(18, 8)?).ok()?,
            intended_us: field(27, 16)?,
        };
        fill.iter().all(|byte| *byte == FILL).then_some(read)
    }
}

fn hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * digit) & 15) as usize]);
    }
}

fn unhex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(room: u32, sender: u32, seq: u32, intended_us: u64, bytes in 0usize..300) {
            let stamp = Stamp { room, sender, seq, intended_us };
            let mut body = Vec::new();
            stamp.write(bytes, &mut body);
            prop_assert_eq!(body.len(), bytes.max(BYTES_MIN));
            prop_assert_eq!(Stamp::read(&body, bytes), Some(stamp));
        }

        #[test]
        fn a_changed_byte_or_length_is_seen(at in 0usize..128, change in 1u8..=255) {
            let stamp = Stamp { room: 1, sender: 2, seq: 3, intended_us: 4 };
            let mut body = Vec::new();
            stamp.write(128, &mut body);
            prop_assert_eq!(Stamp::read(&body[..127], 128), None);
            body[at] ^= change;
            prop_assert_ne!(Stamp::read(&body, 128), Some(stamp));
        }
    }
}
