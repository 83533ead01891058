//! Making tokens, for a try-out and for tests: a private key from a PEM file or a JWK signs claims.
//!
//! The server itself never signs. It reads no file.
//!
//! Invariant: a token is signed with an algorithm that [`super::Keys`] binds the key's public part to.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::keys::jwk::{self, Found, Jwk};
use super::keys::{pem, secret_bytes_min};
use super::mistake::Mistake;

/// `id-ecPublicKey`, P-256, P-384 and Ed25519 as DER object identifiers (RFC 5480, RFC 8410).
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// DER's tags of a sequence, a number and bytes.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;

/// A private key, or a shared secret.
#[derive(Debug)]
pub struct SigningKey {
    kid: Option<Box<str>>,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    /// The first key of a file that can sign, or the one of this `kid`: PEM, a JWK or a JWKS.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn parse(bytes: &[u8], kid: Option<&str>) -> Result<SigningKey, Mistake> {
        let text = str::from_utf8(bytes).map_err(|_| Mistake::on(0, "not text: PEM or a JWK is needed"))?;
        let mut key = if jwk::is_json(text) { from_jwks(text, kid) } else { from_pems(text) }?;
        if key.kid.is_none() {
            key.kid = kid.map(Into::into);
        }
        Ok(key)
    }

    /// A token of these claims.
    ///
    /// # Errors
    /// The key is broken.
    pub fn sign(&self, claims: &impl serde::Serialize) -> Result<String, String> {
        let mut header = Header::new(self.algorithm);
        header.kid = self.kid.as_deref().map(Into::into);
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|error| format!("cannot sign: {error}"))
    }
}

fn from_jwks(text: &str, kid: Option<&str>) -> Result<SigningKey, Mistake> {
    let mut why = None;
    for (number, Found { line, key }) in (1..).zip(jwk::read(text)?) {
        let jwk = key?;
        if kid.is_some() && jwk.kid.as_deref() != kid && jwk.kid.is_some() {
            continue;
        }
        match from_jwk(&jwk) {
            Ok(key) => return Ok(key),
            Err(text) => why = why.or(Some(Mistake::on(line, format!("key {number}: {text}")))),
        }
    }
    Err(why.unwrap_or_else(|| match kid {
        Some(kid) => Mistake::on(0, format!("there is no key with the kid {kid:?}")),
        None => Mistake::on(0, "there is no key in it"),
    }))
}

fn from_jwk(jwk: &Jwk) -> Result<SigningKey, String> {
    let member = |name: &'static str, value: &Option<Box<str>>| jwk::bytes(name, value.as_deref());
    let (possible, key): (&[Algorithm], _) = match (jwk.kty.as_deref(), jwk.crv.as_deref()) {
        (Some("oct"), _) => {
            let secret = member("k", &jwk.k)?;
            let key = EncodingKey::from_secret(&secret).map_err(|error| error.to_string())?;
            (jsonwebtoken::AlgorithmFamily::Hmac.algorithms(), key)
        }
        (Some("RSA"), _) => {
            let mut der = tlv(INTEGER, &[0]);
            for (name, value) in [
                ("n", &jwk.n),
                ("e", &jwk.e),
                ("d", &jwk.d),
                ("p", &jwk.p),
                ("q", &jwk.q),
                ("dp", &jwk.dp),
                ("dq", &jwk.dq),
                ("qi", &jwk.qi),
            ] {
                der.extend(integer(&member(name, value)?));
            }
            (jsonwebtoken::AlgorithmFamily::Rsa.algorithms(), EncodingKey::from_rsa_der(&tlv(SEQUENCE, &der)))
        }
        (Some("EC"), Some(curve @ ("P-256" | "P-384"))) => {
            let (algorithm, curve): (&[Algorithm], _) =
                if curve == "P-256" { (&[Algorithm::ES256], P256) } else { (&[Algorithm::ES384], P384) };
            // ECPrivateKey (RFC 5915) without its optional parts.
            let inner = [tlv(INTEGER, &[1]), tlv(OCTETS, &member("d", &jwk.d)?)].concat();
            (algorithm, EncodingKey::from_ec_der(&pkcs8(&[EC, curve], &tlv(SEQUENCE, &inner))))
        }
        (Some("OKP"), Some("Ed25519")) => {
            let seed = tlv(OCTETS, &member("d", &jwk.d)?);
            (&[Algorithm::EdDSA], EncodingKey::from_ed_der(&pkcs8(&[ED25519], &seed)))
        }
        (kind, curve) => return Err(format!("keys of kty {kind:?} and crv {curve:?} do not sign here")),
    };
    let algorithm = match &jwk.alg {
        Some(name) => name.parse().ok().filter(|algorithm| possible.contains(algorithm)),
        None => possible.first().copied(),
    };
    let algorithm = algorithm.ok_or_else(|| format!("its \"alg\" is {:?}", jwk.alg))?;
    if algorithm.family() == jsonwebtoken::AlgorithmFamily::Hmac {
        let (bytes, least) = (key.as_bytes().len(), secret_bytes_min(algorithm));
        if bytes < least {
            return Err(format!("a secret of {bytes} bytes can be guessed: {algorithm:?} needs {least}"));
        }
    }
    Ok(SigningKey { kid: jwk.kid.clone(), algorithm, key })
}

fn from_pems(text: &str) -> Result<SigningKey, Mistake> {
    let blocks = pem::blocks(text)?;
    let block = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY"));
    let block = block.ok_or_else(|| Mistake::on(0, "there is no private key in it"))?;
    let refused = |text: &str| Mistake::on(block.line, format!("{}: {text}", block.label));
    let pem = block.text.as_bytes();
    let key = match block.label {
        "EC PRIVATE KEY" => {
            // The older form (RFC 5915) inside that which is read here.
            let inner = STANDARD.decode(block.base64()).map_err(|_| refused("not base64"))?;
            let holds = |oid: &&&[u8]| inner.windows(oid.len()).any(|window| window == **oid);
            let curve = [P256, P384].iter().find(holds).copied();
            let curve = curve.ok_or_else(|| refused("its curve is not P-256 or P-384"))?;
            Ok(EncodingKey::from_ec_der(&pkcs8(&[EC, curve], &inner)))
        }
        "ENCRYPTED PRIVATE KEY" => return Err(refused("it is encrypted (`openssl pkey` decrypts it)")),
        _ => EncodingKey::from_ed_pem(pem)
            .or_else(|_| EncodingKey::from_ec_pem(pem))
            .or_else(|_| EncodingKey::from_rsa_pem(pem)),
    };
    let key = key.map_err(|_| refused("not a private key of RSA, EC or Ed25519"))?;
    let can_sign = |algorithm: &&Algorithm| jsonwebtoken::crypto::sign(b"", &key, **algorithm).is_ok();
    let algorithm = key.family().algorithms().iter().find(can_sign).copied();
    let algorithm = algorithm.ok_or_else(|| refused("it is broken, too short, or of another curve"))?;
    Ok(SigningKey { kid: None, algorithm, key })
}

/// PKCS #8 (RFC 5958): the algorithm's identifiers around a private key.
fn pkcs8(identifiers: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let algorithm = tlv(SEQUENCE, &identifiers.concat());
    tlv(SEQUENCE, &[tlv(INTEGER, &[0]), algorithm, tlv(OCTETS, key)].concat())
}

/// A positive number as DER.
fn integer(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = &big_endian[zeros..];
    // A first bit that is set would make it negative.
    let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    tlv(INTEGER, &[sign, digits].concat())
}

/// Tag, length and value, as DER has them.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let mut der = vec![tag];
    if value.len() < 0x80 {
        der.push(value.len() as u8);
    } else {
        let zeros = length.iter().take_while(|byte| **byte == 0).count();
        der.push(0x80 | (length.len() - zeros) as u8);
        der.extend(&length[zeros..]);
    }
    der.extend(value);
    der
}

#[cfg(test)]
mod tests;
