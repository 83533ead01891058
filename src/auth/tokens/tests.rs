use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auth::signing::SigningKey;

/// The time of every check here.
const NOW_S: u64 = 1_000_000;

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/auth").join(name)).unwrap()
}

fn tokens(terms: Terms) -> Tokens {
    Tokens::new(Keys::parse(&file("public.jwks.json")).unwrap(), terms)
}

/// A token of one of the keys in `private.jwks.json`.
fn signed(kid: &str, claims: &Value) -> String {
    SigningKey::parse(&file("private.jwks.json"), Some(kid)).unwrap().sign(claims).unwrap()
}

fn alice() -> Value {
    json!({ "sub": "alice", "exp": NOW_S + 10 })
}

fn said(token: Option<&str>, passcode: Option<&str>) -> Credentials {
    Credentials {
        login: Some("somebody".into()),
        passcode: passcode.map(Into::into),
        token: token.map(Into::into),
        headers: [].into(),
        address: Some(Ipv4Addr::LOCALHOST.into()),
    }
}

fn verify(tokens: &Tokens, token: &str) -> Verdict {
    tokens.verify(&said(Some(token), None), NOW_S)
}

fn accepted(verdict: Verdict) -> Accepted {
    match verdict {
        Verdict::Accepted(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

fn encoded(part: &str) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    let tokens = tokens(Terms::default());
    for kid in ["rsa", "p256", "p384", "ed25519", "hs"] {
        let accepted = accepted(verify(&tokens, &signed(kid, &alice())));
        assert_eq!(accepted.principal, Principal::new("alice", [], []), "{kid}");
        assert_eq!(accepted.expires_s, Some(NOW_S + 10));
    }
    let rsa = EncodingKey::from_rsa_pem(&file("rsa.pem")).unwrap();
    for algorithm in jsonwebtoken::AlgorithmFamily::Rsa.algorithms() {
        let token = jsonwebtoken::encode(&Header::new(*algorithm), &alice(), &rsa).unwrap();
        assert!(matches!(verify(&tokens, &token), Verdict::Accepted(_)), "{algorithm:?}");
    }
}

#[test]
fn it_may_be_the_passcode_and_then_goes_before_a_cookie() {
    let tokens = tokens(Terms::default());
    let (alice, bob) =
        (signed("ed25519", &alice()), signed("hs", &json!({ "sub": "bob", "exp": NOW_S + 1 })));
    let login = |token, passcode| accepted(tokens.verify(&said(token, passcode), NOW_S)).principal.login;
    assert_eq!(&*login(None, Some(&alice)), "alice");
    assert_eq!(&*login(Some(&bob), Some(&alice)), "alice");
    assert_eq!(&*login(Some(&bob), Some("a password")), "bob");
    assert_eq!(tokens.verify(&said(None, Some("a password")), NOW_S), Verdict::NotMine);
    assert_eq!(tokens.verify(&said(None, None), NOW_S), Verdict::NotMine);
}

#[test]
fn passwords_are_not_taken_for_tokens() {
    for password in
        ["", "a.b.c", "..", "eyJ", "eyJ.x", "e.y.J", "eyJ..x", "ey!.a.b", "eyJ.a.b.c.d", "Eyj.a.b", "eAJ.a.b"]
    {
        assert!(!has_shape(password), "{password}");
    }
    let alice = signed("ed25519", &alice());
    let none = format!("{}.{}.", encoded("{\"alg\":\"none\"}"), encoded("{}"));
    for header in ["{}", "{\"alg\":\"x\"}", "{ \"alg\"", "{\n", "{\u{e9}"] {
        assert!(has_shape(&format!("{}.x.y", encoded(header))), "{header}");
    }
    for token in [&alice, &none, &format!("{}.x=.y", encoded("{}"))] {
        assert!(has_shape(token), "{token}");
    }
}

#[test]
fn what_is_not_signed_by_a_known_key_is_refused() {
    let tokens = tokens(Terms::default());
    let good = signed("ed25519", &alice());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let unsigned = |header: &str| format!("{}.{payload}.{signature}", encoded(header));
    let pem = file("rsa.pub.pem");
    let other_key = EncodingKey::from_secret(b"another secret of 32 bytes, too!").unwrap();
    let with = |algorithm, kid: Option<&str>, key: &EncodingKey| {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(Into::into);
        jsonwebtoken::encode(&header, &alice(), key).unwrap()
    };
    let p256 = EncodingKey::from_ec_pem(&file("p256.pem")).unwrap();
    let rsa = EncodingKey::from_rsa_pem(&file("rsa.pem")).unwrap();
    let cases: &[(String, Refusal)] = &[
        (String::new(), MALFORMED),
        ("..".into(), MALFORMED),
        ("a.b.c".into(), MALFORMED),
        (message.into(), MALFORMED),
        (format!("{good}.x"), MALFORMED),
        (good[..good.len() - 1].into(), MALFORMED),
        (format!("{message}."), SIGNATURE),
        (format!("{good}=="), MALFORMED),
        (format!(" {good}"), MALFORMED),
        (format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode([0; 64])), SIGNATURE),
        (format!("{header}.{}.{signature}", encoded("{\"sub\":\"bob\",\"exp\":9999999999}")), SIGNATURE),
        // No algorithm, in every way of writing it.
        (unsigned("{\"alg\":\"none\"}"), MALFORMED),
        (format!("{}.{payload}.", encoded("{\"alg\":\"none\"}")), MALFORMED),
        (format!("{}.{payload}.", encoded("{\"alg\":\"None\",\"kid\":\"ed25519\"}")), MALFORMED),
        (unsigned("{\"alg\":\"\"}"), MALFORMED),
        (unsigned("{}"), MALFORMED),
        (unsigned("[]"), MALFORMED),
        // The algorithm of another key.
        (with(Algorithm::HS256, Some("rsa"), &EncodingKey::from_secret(&pem).unwrap()), ALGORITHM),
        (with(Algorithm::HS256, None, &EncodingKey::from_secret(&pem).unwrap()), SIGNATURE),
        (with(Algorithm::HS512, Some("hs"), &other_key), ALGORITHM),
        (with(Algorithm::ES256, Some("ed25519"), &p256), ALGORITHM),
        (with(Algorithm::RS256, Some("p256"), &rsa), ALGORITHM),
        (unsigned("{\"alg\":\"HS256\",\"kid\":\"ed25519\"}"), ALGORITHM),
        // Another key, or none that is known.
        (with(Algorithm::HS256, Some("hs"), &other_key), SIGNATURE),
        (with(Algorithm::HS256, None, &other_key), SIGNATURE),
        (with(Algorithm::HS256, Some("HS"), &other_key), UNKNOWN_KEY),
        (with(Algorithm::ES256, Some("../p256"), &p256), UNKNOWN_KEY),
        (with(Algorithm::ES256, Some(""), &p256), UNKNOWN_KEY),
        // Extensions that would have to be understood (RFC 7515, section 4.1.11), and a payload that is not encoded.
        (unsigned("{\"alg\":\"EdDSA\",\"kid\":\"ed25519\",\"crit\":[\"x\"],\"x\":1}"), MALFORMED),
        (unsigned("{\"alg\":\"EdDSA\",\"kid\":\"ed25519\",\"b64\":false}"), MALFORMED),
    ];
    for (token, refusal) in cases {
        assert_eq!(verify(&tokens, token), Verdict::Refused(refusal.clone()), "{token}");
    }
}

/// The attack that confuses a public key with a shared secret: the server has the public key only.
#[test]
fn a_public_key_is_no_secret() {
    for name in ["rsa", "p256", "ed25519"] {
        let pem = file(&format!("{name}.pub.pem"));
        let tokens = Tokens::new(Keys::parse(&pem).unwrap(), Terms::default());
        let der = URL_SAFE_NO_PAD.encode(&pem);
        for secret in [pem.as_slice(), pem.trim_ascii_end(), der.as_bytes()] {
            let key = EncodingKey::from_secret(secret).unwrap();
            for algorithm in jsonwebtoken::AlgorithmFamily::Hmac.algorithms() {
                let token = jsonwebtoken::encode(&Header::new(*algorithm), &alice(), &key).unwrap();
                assert_eq!(verify(&tokens, &token), Verdict::Refused(ALGORITHM), "{name} {algorithm:?}");
            }
        }
    }
}

#[test]
fn a_key_in_the_token_is_not_used() {
    let tokens = tokens(Terms::default());
    let key = EncodingKey::from_ed_pem(&file("ed25519.pem")).unwrap();
    let mut header = Header::new(Algorithm::EdDSA);
    header.jwk = Some(jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap());
    header.kid = Some("mine".into());
    header.jku = Some("http://localhost/keys".into());
    let token = jsonwebtoken::encode(&header, &alice(), &key).unwrap();
    assert_eq!(verify(&tokens, &token), Verdict::Refused(UNKNOWN_KEY));
}

#[test]
fn times_are_those_of_the_token() {
    let strict = tokens(Terms::default());
    let lenient = tokens(Terms { leeway_s: 30, is_expiry_required: false, ..Terms::default() });
    let with = |exp: Value, nbf: Value| signed("hs", &json!({ "sub": "alice", "exp": exp, "nbf": nbf }));
    let none = Value::Null;
    // Of the strict one and of the lenient one: when it expires, or why it is refused.
    type Outcome = Result<Option<u64>, Refusal>;
    let cases: &[(Value, Value, Outcome, Outcome)] = &[
        (json!(NOW_S + 1), none.clone(), Ok(Some(NOW_S + 1)), Ok(Some(NOW_S + 31))),
        (json!(NOW_S), none.clone(), Err(Refusal::Expired), Ok(Some(NOW_S + 30))),
        (json!(NOW_S - 29), none.clone(), Err(Refusal::Expired), Ok(Some(NOW_S + 1))),
        (json!(NOW_S - 30), none.clone(), Err(Refusal::Expired), Err(Refusal::Expired)),
        (json!(0), none.clone(), Err(Refusal::Expired), Err(Refusal::Expired)),
        (json!(-1), none.clone(), Err(Refusal::Expired), Err(Refusal::Expired)),
        (json!(-1e300), none.clone(), Err(Refusal::Expired), Err(Refusal::Expired)),
        (json!(NOW_S as f64 + 1.9), none.clone(), Ok(Some(NOW_S + 1)), Ok(Some(NOW_S + 31))),
        (json!(1e300), none.clone(), Ok(Some(u64::MAX)), Ok(Some(u64::MAX))),
        (json!(u64::MAX), none.clone(), Ok(Some(u64::MAX)), Ok(Some(u64::MAX))),
        (none.clone(), none.clone(), Err(NO_EXPIRY), Ok(None)),
        (json!("2000000"), none.clone(), Err(TIME), Err(TIME)),
        (json!([NOW_S + 1]), none.clone(), Err(MALFORMED), Err(MALFORMED)),
        (json!(true), none.clone(), Err(TIME), Err(TIME)),
        (json!(NOW_S + 1), json!(NOW_S), Ok(Some(NOW_S + 1)), Ok(Some(NOW_S + 31))),
        (json!(NOW_S + 9), json!(NOW_S + 1), Ok(Some(NOW_S + 9)), Ok(Some(NOW_S + 39))),
        (json!(NOW_S + 9), json!(NOW_S + 2), Err(NOT_YET), Ok(Some(NOW_S + 39))),
        (json!(NOW_S + 99), json!(NOW_S + 31), Err(NOT_YET), Ok(Some(NOW_S + 129))),
        (json!(NOW_S + 99), json!(NOW_S + 32), Err(NOT_YET), Err(NOT_YET)),
        (json!(NOW_S + 99), json!(u64::MAX), Err(NOT_YET), Err(NOT_YET)),
        (json!(NOW_S + 99), json!("0"), Err(TIME), Err(TIME)),
    ];
    for (exp, nbf, of_strict, of_lenient) in cases {
        let token = with(exp.clone(), nbf.clone());
        for (tokens, expected) in [(&strict, of_strict), (&lenient, of_lenient)] {
            let outcome = match verify(tokens, &token) {
                Verdict::Accepted(accepted) => Ok(accepted.expires_s),
                Verdict::Refused(refusal) => Err(refusal),
                Verdict::NotMine => panic!("{token}"),
            };
            assert_eq!(outcome, *expected, "exp {exp} nbf {nbf}");
        }
    }
}

#[test]
fn issuer_and_audience_are_asked_where_they_are_configured() {
    let terms = |issuer: Option<&str>, audience: Option<&str>| Terms {
        issuer: issuer.map(Into::into),
        audience: audience.map(Into::into),
        ..Terms::default()
    };
    let (any, asked) = (tokens(terms(None, None)), tokens(terms(Some("us"), Some("chat"))));
    let with = |iss: Value, aud: Value| {
        signed("ed25519", &json!({ "sub": "alice", "exp": NOW_S + 10, "iss": iss, "aud": aud }))
    };
    let cases: &[(Value, Value, Option<Refusal>)] = &[
        (json!("us"), json!("chat"), None),
        (json!("us"), json!(["mail", "chat"]), None),
        (json!("us"), json!("mail"), Some(AUDIENCE)),
        (json!("us"), json!(["mail", "chatter", 5, ["chat"]]), Some(AUDIENCE)),
        (json!("us"), json!([]), Some(AUDIENCE)),
        (json!("us"), json!({ "chat": "chat" }), Some(AUDIENCE)),
        (json!("us"), Value::Null, Some(AUDIENCE)),
        (json!("us"), json!("Chat"), Some(AUDIENCE)),
        (json!("them"), json!("chat"), Some(ISSUER)),
        (json!(["us"]), json!("chat"), Some(ISSUER)),
        (json!("us "), json!("chat"), Some(ISSUER)),
        (Value::Null, json!("chat"), Some(ISSUER)),
    ];
    for (iss, aud, refusal) in cases {
        let token = with(iss.clone(), aud.clone());
        assert!(matches!(verify(&any, &token), Verdict::Accepted(_)), "iss {iss} aud {aud}");
        match (verify(&asked, &token), refusal) {
            (Verdict::Accepted(_), None) => {}
            (Verdict::Refused(found), Some(expected)) => assert_eq!(found, *expected, "iss {iss} aud {aud}"),
            (found, expected) => panic!("iss {iss} aud {aud}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn login_roles_and_claims_come_from_the_claims_that_are_named() {
    let terms = |login: &str, roles: &str| Terms {
        login_claim: login.into(),
        roles_claim: roles.into(),
        claims: ["team", "org.id", "list", "on", "none"].map(Into::into).into(),
        ..Terms::default()
    };
    let claims = json!({
        "sub": "alice", "exp": NOW_S + 10, "email": "alice@example.org", "scope": "b a  b",
        "https://example.org/roles": ["x", "y"], "realm_access": { "roles": ["user", "admin"] },
        "team": "red", "org": { "id": 7, "name": "o" }, "list": ["no"], "on": true, "mixed": ["a", 5],
        "empty": "", "number": 5, "long": "x".repeat(256), "longest": "x".repeat(255), "control": "a\nb",
    });
    let token = signed("p256", &claims);
    let principal = |login: &str, roles: &str| match verify(&tokens(terms(login, roles)), &token) {
        Verdict::Accepted(accepted) => Ok(accepted.principal),
        Verdict::Refused(refusal) => Err(refusal),
        Verdict::NotMine => panic!("not a token"),
    };
    let roles = |name: &str| principal("sub", name).map(|principal| principal.roles.join(" "));
    assert_eq!(roles("scope").as_deref(), Ok("a b"));
    assert_eq!(roles("https://example.org/roles").as_deref(), Ok("x y"));
    assert_eq!(roles("realm_access.roles").as_deref(), Ok("admin user"));
    assert_eq!(roles("absent").as_deref(), Ok(""));
    assert_eq!(roles("realm_access.roles.x").as_deref(), Ok(""));
    for wrong in ["mixed", "number", "on", "org"] {
        assert_eq!(roles(wrong), Err(ROLES), "{wrong}");
    }
    let login = |name: &str| principal(name, "absent").map(|principal| principal.login);
    assert_eq!(login("email").as_deref(), Ok("alice@example.org"));
    assert_eq!(login("org.name").as_deref(), Ok("o"));
    assert_eq!(login("longest").map(|login| login.len()), Ok(255));
    for wrong in ["absent", "empty", "number", "on", "list", "org", "long", "control"] {
        assert_eq!(login(wrong), Err(LOGIN), "{wrong}");
    }
    let claims = principal("sub", "absent").unwrap().claims;
    let claims: Vec<_> = claims.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(claims, [("on", "true"), ("org.id", "7"), ("team", "red")]);
}

#[test]
fn a_token_of_eight_kilobytes_is_taken_and_the_bound_holds() {
    let padded =
        |bytes: usize| signed("hs", &json!({ "sub": "alice", "exp": NOW_S + 1, "x": "x".repeat(bytes) }));
    let tokens = tokens(Terms::default());
    let eight = padded(6_200);
    assert!(eight.len() > 8_192, "{}", eight.len());
    assert!(matches!(verify(&tokens, &eight), Verdict::Accepted(_)));
    let most = (0..4).map(|more| padded(12_150 + more)).rfind(|token| token.len() <= 16 * 1024).unwrap();
    assert!(most.len() > 16_200, "{}", most.len());
    assert!(matches!(verify(&tokens, &most), Verdict::Accepted(_)));
    let over = padded(12_500);
    assert!(over.len() > 16 * 1024);
    assert_eq!(verify(&tokens, &over), Verdict::Refused(TOO_LONG));
    assert_eq!(tokens.verify(&said(None, Some(&over)), NOW_S), Verdict::Refused(TOO_LONG));
}

#[test]
fn a_payload_that_is_no_object_is_refused() {
    let key = EncodingKey::from_secret(b"a secret of 32 bytes, for tests!").unwrap();
    let tokens = tokens(Terms::default());
    for payload in ["[]", "5", "null", "\"x\"", "", "{", "{\"sub\":\"a\"}x", "\u{0}"] {
        let message = format!("{}.{}", encoded("{\"alg\":\"HS256\",\"kid\":\"hs\"}"), encoded(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        let verdict = verify(&tokens, &format!("{message}.{signature}"));
        assert_eq!(verdict, Verdict::Refused(MALFORMED), "{payload}");
    }
    // Nesting that would overflow a stack.
    let deep = format!("{{\"sub\":{}", "[".repeat(10_000));
    let message = format!("{}.{}", encoded("{\"alg\":\"HS256\",\"kid\":\"hs\"}"), encoded(&deep));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    assert_eq!(verify(&tokens, &format!("{message}.{signature}")), Verdict::Refused(MALFORMED));
}

#[test]
fn of_old_and_new_keys_without_kid_each_is_tried() {
    let pems = [file("p256.pub.pem"), file("ed25519.pub.pem"), file("ed25519.pub.pem")].concat();
    let tokens = Tokens::new(Keys::parse(&pems).unwrap(), Terms::default());
    for kid in ["ed25519", "p256"] {
        assert!(matches!(verify(&tokens, &signed(kid, &alice())), Verdict::Accepted(_)), "{kid}");
    }
    assert_eq!(verify(&tokens, &signed("p384", &alice())), Verdict::Refused(ALGORITHM));
}

#[test]
fn terms_are_shown_in_words() {
    let terms = Terms { audience: Some("chat".into()), ..Terms::default() };
    assert_eq!(
        terms.to_string(),
        "issuer any, audience \"chat\", login from \"sub\", roles from \"roles\", expiry required"
    );
}

static SERVER: LazyLock<Tokens> = LazyLock::new(|| tokens(Terms::default()));
static GOOD: LazyLock<Vec<String>> =
    LazyLock::new(|| ["ed25519", "p256", "rsa", "hs"].iter().map(|kid| signed(kid, &alice())).collect());

proptest! {
    #[test]
    fn a_changed_byte_is_never_accepted(which in 0..4usize, at in any::<prop::sample::Index>(), byte in 32..127u8) {
        let good = &GOOD[which];
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let token = String::from_utf8(bytes).unwrap();
        prop_assert!(matches!(verify(&SERVER, &token), Verdict::Refused(_)), "{}", token);
    }

    #[test]
    fn a_part_of_a_token_is_never_accepted(which in 0..4usize, from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let good = &GOOD[which];
        let (from, to) = (from.index(good.len() + 1), to.index(good.len() + 1));
        prop_assume!(from < to && to - from < good.len());
        prop_assert!(matches!(verify(&SERVER, &good[from..to]), Verdict::Refused(_)));
    }

    #[test]
    fn parts_of_two_tokens_are_never_accepted(one in 0..4usize, two in 0..4usize, part in 0..3usize) {
        prop_assume!(one != two);
        let (a, b): (Vec<&str>, Vec<&str>) = (GOOD[one].split('.').collect(), GOOD[two].split('.').collect());
        let mut mixed = a.clone();
        mixed[part] = b[part];
        // The payloads are the same: what is exchanged there changes nothing.
        prop_assume!(mixed != a);
        let is_refused = matches!(verify(&SERVER, &mixed.join(".")), Verdict::Refused(_));
        prop_assert!(is_refused);
    }

    #[test]
    fn any_text_is_refused(text in "\\PC{0,40}(\\.\\PC{0,40}){0,4}") {
        prop_assert!(matches!(verify(&SERVER, &text), Verdict::Refused(_)));
    }

    #[test]
    fn any_signed_claims_give_a_principal_within_its_bounds(
        sub in prop::option::of("\\PC{0,300}"),
        exp in prop_oneof![Just(None), any::<u64>().prop_map(Some), (NOW_S - 5..NOW_S + 5).prop_map(Some)],
        roles in prop::option::of(prop::collection::vec("\\PC{0,8}", 0..4)),
    ) {
        let token = signed("hs", &json!({ "sub": sub, "exp": exp, "roles": roles }));
        match verify(&SERVER, &token) {
            Verdict::Accepted(Accepted { principal, expires_s }) => {
                prop_assert_eq!(Some(&*principal.login), sub.as_deref());
                prop_assert!(is_login(&principal.login));
                prop_assert_eq!(expires_s, exp);
                prop_assert!(exp.is_some_and(|exp| exp > NOW_S));
                prop_assert!(principal.roles.is_sorted());
            }
            Verdict::Refused(refusal) => {
                let is_login_wrong = sub.as_ref().is_none_or(|sub| {
                    !is_login(sub)
                });
                let expected = match exp {
                    None => NO_EXPIRY,
                    Some(exp) if exp <= NOW_S => Refusal::Expired,
                    Some(_) => { prop_assert!(is_login_wrong); LOGIN }
                };
                prop_assert_eq!(refusal, expected);
            }
            Verdict::NotMine => prop_assert!(false, "it is a token"),
        }
    }
}
