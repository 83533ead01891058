//! JSON Web Keys as they are written (RFC 7517): members as text, nothing decoded but base64.
//!
//! Whether a key is one that is taken is for [`super`] to say.
//!
//! Invariant: nothing here shows a member's value.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::auth::mistake::Mistake;

/// The members of a key; those that no kind of key here has are passed over.
#[derive(Deserialize, Default)]
pub(in crate::auth) struct Jwk {
    pub(in crate::auth) kty: Option<Box<str>>,
    pub(in crate::auth) kid: Option<Box<str>>,
    pub(in crate::auth) alg: Option<Box<str>>,
    pub(in crate::auth) crv: Option<Box<str>>,
    #[serde(rename = "use")]
    pub(in crate::auth) usage: Option<Box<str>>,
    pub(in crate::auth) key_ops: Option<Vec<Box<str>>>,
    pub(in crate::auth) n: Option<Box<str>>,
    pub(in crate::auth) e: Option<Box<str>>,
    pub(in crate::auth) x: Option<Box<str>>,
    pub(in crate::auth) y: Option<Box<str>>,
    pub(in crate::auth) k: Option<Box<str>>,
    pub(in crate::auth) d: Option<Box<str>>,
    pub(in crate::auth) p: Option<Box<str>>,
    pub(in crate::auth) q: Option<Box<str>>,
    pub(in crate::auth) dp: Option<Box<str>>,
    pub(in crate::auth) dq: Option<Box<str>>,
    pub(in crate::auth) qi: Option<Box<str>>,
}

/// A JWKS, or one JWK alone.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Option<Vec<&'a RawValue>>,
    kty: Option<IgnoredAny>,
}

/// A key of a file, with its line.
pub(in crate::auth) struct Found {
    pub(in crate::auth) line: usize,
    pub(in crate::auth) key: Result<Jwk, Mistake>,
}

/// Whether the text is meant as JSON.
pub(in crate::auth) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// The keys of a JWKS, or of a single JWK.
///
/// # Errors
/// It is neither.
pub(in crate::auth) fn read(text: &str) -> Result<Vec<Found>, Mistake> {
    let document: Document<'_> = serde_json::from_str(text).map_err(|error| {
        // The parser's own words may cite what it has found.
        let what = if error.is_data() { "not a JWKS" } else { "not JSON" };
        Mistake::on(error.line(), format!("{what} (column {})", error.column()))
    })?;
    match document {
        Document { keys: Some(keys), .. } => Ok(keys
            .into_iter()
            .map(|raw| {
                let before = raw.get().as_ptr().addr() - text.as_ptr().addr();
                found(1 + text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count(), raw.get())
            })
            .collect()),
        Document { kty: Some(_), .. } => Ok(vec![found(1, text)]),
        _ => Err(Mistake::on(
            0,
            "neither a JWKS, which has a list of \"keys\", nor a JWK, which has a \"kty\"",
        )),
    }
}

fn found(line: usize, text: &str) -> Found {
    let key = serde_json::from_str(text);
    let wrong = "not a JWK: a member is there twice, or is not of the type that RFC 7517 gives it";
    Found { line, key: key.map_err(|_| Mistake::on(line, wrong)) }
}

/// The bytes of a member.
///
/// # Errors
/// It is missing, empty or not base64url.
pub(in crate::auth) fn bytes(name: &str, member: Option<&str>) -> Result<Vec<u8>, String> {
    let text = member.ok_or_else(|| format!("it has no \"{name}\""))?;
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(format!("\"{name}\" is not base64url without padding")),
    }
}
