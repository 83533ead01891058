//! The file of the API's token.
//!
//! Invariant: a token is one line that can stand in a header, and too long to be guessed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::ConfigError;
use crate::auth::Secret;

/// Characters of a token at least: 16 random ones of 64 are 96 bits.
const CHARACTERS_MIN: usize = 16;
const CHARACTERS_MAX: usize = 4096;

/// Reads the token in a file.
///
/// # Errors
/// The file cannot be read, or has no token in it. The token is not in what is said of it.
pub fn read(path: &Path) -> Result<Secret, ConfigError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(CHARACTERS_MAX as u64 + 3).read_to_string(&mut text)?;
        let token = text.trim();
        let is_right = (CHARACTERS_MIN..=CHARACTERS_MAX).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        let needed = "a token is one line of 16 to 4096 visible ASCII characters, such as `openssl rand -hex 32` makes";
        if is_right { Ok(Secret(token.into())) } else { Err(io::Error::other(needed)) }
    };
    read().map_err(|error| ConfigError::of_file(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_and_not_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let said = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let most = "x".repeat(CHARACTERS_MAX);
        for good in
            ["0123456789abcdef", "0123456789abcdef\n", " 0123456789abcdef\r\n", &most, &format!("{most}\n")]
        {
            assert_eq!(&*said(good).unwrap().0, good.trim(), "{good:?}");
        }
        let long = "x".repeat(CHARACTERS_MAX + 1);
        for bad in
            ["", "0123456789abcde", "0123456789abcdef 1", "0123456789\nabcdef", "0123456789abcd\u{e9}", &long]
        {
            let error = said(bad).unwrap_err().to_string();
            assert!(
                error.contains("16 to 4096") && (bad.len() < 15 || !error.contains(bad)),
                "{bad:?}: {error}"
            );
        }
        assert!(read(&folder.path().join("absent")).unwrap_err().to_string().contains("No such file"));
    }
}
