//! The vocabulary of authentication: what a client says of itself, who it is, and what a check answers.
//!
//! It checks nothing. Credentials live from a CONNECT to its answer; principals live as long as their sessions.
//!
//! Invariant: roles and claims of a [`Principal`] are sorted and without repetition, so equal principals are equal byte for
//! byte; and what is secret in [`Credentials`] is in no text that they make of themselves.

use std::fmt;
use std::net::IpAddr;

/// Bytes of a login at most, as STOMP's `stomp.id_bytes_max` has it by default. A token with a longer one is refused.
pub const LOGIN_BYTES_MAX: usize = 255;

/// Whether a text may be a login: 1 to [`LOGIN_BYTES_MAX`] bytes that nobody takes for another login because of what is not
/// seen: no control characters, no blanks at its ends (many clients cut them off), no marks without a width, and none that turn
/// the direction of a text.
pub fn is_login(text: &str) -> bool {
    let is_unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    (1..=LOGIN_BYTES_MAX).contains(&text.len()) && text.trim() == text && !text.contains(is_unseen)
}

/// Who a session is.
///
/// Sessions of one login share one principal, so it is made to be interned: it can be compared and hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The verified name; never empty.
    pub login: Box<str>,
    /// What rules call `role:x`; sorted, none twice.
    pub roles: Box<[Box<str>]>,
    /// Claims that rules name as `{claim.x}`, with their values; sorted by name, none twice. Other claims of a token are not
    /// kept.
    pub claims: Box<[(Box<str>, Box<str>)]>,
}

impl Principal {
    /// A principal whose roles and claims come in any order. Of two claims of one name, the first counts.
    pub fn new(
        login: impl Into<Box<str>>,
        roles: impl IntoIterator<Item = Box<str>>,
        claims: impl IntoIterator<Item = (Box<str>, Box<str>)>,
    ) -> Principal {
        let mut roles: Vec<_> = roles.into_iter().collect();
        roles.sort_unstable();
        roles.dedup();
        let mut claims: Vec<_> = claims.into_iter().collect();
        // Stable, so that the first of each name stays.
        claims.sort_by(|(one, _), (other, _)| one.cmp(other));
        claims.dedup_by(|(later, _), (first, _)| later == first);
        Principal { login: login.into(), roles: roles.into(), claims: claims.into() }
    }

    /// Whether it has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.binary_search_by(|own| (**own).cmp(role)).is_ok()
    }

    /// The value of a claim that rules name.
    pub fn claim(&self, name: &str) -> Option<&str> {
        let at = self.claims.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        Some(&self.claims[at].1)
    }
}

/// A text that is in no other text, `Debug` included.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Box<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What a CONNECT, and the upgrade before it, say of their sender.
///
/// Its `Debug` shows the login, the address and the names of the headers; passcode, token and the values of headers are
/// secrets.
#[derive(Clone)]
pub struct Credentials {
    /// The `login` of CONNECT.
    pub login: Option<Box<str>>,
    /// The `passcode` of CONNECT: a password, or a token.
    pub passcode: Option<Box<str>>,
    /// A token from where only tokens stand: the Bearer of CONNECT or of the upgrade, a cookie, or a query parameter.
    pub token: Option<Box<str>>,
    /// Headers of CONNECT, and chosen ones of the upgrade, for a mode that asks the application.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// Where the client is; `None` if that is not known: it came by a Unix socket, or by a trusted proxy that does not name
    /// it.
    pub address: Option<IpAddr>,
}

impl Credentials {
    /// Bytes that they hold.
    pub fn weight(&self) -> u64 {
        let texts = [&self.login, &self.passcode, &self.token].into_iter().flatten().map(|text| text.len());
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<Box<str>>());
        (size_of::<Credentials>() + texts.sum::<usize>() + headers.sum::<usize>()) as u64
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<Box<str>>| secret.as_ref().map(|_| "(secret)");
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Credentials")
            .field("login", &self.login)
            .field("passcode", &hidden(&self.passcode))
            .field("token", &hidden(&self.token))
            .field("headers", &names)
            .field("address", &self.address)
            .finish()
    }
}

/// What one mode of `auth.mode` says of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are good; no other mode is asked.
    Accepted(Accepted),
    /// They are this mode's, and not good; no other mode is asked.
    Refused(Refusal),
    /// They are not this mode's. The next of the list is asked; if all say so, they are refused, and
    /// [`Refusal::of_no_mode`] has the words.
    NotMine,
}

/// Good credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Who it is.
    pub principal: Principal,
    /// When the session ends unless it renews, in seconds since 1970; `None` for never. It may lie as far off as the number
    /// goes.
    pub expires_s: Option<u64>,
}

/// Why credentials are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// They are not good. The reason may be shown to the user: it says nothing that a guess could use.
    NotAuthenticated(&'static str),
    /// They were good, and their time is over.
    Expired,
    /// The application's own words.
    Said(Box<str>),
    /// Too many checks wait.
    Busy,
    /// The application does not answer.
    Unavailable,
}

impl Refusal {
    /// A wrong password and an unknown login, which must not differ.
    pub const WRONG: Refusal = Refusal::NotAuthenticated("login or passcode is wrong");
    /// There is nothing to check.
    pub const MISSING: Refusal =
        Refusal::NotAuthenticated("a login with its passcode, or a token, is needed");

    /// The refusal of credentials of which every mode says [`Verdict::NotMine`].
    pub fn of_no_mode(credentials: &Credentials) -> Refusal {
        match credentials.passcode {
            Some(_) => Refusal::WRONG,
            None => Refusal::MISSING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn boxed(text: &str) -> Box<str> {
        text.into()
    }

    #[test]
    fn logins_that_look_like_others_are_none() {
        for (text, expected) in [
            ("ann", true),
            ("ann b\u{f6}se", true),
            ("", false),
            ("ann ", false),
            ("\u{a0}ann", false),
            ("\u{feff}ann", false),
            ("an\u{200b}n", false),
            ("\u{202e}nna", false),
            ("a\nn", false),
        ] {
            assert_eq!(is_login(text), expected, "{text:?}");
        }
        assert!(is_login(&"x".repeat(LOGIN_BYTES_MAX)) && !is_login(&"x".repeat(LOGIN_BYTES_MAX + 1)));
    }

    #[test]
    fn principals_that_say_the_same_are_equal() {
        let claim = |name: &str, value: &str| (boxed(name), boxed(value));
        let one = Principal::new("a", ["y", "x", "y"].map(boxed), [claim("n", "1"), claim("m", "2")]);
        let other = Principal::new(
            "a",
            ["x", "y"].map(boxed),
            [claim("m", "2"), claim("n", "1"), claim("m", "ignored")],
        );
        assert_eq!(one, other);
        assert!(one.has_role("x") && one.has_role("y") && !one.has_role("z") && !one.has_role(""));
        assert_eq!((one.claim("n"), one.claim("m"), one.claim("o")), (Some("1"), Some("2"), None));
    }

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials {
            login: Some(boxed("alice")),
            passcode: Some(boxed("hunter2")),
            token: Some(boxed("eyJ.hunter3.x")),
            headers: [(boxed("cookie"), boxed("sid=hunter4"))].into(),
            address: Some(Ipv4Addr::LOCALHOST.into()),
        };
        let shown = format!("{credentials:?} {credentials:#?}");
        assert!(shown.contains("alice") && shown.contains("cookie"), "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
