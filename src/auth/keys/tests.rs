use std::fs;
use std::path::Path;

use super::*;

/// A file of `tests/data/auth`.
fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/auth").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mistakes(bytes: &[u8]) -> Vec<String> {
    Keys::parse(bytes).unwrap_err().iter().map(ToString::to_string).collect()
}

/// A member of a key of the public JWKS.
fn member(kid: &str, name: &str) -> String {
    let set: serde_json::Value = serde_json::from_slice(&file("public.jwks.json")).unwrap();
    let key = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap();
    key[name].as_str().unwrap().to_owned()
}

fn set(keys: &[&str]) -> Vec<u8> {
    format!("{{\"keys\": [\n{}\n]}}", keys.join(",\n")).into_bytes()
}

#[test]
fn every_kind_of_key_is_bound_to_its_algorithms() {
    let keys = Keys::parse(&file("public.jwks.json")).unwrap();
    assert_eq!(keys.count(), 5);
    assert!(keys.passed_over().is_empty());
    assert_eq!(
        keys.to_string(),
        "\"rsa\": RS256, RS384, RS512, PS256, PS384, PS512\n\"p256\": ES256\n\"p384\": ES384\n\"ed25519\": EdDSA\n\
         \"hs\": HS256"
    );
    for (name, expected) in [
        ("rsa.pub.pem", "RS256, RS384, RS512, PS256, PS384, PS512"),
        ("rsa.pkcs1.pub.pem", "RS256, RS384, RS512, PS256, PS384, PS512"),
        ("p256.pub.pem", "ES256"),
        ("p384.pub.pem", "ES384"),
        ("ed25519.pub.pem", "EdDSA"),
    ] {
        let keys = Keys::parse(&file(name)).unwrap();
        assert_eq!(keys.to_string(), format!("without kid: {expected}"), "{name}");
    }
}

#[test]
fn a_pem_file_may_have_several_keys_and_words_between() {
    let all = [
        b"issued by us\r\n".to_vec(),
        file("ed25519.pub.pem"),
        b"\n\n".to_vec(),
        file("rsa.pub.pem"),
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n".to_vec(),
    ]
    .concat();
    let keys = Keys::parse(&all).unwrap();
    assert_eq!(keys.count(), 2);
    assert_eq!(
        keys.passed_over()[0].to_string(),
        "line 16: EC PARAMETERS is passed over: it is no public key"
    );
    let windows = String::from_utf8(all).unwrap().replace('\n', "\r\n");
    assert_eq!(Keys::parse(windows.as_bytes()).unwrap().count(), 2);
}

#[test]
fn a_jwk_alone_is_a_set_of_one() {
    let jwk = format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{}\"}}", member("ed25519", "x"));
    assert_eq!(Keys::parse(jwk.as_bytes()).unwrap().to_string(), "without kid: EdDSA");
}

#[test]
fn an_algorithm_that_the_key_names_is_its_only_one() {
    let rsa = |alg: &str| {
        format!(
            "{{\"kty\":\"RSA\",\"alg\":\"{alg}\",\"use\":\"sig\",\"n\":\"{}\",\"e\":\"AQAB\"}}",
            member("rsa", "n")
        )
    };
    assert_eq!(Keys::parse(rsa("PS384").as_bytes()).unwrap().to_string(), "without kid: PS384");
    assert_eq!(
        mistakes(rsa("HS256").as_bytes()),
        ["line 1: key 1: HS256 is not for it, but RS256, RS384, RS512, PS256, PS384, PS512"]
    );
    // A secret has the algorithms that it is long enough for.
    let secret = |bytes: usize, more: &str| {
        use base64::Engine;
        let k = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vec![7; bytes]);
        format!("{{\"kty\":\"oct\",\"k\":\"{k}\"{more}}}")
    };
    for (bytes, expected) in [(32, "HS256"), (48, "HS256, HS384"), (64, "HS256, HS384, HS512")] {
        assert_eq!(
            Keys::parse(secret(bytes, "").as_bytes()).unwrap().to_string(),
            format!("without kid: {expected}")
        );
    }
    assert_eq!(
        mistakes(secret(31, "").as_bytes()),
        ["line 1: key 1: a secret of 31 bytes can be guessed: HS256 needs 32 (RFC 7518, section 3.2)"]
    );
    assert!(mistakes(secret(32, ",\"alg\":\"HS512\"").as_bytes())[0].contains("HS512 needs 64"));
    assert!(
        mistakes(secret(32, ",\"alg\":\"RS256\"").as_bytes())[0].contains("RS256 is not for it, but HS256")
    );
}

#[test]
fn keys_for_something_else_are_passed_over_and_said() {
    let ed = format!(
        "{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"ed\",\"x\":\"{}\"}}",
        member("ed25519", "x")
    );
    let others = [
        (
            "{\"kty\":\"RSA\",\"use\":\"enc\",\"kid\":\"e\"}",
            "key 2 (\"e\") is passed over: its \"use\" is \"enc\"",
        ),
        ("{\"kty\":\"RSA\",\"alg\":\"RSA-OAEP\"}", "its \"alg\" \"RSA-OAEP\" verifies no tokens here"),
        ("{\"kty\":\"RSA\",\"alg\":\"none\"}", "its \"alg\" \"none\" verifies no tokens here"),
        ("{\"kty\":\"RSA\",\"key_ops\":[\"encrypt\"]}", "its \"key_ops\" have no \"verify\""),
        ("{\"kty\":\"EC\",\"crv\":\"P-521\"}", "EC with the \"crv\" \"P-521\""),
        ("{\"kty\":\"OKP\",\"crv\":\"X25519\"}", "OKP with the \"crv\" \"X25519\""),
        ("{\"kty\":\"new\"}", "its \"kty\" is \"new\""),
    ];
    for (other, expected) in others {
        let keys = Keys::parse(&set(&[&ed, other])).unwrap();
        assert_eq!(keys.count(), 1, "{other}");
        let said = keys.passed_over()[0].to_string();
        assert!(said.starts_with("line 3: key 2") && said.ends_with(expected), "{said}");
        let alone = mistakes(&set(&[other]));
        assert!(
            alone[0].starts_with("there is no key in it that verifies tokens; line 2: key 1"),
            "{alone:?}"
        );
    }
}

#[test]
fn what_is_broken_is_a_mistake() {
    let ed = member("ed25519", "x");
    let n = member("rsa", "n");
    let cases: &[(Vec<u8>, &str)] = &[
        (b"".to_vec(), "there is no key in it that verifies tokens"),
        (b"secret".to_vec(), "there is no key in it"),
        (b"\xff\xfe".to_vec(), "not text"),
        (b"{".to_vec(), "line 1: not JSON (column 1)"),
        (b"{}".to_vec(), "neither a JWKS"),
        (b"{\"keys\":5}".to_vec(), "line 1: not a JWKS"),
        (set(&[]), "there is no key in it"),
        (set(&["{\"kid\":\"a\"}"]), "line 2: key 1 (\"a\"): it has no \"kty\""),
        (set(&["{\"kty\":5}"]), "line 2: not a JWK"),
        (set(&["{\"kty\":\"RSA\",\"kty\":\"oct\"}"]), "line 2: not a JWK"),
        (set(&["{\"kty\":\"oct\"}"]), "it has no \"k\""),
        (set(&["{\"kty\":\"oct\",\"k\":\"\"}"]), "\"k\" is not base64url without padding"),
        (set(&["{\"kty\":\"oct\",\"k\":\"c2VjcmV0==\"}"]), "\"k\" is not base64url without padding"),
        (
            set(&["{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}"]),
            "RSA of 17 bits: 2048 to 8192 are permitted",
        ),
        (set(&[&format!("{{\"kty\":\"RSA\",\"n\":\"{n}\"}}")]), "it has no \"e\""),
        (set(&[&format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{}\"}}", &ed[..40])]), "has 32 bytes"),
        (
            set(&[&format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{ed}\",\"y\":\"AQAB\"}}")]),
            "an uncompressed point of P-256 or P-384 is needed",
        ),
        (
            set(&[&format!(
                "{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{}\",\"y\":\"{}\"}}",
                member("p384", "x"),
                member("p384", "y")
            )]),
            "\"x\" and \"y\" are not of the length that P-256 has",
        ),
        (file("rsa1024.pub.pem"), "PUBLIC KEY: RSA of 1024 bits"),
        (file("p521.pub.pem"), "EC: an uncompressed point of P-256 or P-384 is needed"),
        (file("rsa.pem"), "it is a private key"),
        (file("p256.sec1.pem"), "it is a private key"),
        (file("ed25519.pem"), "`openssl pkey -pubout` gives it"),
        (file("private.jwks.json"), "line 3: key 1 (\"rsa\"): it is a private key"),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n".to_vec(),
            "line 1: -----BEGIN PUBLIC KEY----- has no -----END",
        ),
        (b"\n-----BEGIN PUBLIC KEY-----\n-----BEGIN PUBLIC KEY-----\n".to_vec(), "line 2: -----BEGIN"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_vec(), "not a public key of RSA"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(), "openssl x509 -pubkey"),
    ];
    for (bytes, expected) in cases {
        let found = mistakes(bytes);
        assert!(found[0].contains(expected), "{:?}: {found:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_pem_as_a_shared_secret_is_refused() {
    use base64::Engine;
    let k = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(file("rsa.pub.pem"));
    let found = mistakes(format!("{{\"kty\":\"oct\",\"k\":\"{k}\"}}").as_bytes());
    assert_eq!(found, ["line 1: key 1: the secret is PEM: whoever has that public key could sign"]);
}

#[test]
fn a_kid_and_an_algorithm_name_one_key() {
    let ed = |kid: &str| {
        format!(
            "{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"{kid}\",\"x\":\"{}\"}}",
            member("ed25519", "x")
        )
    };
    let found = mistakes(&set(&[&ed("a"), &ed("b"), &ed("a")]));
    assert_eq!(found, ["line 4: key 3 (\"a\"): line 2 has a key of the same kid and algorithm"]);
    // Alternatives of other kinds may have the same kid (RFC 7517, section 4.5).
    let (x, y) = (member("p256", "x"), member("p256", "y"));
    let ec = format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"a\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
    let keys = Keys::parse(&set(&[&ed("a"), &ec])).unwrap();
    assert_eq!(keys.candidates(Algorithm::ES256, Some("a")).unwrap().len(), 1);
    assert_eq!(keys.candidates(Algorithm::EdDSA, Some("a")).unwrap().len(), 1);
    assert_eq!(keys.candidates(Algorithm::RS256, Some("a")).unwrap_err(), NoKey::Algorithm);
    assert_eq!(keys.candidates(Algorithm::EdDSA, Some("b")).unwrap_err(), NoKey::Unknown);
}

#[test]
fn keys_without_a_kid_are_few() {
    let pem = String::from_utf8(file("ed25519.pub.pem")).unwrap();
    let keys = Keys::parse(pem.repeat(4).as_bytes()).unwrap();
    assert_eq!(keys.candidates(Algorithm::EdDSA, None).unwrap().len(), 4);
    // What a token calls its key cannot be looked up in a PEM file.
    assert_eq!(keys.candidates(Algorithm::EdDSA, Some("any")).unwrap().len(), 4);
    let found = mistakes(pem.repeat(5).as_bytes());
    assert_eq!(found, ["line 13: more than 4 keys of EdDSA have no kid: a JWKS can name them"]);

    let named: Vec<String> = (0..6)
        .map(|kid| {
            format!(
                "{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"{kid}\",\"x\":\"{}\"}}",
                member("ed25519", "x")
            )
        })
        .collect();
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let keys = Keys::parse(&set(&named)).unwrap();
    assert_eq!(keys.candidates(Algorithm::EdDSA, None).unwrap_err(), NoKey::Unnamed);
    assert_eq!(keys.candidates(Algorithm::EdDSA, Some("3")).unwrap().len(), 1);
}

#[test]
fn nothing_of_a_key_is_shown() {
    let keys = Keys::parse(&file("public.jwks.json")).unwrap();
    let shown = format!("{keys:?} {keys}");
    assert!(!shown.contains(&member("hs", "k")), "{shown}");
    assert!(!shown.contains("97, 32, 115"), "the secret's bytes: {shown}");
}
