//! Masking (RFC 6455 section 5.3): the same XOR puts a mask on and takes it off.
//!
//! Does not choose mask keys; a server never sends one.
//!
//! Invariant: masking pieces one after the other, with the key rotated in between, equals masking the whole.

/// XORs `bytes` with the repeated `key`; `bytes[0]` meets `key[0]`.
#[inline]
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        // Always 8 bytes long: chunks_exact_mut gives no others.
        if let Ok(value) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(value) ^ wide).to_ne_bytes());
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The key as the byte after `bytes` masked bytes meets it.
#[inline]
pub(super) fn rotate(mut key: [u8; 4], bytes: usize) -> [u8; 4] {
    key.rotate_left(bytes % 4);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_mask_like_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            key: [u8; 4],
            cut in 0usize..100,
        ) {
            let plain: Vec<u8> = bytes.iter().enumerate().map(|(i, b)| b ^ key[i % 4]).collect();
            let mut whole = bytes.clone();
            apply_mask(&mut whole, key);
            prop_assert_eq!(&whole, &plain);

            let cut = cut.min(bytes.len());
            let mut pieces = bytes;
            let (head, tail) = pieces.split_at_mut(cut);
            apply_mask(head, key);
            apply_mask(tail, rotate(key, cut));
            prop_assert_eq!(pieces, plain);
        }
    }
}
