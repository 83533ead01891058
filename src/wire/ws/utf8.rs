//! UTF-8 checked piece by piece, failing at the first byte that no valid text can have there.
//!
//! The bulk is checked by the standard library; the few bytes around a cut go through the state machine of
//! the Unicode standard (table 3-7, well-formed byte sequences). Decodes nothing and keeps no bytes.
//!
//! Invariant: what was accepted so far is a prefix of some valid UTF-8 text.

/// The place between two bytes of a text. The default is between two characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Utf8 {
    /// Continuation bytes that the character begun still needs.
    missing: u8,
    /// Smallest and largest value of the next of them.
    low: u8,
    high: u8,
}

impl Default for Utf8 {
    fn default() -> Self {
        Utf8 { missing: 0, low: 0x80, high: 0xBF }
    }
}

impl Utf8 {
    /// Goes on over `bytes`.
    ///
    /// # Errors
    /// The index of the first byte that cannot stand where it does.
    #[inline]
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while self.missing > 0 && at < bytes.len() {
            self.step(bytes[at], at)?;
            at += 1;
        }
        match std::str::from_utf8(&bytes[at..]) {
            Ok(_) => Ok(()),
            Err(error) => self.check_slowly(bytes, at + error.valid_up_to()),
        }
    }

    /// Whether a character has begun and is not complete.
    pub(super) fn is_inside_character(self) -> bool {
        self.missing > 0
    }

    /// From the start of a character that is wrong or cut off.
    #[cold]
    fn check_slowly(&mut self, bytes: &[u8], from: usize) -> Result<(), usize> {
        for (at, &byte) in bytes.iter().enumerate().skip(from) {
            self.step(byte, at)?;
        }
        Ok(())
    }

    /// One byte; `at` is its index, for the error.
    fn step(&mut self, byte: u8, at: usize) -> Result<(), usize> {
        if self.missing > 0 {
            if !(self.low..=self.high).contains(&byte) {
                return Err(at);
            }
            *self = Utf8 { missing: self.missing - 1, ..Utf8::default() };
            return Ok(());
        }
        let (missing, low, high) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            // No overlong forms.
            0xE0 => (2, 0xA0, 0xBF),
            // No surrogates.
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            // Nothing above U+10FFFF.
            0xF4 => (3, 0x80, 0x8F),
            0x80..=0xC1 | 0xF5..=0xFF => return Err(at),
        };
        *self = Utf8 { missing, low, high };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes in which characters, halves of characters and nonsense all are common.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            any::<char>().prop_map(|c| c.to_string().into_bytes()[..1].to_vec()),
            prop::sample::select(vec![0x80u8, 0xBF, 0xC0, 0xE0, 0xED, 0xF0, 0xF4, 0xFF])
                .prop_map(|b| vec![b]),
            "[a-z]{0,20}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// The first byte whose prefix is no prefix of valid text, by asking the standard library about each.
    fn oracle(bytes: &[u8]) -> Result<bool, usize> {
        for end in 0..=bytes.len() {
            if let Err(error) = std::str::from_utf8(&bytes[..end])
                && error.error_len().is_some()
            {
                return Err(end - 1);
            }
        }
        Ok(std::str::from_utf8(bytes).is_err())
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library_in_any_split(bytes in bytes(), cuts in prop::collection::vec(0usize..80, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut utf8 = Utf8::default();
            let mut result = Ok(());
            for pair in cuts.windows(2) {
                result = utf8.check(&bytes[pair[0]..pair[1]]).map_err(|at| pair[0] + at);
                if result.is_err() {
                    break;
                }
            }
            prop_assert_eq!(result.map(|()| utf8.is_inside_character()), oracle(&bytes));
        }
    }

    #[test]
    fn surrogates_overlong_forms_and_the_end_of_unicode() {
        for wrong in [&b"\xED\xA0"[..], b"\xE0\x9F", b"\xF0\x8F", b"\xF4\x90", b"\xC1", b"\xF5"] {
            assert_eq!(Utf8::default().check(wrong), Err(wrong.len() - 1), "{wrong:x?}");
        }
        for right in ["\u{D7FF}", "\u{E000}", "\u{10FFFF}", "\u{800}", "\u{10000}", "\u{80}"] {
            assert_eq!(Utf8::default().check(right.as_bytes()), Ok(()), "{right:?}");
        }
    }
}
