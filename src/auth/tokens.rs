//! JSON Web Tokens (RFC 7519) to principals.
//!
//! The signature is verified first, with a key that has the token's algorithm; claims of a token whose signature does not
//! verify are not looked at. Time is an argument. A token is not remembered: who has it may use it until it expires.
//!
//! Invariant: a principal's login, roles and claims come from the payload that the signature is of.

use std::fmt;

use jsonwebtoken::{Header, Validation};
use serde_json::{Map, Value};

use super::keys::{Keys, NoKey};
use super::principal::{Accepted, Credentials, Principal, Refusal, Verdict, is_login};

/// Reasons that users see. None tells more than the sender of the token knows, or may know.
const TOO_LONG: Refusal = Refusal::NotAuthenticated("the token is longer than auth.token_bytes_max");
const MALFORMED: Refusal = Refusal::NotAuthenticated("the token is malformed");
const ALGORITHM: Refusal = Refusal::NotAuthenticated("the token's algorithm (alg) is not one of its key");
const UNKNOWN_KEY: Refusal = Refusal::NotAuthenticated("the token's key (kid) is not known");
const UNNAMED_KEY: Refusal = Refusal::NotAuthenticated("the token does not say which key it is of (kid)");
const SIGNATURE: Refusal = Refusal::NotAuthenticated("the token's signature does not verify");
const NO_EXPIRY: Refusal = Refusal::NotAuthenticated("the token has no expiry (exp)");
const TIME: Refusal = Refusal::NotAuthenticated("a time of the token (exp, nbf) is not a number");
const NOT_YET: Refusal = Refusal::NotAuthenticated("the token is not valid yet (nbf)");
const ISSUER: Refusal = Refusal::NotAuthenticated("the token is of another issuer (iss)");
const AUDIENCE: Refusal = Refusal::NotAuthenticated("the token is for another audience (aud)");
const LOGIN: Refusal = Refusal::NotAuthenticated("the token names no login, or one that is not permitted");
const ROLES: Refusal = Refusal::NotAuthenticated("the token's roles are not a list of names");

/// What is asked of a token, beside its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What `iss` must be, if that is asked.
    pub issuer: Option<Box<str>>,
    /// What `aud` must be or contain, if that is asked.
    pub audience: Option<Box<str>>,
    /// The claim that is the login; a name, or a path of names with dots between.
    pub login_claim: Box<str>,
    /// The claim that lists the roles; a name, or a path of names with dots between.
    pub roles_claim: Box<str>,
    /// Whether a token without `exp` is refused.
    pub is_expiry_required: bool,
    /// Seconds by which the issuer's clock may be wrong.
    pub leeway_s: u32,
    /// Bytes of a token.
    pub token_bytes_max: usize,
    /// Claims that a principal keeps.
    pub claims: Box<[Box<str>]>,
}

impl Default for Terms {
    fn default() -> Self {
        let limits = crate::limits::Auth::default();
        Terms {
            issuer: None,
            audience: None,
            login_claim: "sub".into(),
            roles_claim: "roles".into(),
            is_expiry_required: true,
            leeway_s: limits.leeway_s,
            token_bytes_max: limits.token_bytes_max as usize,
            claims: [].into(),
        }
    }
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Tokens {
    keys: Keys,
    terms: Terms,
}

impl Tokens {
    /// Tokens of these keys, on these terms.
    pub fn new(keys: Keys, terms: Terms) -> Tokens {
        Tokens { keys, terms }
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What is asked of tokens.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Checks the token of the credentials: a passcode that has the shape of one, else what came where only tokens stand.
    /// A passcode goes first because it was said in CONNECT, while a cookie may be an old one.
    ///
    /// It costs up to some 100 microseconds, most of it the signature.
    pub fn verify(&self, credentials: &Credentials, now_s: u64) -> Verdict {
        let passcode = credentials.passcode.as_deref().filter(|passcode| has_shape(passcode));
        match passcode.or(credentials.token.as_deref()) {
            Some(token) => match self.check(token, now_s) {
                Ok(accepted) => Verdict::Accepted(accepted),
                Err(refusal) => Verdict::Refused(refusal),
            },
            None => Verdict::NotMine,
        }
    }

    fn check(&self, token: &str, now_s: u64) -> Result<Accepted, Refusal> {
        if token.len() > self.terms.token_bytes_max {
            return Err(TOO_LONG);
        }
        if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
            return Err(MALFORMED);
        }
        let claims = self.signed_claims(token)?;
        let expires_s = self.check_times(&claims, now_s)?;
        self.check_parties(&claims)?;
        Ok(Accepted { principal: self.principal(&claims)?, expires_s })
    }

    /// The claims of a token whose signature verifies.
    fn signed_claims(&self, token: &str) -> Result<Map<String, Value>, Refusal> {
        // An algorithm that is not known, `none` among them, is no header.
        let header: Header = jsonwebtoken::decode_header(token).map_err(|_| MALFORMED)?;
        let keys =
            self.keys.candidates(header.alg, header.kid.as_deref()).map_err(|no_key| match no_key {
                NoKey::Unknown => UNKNOWN_KEY,
                NoKey::Algorithm => ALGORITHM,
                NoKey::Unnamed => UNNAMED_KEY,
            })?;
        let mut validation = Validation::new(header.alg);
        // Times and parties are checked here: the crate reads the clock, and lets a claim pass that is not there.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let mut refusal = SIGNATURE;
        for key in keys {
            match jsonwebtoken::decode(token, &key.verifying, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if *error.kind() == jsonwebtoken::errors::ErrorKind::InvalidSignature => {}
                Err(_) => refusal = MALFORMED,
            }
        }
        Err(refusal)
    }

    /// When the token expires, if it is valid now.
    fn check_times(&self, claims: &Map<String, Value>, now_s: u64) -> Result<Option<u64>, Refusal> {
        let leeway_s = u64::from(self.terms.leeway_s);
        let time = |name| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(TIME),
        };
        // 'On or after which' it is not accepted (RFC 7519, section 4.1.4).
        let expires_s = time("exp")?.map(|at: u64| at.saturating_add(leeway_s));
        match expires_s {
            Some(expires_s) if now_s >= expires_s => return Err(Refusal::Expired),
            None if self.terms.is_expiry_required => return Err(NO_EXPIRY),
            _ => {}
        }
        // A second more, because now is a second that has begun: it may be almost over.
        match time("nbf")? {
            Some(at) if at > now_s.saturating_add(leeway_s).saturating_add(1) => Err(NOT_YET),
            _ => Ok(expires_s),
        }
    }

    fn check_parties(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        if let Some(issuer) = &self.terms.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(ISSUER);
        }
        let Some(audience) = &self.terms.audience else { return Ok(()) };
        let is_ours = |value: &Value| value.as_str() == Some(audience);
        match claims.get("aud") {
            Some(Value::Array(all)) if all.iter().any(is_ours) => Ok(()),
            Some(one) if is_ours(one) => Ok(()),
            _ => Err(AUDIENCE),
        }
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Refusal> {
        let login = claim(claims, &self.terms.login_claim).and_then(Value::as_str).ok_or(LOGIN)?;
        if !is_login(login) {
            return Err(LOGIN);
        }
        let roles: Vec<Box<str>> = match claim(claims, &self.terms.roles_claim) {
            None | Some(Value::Null) => Vec::new(),
            // As OAuth's `scope` has them (RFC 8693, section 4.2).
            Some(Value::String(names)) => names.split_whitespace().map(Into::into).collect(),
            Some(Value::Array(names)) => {
                let names = names.iter().map(|name| name.as_str().map(Into::into));
                names.collect::<Option<_>>().ok_or(ROLES)?
            }
            Some(_) => return Err(ROLES),
        };
        let kept = self.terms.claims.iter().filter_map(|name| {
            let value: Box<str> = match claim(claims, name)? {
                Value::String(text) => text.as_str().into(),
                value @ (Value::Number(_) | Value::Bool(_)) => value.to_string().into(),
                // Lists and objects are no text that a destination could have.
                _ => return None,
            };
            Some((name.clone(), value))
        });
        Ok(Principal::new(login, roles, kept))
    }
}

impl fmt::Display for Terms {
    /// What is asked, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = |said: &Option<Box<str>>| said.as_ref().map_or("any".into(), |said| format!("{said:?}"));
        write!(
            f,
            "issuer {}, audience {}, login from {:?}, roles from {:?}, expiry {}",
            any(&self.issuer),
            any(&self.audience),
            self.login_claim,
            self.roles_claim,
            if self.is_expiry_required { "required" } else { "not required" },
        )
    }
}

/// Whether a passcode is meant as a token: three parts, of which the first is the base64 of something that begins with a
/// brace. No password that people choose is.
pub fn has_shape(passcode: &str) -> bool {
    let is_base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
    let mut parts = passcode.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    // A brace is 0x7b: `e` has its upper six bits; its lower two are the upper ones of the next character.
    let has_brace =
        matches!(header.as_bytes(), [b'e', b'w' | b'x' | b'y' | b'z' | b'0'..=b'9' | b'-' | b'_', ..]);
    has_brace
        && !payload.is_empty()
        && [header, payload, signature].iter().all(|part| part.as_bytes().iter().all(is_base64url))
}

/// A claim by its name, or by a path of names: `realm_access.roles`. A name goes first, because names may have dots.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    match claims.get(first)? {
        Value::Object(inner) => claim(inner, rest),
        _ => None,
    }
}

/// A NumericDate (RFC 7519, section 2) in whole seconds; before 1970 is 1970.
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    // A float that is too large, or below zero, saturates.
    number.as_u64().or_else(|| number.as_f64().map(|number| number as u64))
}

#[cfg(test)]
mod tests;
