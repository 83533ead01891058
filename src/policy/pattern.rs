//! Patterns of destinations: what a rule is about.
//!
//! | written | matches |
//! |---|---|
//! | `*` | any characters but `/`, also none: a segment, or a part of one |
//! | `**` | any characters, also none |
//! | `{login}` | the login of who asks |
//! | `{claim.NAME}` | a value of that claim of who asks |
//! | anything else | itself |
//!
//! A value is text, whatever is in it: its `*` is a `*`, and its `/` and `%` are spelled `%2F` and `%25`, as user
//! destinations spell those of a login. So it is always a part of one segment. Texts are compared byte by byte.
//!
//! Where a segment has more that varies than one value, only the text between tells where the value ends. So there must
//! be such text, and a value that contains its nearest character matches nothing: in `/topic/team.{claim.team}.**` the
//! team `a` would also have the rooms of the team `a.b`.
//!
//! Which destinations exist is said here a second time, and only so far that a pattern for none of them is a mistake.
//!
//! Invariant: whatever the destination, each value in a pattern has at most one text for which the pattern matches.

use std::fmt;

use super::Who;

/// Different values that one pattern may name.
pub const VALUES_MAX: usize = 4;

/// What every destination begins with, each followed by a name.
const PREFIXES: [&str; 5] = ["/topic/", "/queue/", "/user/", "/app/", "/system/"];

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePattern {
    /// The text before the first piece that varies. Most destinations are told apart by it.
    prefix: Box<str>,
    rest: Box<[Piece]>,
    /// The values that the pieces name by their place here; none twice.
    sources: Box<[Source]>,
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// `*`.
    Part,
    /// `**`.
    All,
    /// A value that does not contain the character `fence`.
    Value {
        source: usize,
        fence: Option<char>,
    },
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Login,
    Claim(Box<str>),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPattern {
    /// It begins as no destination does.
    UnknownPrefix,
    /// Nothing follows the prefix.
    EmptyName,
    /// `/user/queue/...`, which clients write for their own.
    OwnQueue,
    /// Below `/user/` and not of the form of user destinations.
    BadUserForm,
    /// Three asterisks or more in a row.
    Asterisks,
    /// A brace that opens or closes nothing.
    Brace,
    /// Neither `{login}` nor `{claim.NAME}`.
    UnknownValue,
    /// More than [`VALUES_MAX`] different values.
    TooManyValues,
    /// No text between a value and what varies beside it.
    Touching,
    /// A value between wildcards, so that it would match in many places.
    BetweenWildcards,
    /// A control character.
    Control,
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownPrefix => "destinations begin with /topic/, /queue/ or /user/",
            Self::EmptyName => "a destination has a name behind its prefix",
            Self::OwnQueue => {
                "what a client calls /user/queue/<name> is /user/<login>/queue/<name> here: write \
                 /user/{login}/queue/ for each user's own"
            }
            Self::BadUserForm => "user destinations are /user/<login>/queue/<name>",
            Self::Asterisks => "there is only * for a part of a segment, and ** for anything",
            Self::Brace => "a { and a } enclose the name of a value",
            Self::UnknownValue => "values are {login} and {claim.NAME}",
            Self::TooManyValues => {
                return write!(f, "a pattern has at most {VALUES_MAX} different values");
            }
            Self::Touching => {
                "between a value and a wildcard or a second value there must be text, or nobody knows where the \
                 value ends"
            }
            Self::BetweenWildcards => "a value between two wildcards would match in many places",
            Self::Control => "control characters are in no pattern",
        })
    }
}

impl RulePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadPattern`]: also if no destination could match.
    pub fn parse(text: &str) -> Result<RulePattern, BadPattern> {
        if text.contains(char::is_control) {
            return Err(BadPattern::Control);
        }
        let mut sources = Vec::new();
        let mut pieces = pieces(text, &mut sources)?;
        check_destination(&pieces)?;
        for at in 0..pieces.len() {
            if let Piece::Value { source, .. } = pieces[at] {
                pieces[at] = Piece::Value { source, fence: fence(&pieces, at)? };
            }
        }
        let prefix = match pieces.first() {
            Some(Piece::Text(_)) => pieces.remove(0),
            _ => Piece::Text("".into()),
        };
        let Piece::Text(prefix) = prefix else { unreachable!("it was made so") };
        Ok(RulePattern { prefix, rest: pieces.into(), sources: sources.into() })
    }

    /// Names of the claims that it asks for.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter_map(|source| match source {
            Source::Claim(name) => Some(&**name),
            Source::Login => None,
        })
    }

    /// Whether what it matches depends on who asks.
    pub fn has_values(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Whether a destination begins as it does. If not, it matches for nobody.
    pub fn may_match(&self, key: &str) -> bool {
        key.starts_with(&*self.prefix)
    }

    /// Whether it matches a canonical destination for somebody. Who lacks a value that it names is matched nowhere; of a
    /// claim with several values each counts.
    pub fn matches(&self, key: &str, who: &Who<'_>) -> bool {
        match key.strip_prefix(&*self.prefix) {
            Some(rest) => self.matches_one_of(rest, who, &mut [""; VALUES_MAX], 0),
            None => false,
        }
    }

    /// Whether the pieces match for any choice of the values from `at` on.
    fn matches_one_of<'a>(
        &self,
        text: &str,
        who: &Who<'a>,
        values: &mut [&'a str; VALUES_MAX],
        at: usize,
    ) -> bool {
        let Some(source) = self.sources.get(at) else {
            return is_match(&self.rest, text.as_bytes(), values);
        };
        source.values(who).any(|value| {
            values[at] = value;
            self.matches_one_of(text, who, values, at + 1)
        })
    }
}

impl Source {
    /// `login` or `claim.NAME`.
    fn parse(name: &str) -> Option<Source> {
        match name.strip_prefix("claim.") {
            Some("") => None,
            Some(claim) => Some(Source::Claim(claim.into())),
            None => (name == "login").then_some(Source::Login),
        }
    }

    /// An empty value is none: `/topic/{login}.x` would be a room of everybody without a login.
    fn values<'a>(&self, who: &Who<'a>) -> impl Iterator<Item = &'a str> {
        let (login, name) = match self {
            Source::Login => (who.login, None),
            Source::Claim(name) => (None, Some(name)),
        };
        let claims = who.claims.iter().filter(move |(claim, _)| Some(claim) == name);
        login.into_iter().chain(claims.map(|(_, value)| &**value)).filter(|value| !value.is_empty())
    }
}

/// Cuts a text at what varies. Two texts are never neighbours.
fn pieces(text: &str, sources: &mut Vec<Source>) -> Result<Vec<Piece>, BadPattern> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, bytes) = match rest.as_bytes()[0] {
            b'*' => match rest.bytes().take_while(|byte| *byte == b'*').count() {
                1 => (Piece::Part, 1),
                2 => (Piece::All, 2),
                _ => return Err(BadPattern::Asterisks),
            },
            b'{' => {
                let end = rest.find('}').ok_or(BadPattern::Brace)?;
                let source = Source::parse(&rest[1..end]).ok_or(BadPattern::UnknownValue)?;
                let known = sources.iter().position(|other| *other == source);
                let source = known.unwrap_or_else(|| {
                    sources.push(source);
                    sources.len() - 1
                });
                if source == VALUES_MAX {
                    return Err(BadPattern::TooManyValues);
                }
                (Piece::Value { source, fence: None }, end + 1)
            }
            b'}' => return Err(BadPattern::Brace),
            _ => {
                let end = rest.find(['*', '{', '}']).unwrap_or(rest.len());
                (Piece::Text(rest[..end].into()), end)
            }
        };
        pieces.push(piece);
        rest = &rest[bytes..];
    }
    Ok(pieces)
}

/// Whether some destination could match. A rule for none is a slip of the pen, and one that refuses would refuse nothing.
fn check_destination(pieces: &[Piece]) -> Result<(), BadPattern> {
    let prefix = match pieces.first() {
        Some(Piece::Text(prefix)) => &**prefix,
        _ => "",
    };
    let varies = pieces.iter().any(|piece| !matches!(piece, Piece::Text(_)));
    let is_begun = |known: &&str| prefix.starts_with(*known) || (varies && known.starts_with(prefix));
    // Every destination has two, and a `*` has none.
    let slashes = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => text.matches('/').count(),
        _ => 0,
    });
    let is_whole = pieces.contains(&Piece::All) || slashes.sum::<usize>() >= 2;
    if !PREFIXES.iter().any(is_begun) || !is_whole {
        return Err(BadPattern::UnknownPrefix);
    }
    if !varies && PREFIXES.contains(&prefix) {
        return Err(BadPattern::EmptyName);
    }
    if prefix.starts_with("/user/") { check_user_form(pieces) } else { Ok(()) }
}

/// The same below `/user/`: the login is a segment, the next one is `queue`, and then comes a name.
fn check_user_form(pieces: &[Piece]) -> Result<(), BadPattern> {
    // What varies within a segment stands as a NUL, which is in no pattern.
    let mut shape = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => shape.push_str(text),
            Piece::Part | Piece::Value { .. } => shape.push('\0'),
            // It may be all that is missing.
            Piece::All => break,
        }
    }
    if shape == "/user/queue" || shape.starts_with("/user/queue/") {
        return Err(BadPattern::OwnQueue);
    }
    let is_open = pieces.contains(&Piece::All);
    let mut segments = shape.split('/').skip(2);
    let (login, queue, name) = (segments.next(), segments.next(), segments.next());
    let has_login = login.is_some_and(|login| !login.is_empty() || is_open);
    let has_queue = match (queue, name) {
        // The segment in which `**` stands is not whole.
        (None, _) => is_open,
        (Some(begin), None) => is_open && ("queue".starts_with(begin) || begin.contains('\0')),
        (Some(queue), Some(name)) => {
            let has_name = !name.is_empty() || is_open || segments.next().is_some();
            has_name && (queue == "queue" || queue.contains('\0'))
        }
    };
    if has_login && has_queue { Ok(()) } else { Err(BadPattern::BadUserForm) }
}

/// The character that the value at this place must not contain, so that there is only one way to find it.
///
/// It is found from the begin of its segment, or, if a wildcard is before it there, from the end. Values that are met
/// on the way have been found by then. Segments are counted from the side on which there is no `**`.
fn fence(pieces: &[Piece], at: usize) -> Result<Option<char>, BadPattern> {
    let (before, after) = (&pieces[..at], &pieces[at + 1..]);
    let is_wildcard = |piece: &&Piece| matches!(piece, Piece::Part | Piece::All);
    let ends_segment = |piece: &&Piece| matches!(piece, Piece::Text(text) if text.contains('/'));
    let varies = |piece: &&Piece| !matches!(piece, Piece::Text(_));
    let left = || before.iter().rev().take_while(|piece| !ends_segment(piece));
    let right = || after.iter().take_while(|piece| !ends_segment(piece));

    let (is_left_open, is_right_open) =
        (left().any(|piece| is_wildcard(&piece)), right().any(|piece| is_wildcard(&piece)));
    let is_between = before.contains(&Piece::All) && after.contains(&Piece::All);
    if is_between || (is_left_open && is_right_open) {
        return Err(BadPattern::BetweenWildcards);
    }
    let beside = match (is_left_open, right().any(|piece| varies(&piece))) {
        (true, _) => before.last().map(|piece| (piece, true)),
        (false, true) => after.first().map(|piece| (piece, false)),
        (false, false) => return Ok(None),
    };
    match beside {
        Some((Piece::Text(text), true)) => Ok(text.chars().next_back()),
        Some((Piece::Text(text), false)) => Ok(text.chars().next()),
        _ => Err(BadPattern::Touching),
    }
}

/// Whether the pieces match the whole text.
///
/// The last `*` and the last `**` are all that is ever gone back to. One that comes later can take what an earlier one
/// would. If what follows a `*` is not in the rest of the segment, it is not found there from a later place either, so the
/// `**` before it goes on behind the segment. So each byte is compared once for each piece, but for the texts themselves.
fn is_match(pieces: &[Piece], text: &[u8], values: &[&str; VALUES_MAX]) -> bool {
    // The next piece, and the next byte.
    let (mut at, mut place) = (0, 0);
    // Of the last wildcard of each sort: the piece behind it, and the byte behind what it takes.
    let (mut part, mut all) = (None, None);
    loop {
        match pieces.get(at) {
            None if place == text.len() => return true,
            None => {}
            Some(Piece::All) if at + 1 == pieces.len() => return true,
            Some(Piece::All) => {
                at += 1;
                (part, all) = (None, Some((at, place)));
                continue;
            }
            Some(Piece::Part) => {
                at += 1;
                part = Some((at, place));
                continue;
            }
            Some(piece) => {
                if let Some(bytes) = piece.length_in(&text[place..], values) {
                    (at, place) = (at + 1, place + bytes);
                    continue;
                }
            }
        }
        // It is not so: the last wildcard takes more.
        let is_segment_over = match part {
            Some((next, end)) => match text.get(end) {
                None => return false,
                Some(b'/') => true,
                Some(_) => {
                    part = Some((next, end + 1));
                    (at, place) = (next, end + 1);
                    continue;
                }
            },
            None => false,
        };
        let Some((next, end)) = all else { return false };
        let more = if is_segment_over { text[end..].iter().position(|byte| *byte == b'/') } else { Some(0) };
        let end = match more {
            Some(more) if end + more < text.len() => end + more + 1,
            _ => return false,
        };
        (part, all) = (None, Some((next, end)));
        (at, place) = (next, end);
    }
}

impl Piece {
    /// Bytes that a text or a value takes at the begin of `text`; `None` if it is not there.
    fn length_in(&self, text: &[u8], values: &[&str; VALUES_MAX]) -> Option<usize> {
        match self {
            Piece::Text(own) => text.starts_with(own.as_bytes()).then_some(own.len()),
            Piece::Value { source, fence } => {
                let value = values[*source];
                let bytes = spelled_length(value, text)?;
                let is_free = fence.is_none_or(|fence| !is_in_spelling(fence, value));
                is_free.then_some(bytes)
            }
            Piece::Part | Piece::All => None,
        }
    }
}

/// Bytes of the spelling of a value, if `text` begins with it.
fn spelled_length(value: &str, text: &[u8]) -> Option<usize> {
    let mut taken = 0;
    for byte in value.as_bytes() {
        let spelling: &[u8] = match byte {
            b'/' => b"%2F",
            b'%' => b"%25",
            plain => std::slice::from_ref(plain),
        };
        if !text[taken..].starts_with(spelling) {
            return None;
        }
        taken += spelling.len();
    }
    Some(taken)
}

/// Whether the spelling of a value contains a character.
fn is_in_spelling(character: char, value: &str) -> bool {
    let has = |escaped: char, spelling: &str| spelling.contains(character) && value.contains(escaped);
    (character != '/' && value.contains(character)) || has('/', "%2F") || has('%', "%25")
}

#[cfg(test)]
mod tests;
