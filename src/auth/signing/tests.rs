use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::auth::{Credentials, Keys, Terms, Tokens, Verdict};

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/auth").join(name)).unwrap()
}

/// What a server with these keys says of a token.
fn verdict(keys: &[u8], token: &str) -> Verdict {
    let credentials = Credentials {
        login: None,
        passcode: None,
        token: Some(token.into()),
        headers: [].into(),
        address: Some(Ipv4Addr::LOCALHOST.into()),
    };
    Tokens::new(Keys::parse(keys).unwrap(), Terms::default()).verify(&credentials, 1_000)
}

#[test]
fn what_is_signed_verifies_with_the_public_part() {
    let claims = json!({ "sub": "alice", "exp": 2_000 });
    let cases = [
        ("ed25519.pem", "ed25519.pub.pem", Algorithm::EdDSA),
        ("p256.pem", "p256.pub.pem", Algorithm::ES256),
        ("p256.sec1.pem", "p256.pub.pem", Algorithm::ES256),
        ("p384.pem", "p384.pub.pem", Algorithm::ES384),
        ("rsa.pem", "rsa.pub.pem", Algorithm::RS256),
        ("rsa.pkcs1.pem", "rsa.pkcs1.pub.pem", Algorithm::RS256),
    ];
    for (private, public, algorithm) in cases {
        let key = SigningKey::parse(&file(private), None).unwrap_or_else(|why| panic!("{private}: {why}"));
        assert_eq!(key.algorithm, algorithm, "{private}");
        let token = key.sign(&claims).unwrap();
        let verdict = verdict(&file(public), &token);
        assert!(matches!(verdict, Verdict::Accepted(_)), "{private}: {verdict:?}");
    }
    for kid in ["rsa", "p256", "p384", "ed25519", "hs"] {
        let key = SigningKey::parse(&file("private.jwks.json"), Some(kid)).unwrap();
        let token = key.sign(&claims).unwrap();
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(), Some(kid));
        let verdict = verdict(&file("public.jwks.json"), &token);
        assert!(matches!(verdict, Verdict::Accepted(_)), "{kid}: {verdict:?}");
    }
}

#[test]
fn a_kid_can_be_said_of_a_key_that_has_none() {
    let key = SigningKey::parse(&file("ed25519.pem"), Some("ed25519")).unwrap();
    let token = key.sign(&json!({ "sub": "alice", "exp": 2_000 })).unwrap();
    assert!(matches!(verdict(&file("public.jwks.json"), &token), Verdict::Accepted(_)));
}

#[test]
fn what_cannot_sign_is_said_with_its_line() {
    let cases: &[(Vec<u8>, Option<&str>, &str)] = &[
        (file("ed25519.pub.pem"), None, "there is no private key in it"),
        (b"".to_vec(), None, "there is no private key in it"),
        (b"\xff".to_vec(), None, "not text"),
        (file("public.jwks.json"), Some("p256"), "key 2: it has no \"d\""),
        (file("public.jwks.json"), Some("rsa"), "line 3: key 1: it has no \"d\""),
        (file("private.jwks.json"), Some("other"), "there is no key with the kid \"other\""),
        (b"{\"keys\":[]}".to_vec(), None, "there is no key in it"),
        (
            b"{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}".to_vec(),
            None,
            "a secret of 6 bytes can be guessed: HS256 needs 32",
        ),
        (b"{\"kty\":\"EC\",\"crv\":\"P-521\"}".to_vec(), None, "do not sign here"),
        (
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----".to_vec(),
            None,
            "it is encrypted",
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".to_vec(),
            None,
            "not a private key of",
        ),
        (
            b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----".to_vec(),
            None,
            "its curve is not",
        ),
    ];
    for (bytes, kid, expected) in cases {
        let why = SigningKey::parse(bytes, *kid).unwrap_err().to_string();
        assert!(why.contains(expected), "{:?}: {why}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_secret_is_not_shown() {
    let key = SigningKey::parse(&file("private.jwks.json"), Some("hs")).unwrap();
    assert!(!format!("{key:?}").contains("97, 32, 115"), "{key:?}");
}

#[test]
fn lengths_and_numbers_as_der_has_them() {
    assert_eq!(tlv(OCTETS, &[7; 3]), [4, 3, 7, 7, 7]);
    assert_eq!(tlv(OCTETS, &[7; 200])[..4], [4, 0x81, 200, 7]);
    assert_eq!(tlv(OCTETS, &[7; 300])[..5], [4, 0x82, 1, 44, 7]);
    assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
    assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
    assert_eq!(integer(&[]), [2, 1, 0]);
}
