//! The keys that tokens are verified with: a PEM file of public keys, or a JWKS.
//!
//! A key is bound to its algorithms when it is read: to the one that its JWK names, else to those of its kind. Which of
//! them a token names is never enough: a token is verified only if its key has the algorithm. So a public key is no shared
//! secret, whatever a token says.
//!
//! It verifies nothing. Keys that are for something else (encryption, other kinds) are passed over, as RFC 7517, section 5,
//! asks; keys that are broken or too weak are mistakes.
//!
//! Invariant: a `kid` and an algorithm name one key; and at most [`UNNAMED_MAX`] keys of one algorithm have no `kid`.

pub(super) mod jwk;
pub(super) mod pem;

use std::fmt;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};

use super::mistake::Mistake;
use jwk::{Found, Jwk};

/// Keys that a token is tried with which names none. Each costs a verification.
pub const UNNAMED_MAX: usize = 4;
/// Keys of one file.
const KEYS_MAX: usize = 256;
/// Bits of an RSA modulus: fewer are broken or soon will be (RFC 7518, section 3.3), more cost too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Bytes of an Ed25519 public key.
const ED25519_BYTES: usize = 32;

/// The keys of a file.
#[derive(Debug)]
pub struct Keys {
    keys: Box<[Key]>,
    passed_over: Box<[Mistake]>,
}

/// A key with what it may be used for.
#[derive(Debug)]
pub(super) struct Key {
    kid: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    pub(super) verifying: DecodingKey,
}

/// Why no key verifies a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// None has this `kid`.
    Unknown,
    /// Those that there are do not have the algorithm.
    Algorithm,
    /// The token names no key, and there are too many to try them all.
    Unnamed,
}

impl Keys {
    /// The keys of a PEM file or a JWKS.
    ///
    /// # Errors
    /// What is wrong with it, each with its line.
    pub fn parse(bytes: &[u8]) -> Result<Keys, Vec<Mistake>> {
        let whole = |text: &str| vec![Mistake::on(0, text)];
        let text = str::from_utf8(bytes).map_err(|_| whole("not text: PEM or a JWKS is needed"))?;
        let mut reader = Reader::default();
        if jwk::is_json(text) {
            for (number, Found { line, key }) in (1..).zip(jwk::read(text).map_err(|mistake| vec![mistake])?)
            {
                match key {
                    Ok(key) => reader.jwk(line, number, &key),
                    Err(mistake) => reader.mistakes.push(mistake),
                }
            }
        } else {
            for block in pem::blocks(text).map_err(|mistake| vec![mistake])? {
                reader.pem(&block);
            }
        }
        reader.check();
        let Reader { keys, passed_over, mistakes, .. } = reader;
        Mistake::none_of(mistakes, Keys { keys: keys.into(), passed_over: passed_over.into() })
    }

    /// What was in the file and is not used, and why.
    pub fn passed_over(&self) -> &[Mistake] {
        &self.passed_over
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The keys that may have signed a token of this algorithm and `kid`; at least one, at most [`UNNAMED_MAX`].
    ///
    /// A `kid` that the file has is that key's alone. Any other is tried with the keys that have none, as those of PEM
    /// files.
    pub(super) fn candidates(&self, algorithm: Algorithm, kid: Option<&str>) -> Result<Vec<&Key>, NoKey> {
        let is_named = |key: &&Key| kid.is_some() && key.kid.as_deref() == kid;
        let is_unnamed = |key: &&Key| kid.is_none() || key.kid.is_none();
        let mut found: Vec<&Key> = self.keys.iter().filter(is_named).collect();
        if found.is_empty() {
            found = self.keys.iter().filter(is_unnamed).collect();
        }
        if found.is_empty() {
            return Err(NoKey::Unknown);
        }
        found.retain(|key| key.algorithms.contains(&algorithm));
        match found.len() {
            0 => Err(NoKey::Algorithm),
            1..=UNNAMED_MAX => Ok(found),
            _ => Err(NoKey::Unnamed),
        }
    }
}

impl fmt::Display for Keys {
    /// One line a key, with its `kid` and algorithms and without what it is made of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, key) in self.keys.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            match &key.kid {
                Some(kid) => write!(f, "{gap}{kid:?}: {}", names(&key.algorithms))?,
                None => write!(f, "{gap}without kid: {}", names(&key.algorithms))?,
            }
        }
        Ok(())
    }
}

/// Why a key of a file is not among the keys.
enum Not {
    /// It is for something else.
    Ours(String),
    /// It is broken, or must not be here.
    Right(String),
}

#[derive(Default)]
struct Reader {
    keys: Vec<Key>,
    lines: Vec<usize>,
    passed_over: Vec<Mistake>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn jwk(&mut self, line: usize, number: usize, jwk: &Jwk) {
        let name = jwk.kid.as_ref().map_or(format!("key {number}"), |kid| format!("key {number} ({kid:?})"));
        self.take(line, &name, from_jwk(jwk));
    }

    fn pem(&mut self, block: &pem::Block<'_>) {
        self.take(block.line, block.label, from_pem(block));
    }

    fn take(&mut self, line: usize, name: &str, key: Result<Key, Not>) {
        match key {
            Ok(key) => {
                let is_same =
                    |other: &Key| key.kid.is_some() && other.kid == key.kid && shares(other, &key.algorithms);
                if let Some(at) = self.keys.iter().position(is_same) {
                    let text =
                        format!("{name}: line {} has a key of the same kid and algorithm", self.lines[at]);
                    self.mistakes.push(Mistake::on(line, text));
                }
                self.keys.push(key);
                self.lines.push(line);
            }
            Err(Not::Ours(why)) => {
                self.passed_over.push(Mistake::on(line, format!("{name} is passed over: {why}")))
            }
            Err(Not::Right(why)) => self.mistakes.push(Mistake::on(line, format!("{name}: {why}"))),
        }
    }

    /// What is wrong with all keys together.
    fn check(&mut self) {
        if self.keys.is_empty() && self.mistakes.is_empty() {
            let passed_over = self.passed_over.iter().map(|why| format!("; {why}")).collect::<String>();
            let text = format!("there is no key in it that verifies tokens{passed_over}");
            self.mistakes.push(Mistake::on(0, text));
        }
        if self.keys.len() > KEYS_MAX {
            let text = format!("{} keys are there; {KEYS_MAX} are permitted", self.keys.len());
            self.mistakes.push(Mistake::on(0, text));
        }
        let unnamed = |key: &&Key| key.kid.is_none();
        for (at, key) in self.keys.iter().enumerate().filter(|(_, key)| unnamed(key)) {
            let before = &self.keys[..at];
            if before.iter().filter(unnamed).filter(|other| shares(other, &key.algorithms)).count()
                == UNNAMED_MAX
            {
                let text = format!(
                    "more than {UNNAMED_MAX} keys of {} have no kid: a JWKS can name them",
                    names(&key.algorithms)
                );
                self.mistakes.push(Mistake::on(self.lines[at], text));
            }
        }
    }
}

fn shares(key: &Key, algorithms: &[Algorithm]) -> bool {
    key.algorithms.iter().any(|algorithm| algorithms.contains(algorithm))
}

/// Algorithms as a list in words.
pub(super) fn names(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>().join(", ")
}

fn from_jwk(jwk: &Jwk) -> Result<Key, Not> {
    if let Some(usage) = jwk.usage.as_deref().filter(|usage| *usage != "sig") {
        return Err(Not::Ours(format!("its \"use\" is {usage:?}")));
    }
    let is_shared = jwk.kty.as_deref() == Some("oct");
    if let Some(operations) = &jwk.key_ops {
        let is_ours = |name: &str| name == "verify" || is_shared && name == "sign";
        if !operations.iter().any(|name| is_ours(name)) {
            return Err(Not::Ours("its \"key_ops\" have no \"verify\"".into()));
        }
    }
    let algorithm = match &jwk.alg {
        Some(name) => match name.parse::<Algorithm>() {
            Ok(algorithm) => Some(algorithm),
            Err(_) => return Err(Not::Ours(format!("its \"alg\" {name:?} verifies no tokens here"))),
        },
        None => None,
    };
    let member =
        |name: &'static str, value: &Option<Box<str>>| jwk::bytes(name, value.as_deref()).map_err(Not::Right);
    let verifying = match (jwk.kty.as_deref(), jwk.crv.as_deref()) {
        (Some("oct"), _) => {
            let secret = member("k", &jwk.k)?;
            DecodingKey::from_secret(&secret).map_err(|_| Not::Right("\"k\" is empty".into()))?
        }
        (Some("RSA"), _) => {
            DecodingKey::from_rsa_raw_components(&member("n", &jwk.n)?, &member("e", &jwk.e)?)
        }
        (Some("EC"), Some("P-256" | "P-384")) => {
            DecodingKey::from_ec_der(&[vec![4], member("x", &jwk.x)?, member("y", &jwk.y)?].concat())
        }
        (Some("OKP"), Some("Ed25519")) => DecodingKey::from_ed_der(&member("x", &jwk.x)?),
        (Some(kind @ ("EC" | "OKP")), curve) => {
            let curve = curve.map_or("no \"crv\"".into(), |curve| format!("the \"crv\" {curve:?}"));
            return Err(Not::Ours(format!("{kind} with {curve}")));
        }
        (Some(kind), _) => return Err(Not::Ours(format!("its \"kty\" is {kind:?}"))),
        (None, _) => return Err(Not::Right("it has no \"kty\"".into())),
    };
    if !is_shared && jwk.d.is_some() {
        return Err(Not::Right(PRIVATE.into()));
    }
    let possible = algorithms(&verifying).map_err(Not::Right)?;
    if let (Some("EC"), Some(curve)) = (jwk.kty.as_deref(), jwk.crv.as_deref()) {
        let is_of_curve = possible == [Algorithm::ES256] && curve == "P-256"
            || possible == [Algorithm::ES384] && curve == "P-384";
        if !is_of_curve {
            return Err(Not::Right(format!("\"x\" and \"y\" are not of the length that {curve} has")));
        }
    }
    let algorithms = match algorithm {
        Some(algorithm) if possible.contains(&algorithm) => vec![algorithm],
        Some(algorithm)
            if verifying.family() == AlgorithmFamily::Hmac && algorithm.family() == AlgorithmFamily::Hmac =>
        {
            return Err(Not::Right(too_short(&verifying, algorithm)));
        }
        Some(algorithm) => {
            return Err(Not::Right(format!("{algorithm:?} is not for it, but {}", names(&possible))));
        }
        None => possible,
    };
    Ok(Key { kid: jwk.kid.clone(), algorithms, verifying })
}

const PRIVATE: &str = "it is a private key: the server needs the public part only, and must not be able to sign \
                       (`openssl pkey -pubout` gives it)";

fn from_pem(block: &pem::Block<'_>) -> Result<Key, Not> {
    match block.label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        "CERTIFICATE" => {
            return Err(Not::Right("a public key is needed (`openssl x509 -pubkey -noout` gives it)".into()));
        }
        label if label.ends_with("PRIVATE KEY") => return Err(Not::Right(PRIVATE.into())),
        _ => return Err(Not::Ours("it is no public key".into())),
    }
    let text = block.text.as_bytes();
    let verifying = DecodingKey::from_ed_pem(text)
        .or_else(|_| DecodingKey::from_ec_pem(text))
        .or_else(|_| DecodingKey::from_rsa_pem(text))
        .map_err(|_| Not::Right("not a public key of RSA, EC or Ed25519".into()))?;
    let algorithms = algorithms(&verifying).map_err(Not::Right)?;
    Ok(Key { kid: None, algorithms, verifying })
}

/// The algorithms that are for a key, from the weakest to the strongest.
fn algorithms(key: &DecodingKey) -> Result<Vec<Algorithm>, String> {
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    match key.family() {
        AlgorithmFamily::Hmac if bytes.starts_with(b"-----BEGIN ") => {
            Err("the secret is PEM: whoever has that public key could sign".into())
        }
        AlgorithmFamily::Hmac => {
            let is_long_enough = |algorithm: &Algorithm| bytes.len() >= secret_bytes_min(*algorithm);
            let algorithms: Vec<_> =
                AlgorithmFamily::Hmac.algorithms().iter().copied().filter(is_long_enough).collect();
            if algorithms.is_empty() { Err(too_short(key, Algorithm::HS256)) } else { Ok(algorithms) }
        }
        AlgorithmFamily::Rsa => {
            let bits = modulus_bits(key).ok_or("not an RSA public key")?;
            if !RSA_BITS.contains(&bits) {
                let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
                return Err(format!("RSA of {bits} bits: {least} to {most} are permitted"));
            }
            Ok(AlgorithmFamily::Rsa.algorithms().to_vec())
        }
        // Uncompressed points: 4, and two coordinates.
        AlgorithmFamily::Ec if bytes.first() == Some(&4) && bytes.len() == 65 => Ok(vec![Algorithm::ES256]),
        AlgorithmFamily::Ec if bytes.first() == Some(&4) && bytes.len() == 97 => Ok(vec![Algorithm::ES384]),
        AlgorithmFamily::Ec => Err("EC: an uncompressed point of P-256 or P-384 is needed".into()),
        AlgorithmFamily::Ed if bytes.len() == ED25519_BYTES => Ok(vec![Algorithm::EdDSA]),
        AlgorithmFamily::Ed => Err(format!("Ed25519: \"x\" has {ED25519_BYTES} bytes")),
    }
}

/// Bytes that a secret of an algorithm has at least: as many as its hash (RFC 7518, section 3.2).
pub(super) fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

fn too_short(key: &DecodingKey, algorithm: Algorithm) -> String {
    let bytes = key.try_get_as_bytes().unwrap_or_default().len();
    let least = secret_bytes_min(algorithm);
    format!("a secret of {bytes} bytes can be guessed: {algorithm:?} needs {least} (RFC 7518, section 3.2)")
}

fn modulus_bits(key: &DecodingKey) -> Option<usize> {
    let components = |key: &DecodingKey| match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => Some(bits(n)),
        DecodingKeyKind::SecretOrDer(_) => None,
    };
    components(key).or_else(|| {
        let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(key, None).ok()?;
        components(&DecodingKey::from_jwk(&jwk).ok()?)
    })
}

/// Bits of a number, big-endian.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match &number[zeros..] {
        [] => 0,
        [first, rest @ ..] => 8 * rest.len() + (8 - first.leading_zeros() as usize),
    }
}

#[cfg(test)]
mod tests;
