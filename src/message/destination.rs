//! Destinations: the texts of the `destination` header and what they mean here.
//!
//! | form | meaning |
//! |---|---|
//! | `/topic/<room>` | every subscriber gets every message |
//! | `/queue/<name>` | each message goes to one subscriber |
//! | `/system/events` (SUBSCRIBE) | what happens to sessions, for the application's own programs |
//! | `/app/<name>` | the same, to one session of the application's own programs |
//! | `/reply/<session>/<number>` (SEND) | the one who has asked by SUBSCRIBE to `/app/<name>`, once |
//! | `/user/queue/<name>` (SUBSCRIBE) | the subscriber's own, by login |
//! | `/user/<login>/queue/<name>` (SEND) | every session of that login; a `/` or `%` in the login is written `%2F`, `%25` |
//!
//! This module only reads texts; bounds on their length are checked by the session.
//!
//! Invariant: two texts that mean the same place have the same [`Destination::key`].

use std::borrow::Cow;
use std::fmt;

use crate::message::origin::ReplyTo;

/// What the names of queues begin with whose messages are for the application: only sessions with the role [`SERVICE`]
/// subscribe to them.
pub const APP_PREFIX: &str = "/app/";

/// What the destinations of answers begin with ([`ReplyTo`]): only sessions with the role [`SERVICE`] send to them.
pub const REPLY_PREFIX: &str = "/reply/";

/// The room of what happens to sessions: only the server sends to it.
pub const EVENTS: &str = "/system/events";

/// The role of the application's own programs.
pub const SERVICE: &str = "service";

/// How messages to a destination are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// To every subscriber, in one total order.
    Topic,
    /// To one subscriber each, kept while there is none.
    Queue,
    /// To every session of one login, in one total order.
    User,
    /// To one session, which has asked for it, once.
    Reply,
}

/// A destination that this server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination<'a> {
    kind: Kind,
    key: Cow<'a, str>,
    shown: Option<Cow<'a, str>>,
}

/// Why a destination is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadDestination {
    /// Not one of the prefixes `/topic/`, `/queue/`, `/user/`, `/app/`.
    UnknownPrefix,
    /// The name behind the prefix is empty.
    EmptyName,
    /// `/user/...` without `/queue/`, or with more slashes in the login than `%2F` allows.
    BadUserForm,
    /// `/user/queue/...` from a session that gave no login.
    NoLogin,
    /// `/reply/...` that no `reply-to` has said.
    BadReplyForm,
}

impl BadDestination {
    /// The sentence for the ERROR's `message` header.
    pub fn reason(self) -> &'static str {
        match self {
            BadDestination::UnknownPrefix => "destination must begin with /topic/, /queue/, /user/ or /app/",
            BadDestination::EmptyName => "destination has no name behind its prefix",
            BadDestination::BadUserForm => {
                "user destination must be /user/queue/<name> to subscribe and /user/<login>/queue/<name> to send"
            }
            BadDestination::NoLogin => "/user/queue/ needs a session that gave a login",
            BadDestination::BadReplyForm => "reply destination must be what reply-to says",
        }
    }
}

impl<'a> Destination<'a> {
    /// Reads the destination of a SEND.
    ///
    /// # Errors
    /// [`BadDestination`], never `NoLogin`.
    pub fn parse_send(text: &'a str) -> Result<Self, BadDestination> {
        if text.starts_with(REPLY_PREFIX) {
            text.parse::<ReplyTo>().map_err(|_| BadDestination::BadReplyForm)?;
            return Ok(Destination { kind: Kind::Reply, key: Cow::Borrowed(text), shown: None });
        }
        let Some(rest) = text.strip_prefix("/user/") else { return Self::parse_plain(text) };
        let (login, rest) = rest.split_once('/').ok_or(BadDestination::BadUserForm)?;
        let name = rest.strip_prefix("queue/").ok_or(BadDestination::BadUserForm)?;
        if login.is_empty() || name.is_empty() {
            return Err(BadDestination::EmptyName);
        }
        // Decoded and encoded again, so that every spelling of a login is one key.
        let login = decode_login(login).ok_or(BadDestination::BadUserForm)?;
        Ok(Self::user(&login, name))
    }

    /// Reads the destination of a SUBSCRIBE of a session with `login`.
    ///
    /// # Errors
    /// [`BadDestination`].
    pub fn parse_subscribe(text: &'a str, login: Option<&str>) -> Result<Self, BadDestination> {
        if text == EVENTS {
            return Ok(Destination { kind: Kind::Topic, key: Cow::Borrowed(text), shown: None });
        }
        let Some(rest) = text.strip_prefix("/user/") else { return Self::parse_plain(text) };
        match rest.strip_prefix("queue/") {
            None => Err(BadDestination::BadUserForm),
            Some("") => Err(BadDestination::EmptyName),
            Some(name) => Ok(Self::user(login.ok_or(BadDestination::NoLogin)?, name)),
        }
    }

    fn parse_plain(text: &'a str) -> Result<Self, BadDestination> {
        let (kind, name) = if let Some(name) = text.strip_prefix("/topic/") {
            (Kind::Topic, name)
        } else if let Some(name) = text.strip_prefix("/queue/").or_else(|| text.strip_prefix(APP_PREFIX)) {
            (Kind::Queue, name)
        } else {
            return Err(BadDestination::UnknownPrefix);
        };
        if name.is_empty() {
            return Err(BadDestination::EmptyName);
        }
        Ok(Destination { kind, key: Cow::Borrowed(text), shown: None })
    }

    fn user(login: &str, name: &str) -> Self {
        Destination {
            kind: Kind::User,
            key: Cow::Owned(format!("/user/{}/queue/{name}", encode_login(login))),
            shown: Some(Cow::Owned(format!("/user/queue/{name}"))),
        }
    }

    /// Whether a text is longer than destinations may be. Where answers go the server has said: that is never too long.
    pub fn is_too_long(text: &str, bytes_max: u32) -> bool {
        text.len() > bytes_max as usize && !text.starts_with(REPLY_PREFIX)
    }

    /// A queue by its full text, for messages that the server itself moves.
    pub fn queue(text: String) -> Self {
        Destination { kind: Kind::Queue, key: Cow::Owned(text), shown: None }
    }

    /// Whether its messages are for the application.
    pub fn is_of_app(&self) -> bool {
        self.key.starts_with(APP_PREFIX)
    }

    /// Whether only sessions with the role [`SERVICE`] subscribe to the place with this key.
    pub fn is_for_services(key: &str) -> bool {
        key.starts_with(APP_PREFIX) || key == EVENTS
    }

    /// The text by which subscribers of a room know it that has this key: what [`Message::shown`](super::Message::shown) is.
    pub fn shown_of(key: &str) -> Cow<'_, str> {
        let own = key.strip_prefix("/user/").and_then(|rest| rest.split_once('/'));
        own.map_or(Cow::Borrowed(key), |(_, name)| Cow::Owned(format!("/user/{name}")))
    }

    /// How messages are handed out.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The place's name among all places.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The `destination` header of MESSAGEs, where it is not the key.
    pub fn shown(&self) -> Option<&str> {
        self.shown.as_deref()
    }
}

/// Names rooms: one by its key, or by a `*` at the end all whose keys begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
}

impl Pattern {
    /// Reads a pattern of topics or user destinations: `/topic/prices`, `/topic/prices.*`, `/user/*`. `None` for
    /// anything else, a `*` elsewhere than at the end included.
    pub fn parse(text: &str) -> Option<Self> {
        let start = text.strip_suffix('*').unwrap_or(text);
        let is_room = |prefix: &str| text.len() > prefix.len() && text.starts_with(prefix);
        let is_plain = !start.contains(|c: char| c == '*' || c == ',' || c == '"' || c.is_control());
        (is_plain && (is_room("/topic/") || is_room("/user/"))).then(|| Self { text: text.into() })
    }

    /// Whether the room with this key is named.
    pub fn matches(&self, key: &str) -> bool {
        match self.text.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => *self.text == *key,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn encode_login(login: &str) -> Cow<'_, str> {
    if login.contains(['/', '%']) {
        Cow::Owned(login.replace('%', "%25").replace('/', "%2F"))
    } else {
        Cow::Borrowed(login)
    }
}

/// Undoes [`encode_login`]; `None` for an escape that it does not make.
fn decode_login(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut login = String::with_capacity(text.len());
    let mut parts = text.split('%');
    login.push_str(parts.next()?);
    for part in parts {
        let (escape, rest) = part.split_at_checked(2)?;
        login.push(match escape {
            "25" => '%',
            "2F" | "2f" => '/',
            _ => return None,
        });
        login.push_str(rest);
    }
    Some(Cow::Owned(login))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_name_one_room_or_those_that_begin_alike() {
        let names = |pattern: &str, key: &str| Pattern::parse(pattern).unwrap().matches(key);
        assert!(names("/topic/a", "/topic/a") && !names("/topic/a", "/topic/ab"));
        assert!(
            names("/topic/a*", "/topic/ab") && names("/topic/*", "/topic/a") && !names("/topic/*", "/user/x")
        );
        assert!(names("/user/*", "/user/ann/queue/q"));
        for bad in ["", "*", "/*", "/topic/", "/queue/*", "/topic/*a", "/topic/a,b", "/topic/a\"b", "topic/a"]
        {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_form_is_read() {
        let topic = Destination::parse_send("/topic/a/b").unwrap();
        assert_eq!((topic.kind(), topic.key(), topic.shown()), (Kind::Topic, "/topic/a/b", None));
        let queue = Destination::parse_subscribe("/queue/jobs", None).unwrap();
        assert_eq!((queue.kind(), queue.key()), (Kind::Queue, "/queue/jobs"));
        let app = Destination::parse_send("/app/chat.send").unwrap();
        assert_eq!((app.kind(), app.key(), app.is_of_app()), (Kind::Queue, "/app/chat.send", true));
        assert!(!queue.is_of_app());
        let reply = Destination::parse_send("/reply/0-1-2/3").unwrap();
        assert_eq!((reply.kind(), reply.key()), (Kind::Reply, "/reply/0-1-2/3"));
        assert_eq!(Destination::parse_subscribe("/reply/0-1-2/3", None), Err(BadDestination::UnknownPrefix));
        let own = Destination::parse_subscribe("/user/queue/mail", Some("ann")).unwrap();
        assert_eq!((own.kind(), own.key()), (Kind::User, "/user/ann/queue/mail"));
        assert_eq!(own.shown(), Some("/user/queue/mail"));
    }

    #[test]
    fn each_refusal_is_named() {
        use BadDestination::*;
        for (text, want) in [
            ("", UnknownPrefix),
            ("/exchange/x", UnknownPrefix),
            ("topic/x", UnknownPrefix),
            ("/topic/", EmptyName),
            ("/app/", EmptyName),
            ("/app", UnknownPrefix),
            (EVENTS, UnknownPrefix),
            ("/reply/", BadReplyForm),
            ("/reply/0-1-2/x", BadReplyForm),
            ("/user/ann", BadUserForm),
            ("/user/ann/topic/x", BadUserForm),
            ("/user/ann/queue/", EmptyName),
            ("/user//queue/x", EmptyName),
            ("/user/a%20b/queue/x", BadUserForm),
            ("/user/a%2/queue/x", BadUserForm),
        ] {
            assert_eq!(Destination::parse_send(text), Err(want), "{text:?}");
        }
        assert_eq!(Destination::parse_subscribe("/user/queue/x", None), Err(NoLogin));
        assert_eq!(Destination::parse_subscribe("/user/ann/queue/x", Some("bob")), Err(BadUserForm));
        assert_eq!(Destination::parse_subscribe("/user/queue/", Some("bob")), Err(EmptyName));
    }

    proptest! {
        #[test]
        fn what_is_sent_to_a_login_is_what_it_subscribed_to(login in "\\PC{1,20}", name in "[a-z/]{1,20}") {
            let subscribe_to = format!("/user/queue/{name}");
            let own = Destination::parse_subscribe(&subscribe_to, Some(&login)).unwrap();
            let sent = Destination::parse_send(own.key()).unwrap();
            prop_assert_eq!(sent.key(), own.key());
            prop_assert_eq!(sent.kind(), Kind::User);
            prop_assert_eq!(Some(&*Destination::shown_of(sent.key())), sent.shown());
        }
    }
}
