//! What must hold of tokens, of the claims in them, and of the files of keys and users, for every input. Shared by the
//! fuzz target and the replay of its corpus.
//!
//! Invariant: these functions panic exactly when what they check is wrong.

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use tcbchat::auth::principal::is_login;
use tcbchat::auth::signing::SigningKey;
use tcbchat::auth::{Credentials, Keys, Terms, Tokens, Users, Verdict, users};

const NOW_S: u64 = 1_000_000;

const PUBLIC: &[u8] = include_bytes!("../../tests/data/auth/public.jwks.json");
const PRIVATE: &[u8] = include_bytes!("../../tests/data/auth/private.jwks.json");

/// The tokens that are signed: inputs of the corpus, behind their first byte. All others must be refused.
const SIGNED: [&[u8]; 4] = [
    include_bytes!("../corpus/tokens/token_ed25519"),
    include_bytes!("../corpus/tokens/token_hs256"),
    include_bytes!("../corpus/tokens/token_rs256"),
    include_bytes!("../corpus/tokens/token_es256"),
];

static SERVER: LazyLock<Tokens> = LazyLock::new(|| {
    let claims = ["team", "org.id"].map(Into::into).into();
    let terms = Terms { token_bytes_max: 4_096, claims, roles_claim: "a.roles".into(), ..Terms::default() };
    Tokens::new(Keys::parse(PUBLIC).expect("the keys are good"), terms)
});

static SIGNER: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::parse(PRIVATE, Some("hs")).expect("the key is good"));

/// One input of the fuzzer: the first byte says what it is.
pub fn run(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match kind {
        b't' => token(bytes),
        b'c' => claims(bytes),
        b'k' => keys(bytes),
        b'u' => users_file(bytes),
        _ => {}
    }
}

fn verify(tokens: &Tokens, token: &str) -> Verdict {
    let said = |passcode: Option<&str>, token: Option<&str>| Credentials {
        login: None,
        passcode: passcode.map(Into::into),
        token: token.map(Into::into),
        headers: [].into(),
        address: Some(Ipv4Addr::LOCALHOST.into()),
    };
    let verdict = tokens.verify(&said(None, Some(token)), NOW_S);
    assert_ne!(verdict, Verdict::NotMine, "what stands where only tokens stand is one");
    // As a passcode it is the same, or none.
    match tokens.verify(&said(Some(token), None), NOW_S) {
        Verdict::NotMine => assert!(matches!(verdict, Verdict::Refused(_))),
        as_passcode => assert_eq!(as_passcode, verdict),
    }
    verdict
}

fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let is_signed = SIGNED.iter().any(|signed| &signed[1..] == bytes);
    let is_accepted = matches!(verify(&SERVER, text), Verdict::Accepted(_));
    assert_eq!(is_accepted, is_signed, "{text}");
}

fn claims(bytes: &[u8]) {
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let token = SIGNER.sign(&claims).expect("every JSON can be signed");
    if let Verdict::Accepted(accepted) = verify(&SERVER, &token) {
        let principal = accepted.principal;
        assert_eq!(claims["sub"], *principal.login);
        assert!(is_login(&principal.login));
        assert!(principal.roles.is_sorted_by(|one, next| one < next));
        assert!(principal.claims.is_sorted_by(|one, next| one.0 < next.0));
        assert!(accepted.expires_s.is_some_and(|at| at > NOW_S));
        assert!(token.len() <= 4_096);
    }
}

fn keys(bytes: &[u8]) {
    match Keys::parse(bytes) {
        Ok(keys) => {
            assert!(keys.count() > 0);
            assert!(keys.to_string().lines().count() >= keys.count());
            let tokens = Tokens::new(keys, Terms::default());
            for signed in SIGNED {
                let text = std::str::from_utf8(&signed[1..]).expect("it is text");
                verify(&tokens, text);
            }
        }
        Err(mistakes) => assert!(!mistakes.is_empty()),
    }
}

fn users_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match (Users::parse(text), users::remove(text, "alice")) {
        (Ok(users), Ok(None)) => assert!(users.count() <= text.lines().count()),
        (Ok(users), Ok(Some(rest))) => {
            let left = Users::parse(&rest).expect("what is left is a file of users");
            assert_eq!(left.count() + 1, users.count());
            assert_eq!(users::remove(&rest, "alice"), Ok(None));
        }
        (Err(one), Err(other)) => assert_eq!(one, other),
        (parsed, removed) => panic!("{parsed:?} {removed:?}"),
    }
}
