//! Rules: what a frame pays for the question whether it is allowed.
//!
//! The rules are what a company writes, and before them as many as it takes for other teams, each of which has to be
//! passed over.

use std::hint::black_box;
use std::sync::Arc;

use tcbchat::limits;
use tcbchat::message::destination::Destination;
use tcbchat::policy::{Action, Authorizer, Rule, Rules, Who};
use tcbchat::wire::stomp::{Decoder, Step, Version};

use crate::paths::wire::send;
use crate::scattered;

/// Principals whose verdicts are asked for in turn, where none is known: more than there are places.
const PRINCIPALS: u32 = 100_000;

fn rule(who: &str, may: &[&str], deny: &[&str], destinations: &[&str]) -> Rule {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    Rule { who: list(&[who]), may: list(may), deny: list(deny), destinations: list(destinations) }
}

/// So many rules, of which the last but one has `/topic/room-*`.
///
/// # Panics
/// If they are fewer than four.
#[must_use]
pub fn rules(count: usize) -> Rules {
    let teams = count.checked_sub(4).expect("the four that everybody has");
    let mut rules: Vec<Rule> = (0..teams)
        .map(|team| {
            rule(
                &format!("role:team-{team}"),
                &["subscribe", "send"],
                &[],
                &[&format!("/topic/team-{team}.**")],
            )
        })
        .collect();
    rules.push(rule("role:admin", &["send"], &[], &["/topic/announcements", "/topic/**.announcements"]));
    rules.push(rule(
        "anyone",
        &["subscribe"],
        &["send"],
        &["/topic/announcements", "/topic/**.announcements"],
    ));
    rules.push(rule("anyone", &["subscribe", "send"], &[], &["/topic/room-*", "/topic/org.{claim.org}.**"]));
    rules.push(rule("anyone", &["subscribe"], &[], &["/user/{login}/**"]));
    Rules::compile(rules).expect("good rules")
}

/// Somebody with three roles and a claim.
#[derive(Debug)]
pub struct Member {
    roles: Vec<Box<str>>,
    claims: Vec<(Box<str>, Box<str>)>,
}

impl Default for Member {
    fn default() -> Member {
        let roles = ["member", "team-none", "writer"].map(Box::from).into();
        Member { roles, claims: vec![("org".into(), "example".into())] }
    }
}

impl Member {
    /// As rules see this one.
    #[must_use]
    pub fn who(&self) -> Who<'_> {
        Who { login: Some("ann.smith@example.com"), roles: &self.roles, claims: &self.claims }
    }
}

/// A verdict by the rules themselves, for a destination of this text: whether it is allowed.
pub fn verdict(count: usize, key: &str) -> impl FnMut() -> bool {
    let (rules, member, key) = (rules(count), Member::default(), key.to_owned());
    move || rules.may(black_box(member.who()), Action::Send, black_box(&key))
}

/// A verdict that is known.
///
/// # Panics
/// If it is not.
pub fn known_verdict(count: usize) -> impl FnMut() -> bool {
    let (mut authorizer, member) = (Authorizer::new(Arc::new(rules(count)), 7), Member::default());
    let key = "/topic/room-17";
    authorizer.may(17, || member.who(), Action::Send, key);
    move || authorizer.may(black_box(17), || unreachable!("it is known"), Action::Send, black_box(key))
}

/// A verdict that has to be reached and kept, as every place has another's.
pub fn new_verdict(count: usize) -> impl FnMut() -> bool {
    let (mut authorizer, member) = (Authorizer::new(Arc::new(rules(count)), 7), Member::default());
    let mut next = scattered(PRINCIPALS);
    move || authorizer.may(next(), || member.who(), Action::Send, black_box("/topic/room-17"))
}

/// A principal is gone, where all places are taken.
pub fn release() -> impl FnMut() {
    let (mut authorizer, member) = (Authorizer::new(Arc::new(rules(4)), 7), Member::default());
    for principal in 0..PRINCIPALS {
        authorizer.may(principal, || member.who(), Action::Send, "/topic/room-17");
    }
    move || authorizer.release(black_box(u32::MAX))
}

/// What a SEND pays until it may go on: read, its destination read, and the question asked. `count` rules are in force;
/// none means that there is no question.
///
/// # Panics
/// If it is no SEND, or not allowed.
pub fn checked_send(count: Option<usize>) -> impl FnMut() -> usize {
    let rules = count.map(rules).unwrap_or_default();
    let (mut authorizer, member) = (Authorizer::new(Arc::new(rules), 7), Member::default());
    let (bytes, limits) = (send(), limits::Stomp::default());
    move || {
        let Ok(Step::Frame { stomp_frame, consumed }) =
            Decoder::default().decode(black_box(&bytes), Version::V12, &limits)
        else {
            panic!("one frame");
        };
        let text = stomp_frame.header("destination").expect("a destination");
        let destination = Destination::parse_send(&text).expect("a good one");
        assert!(authorizer.may(17, || member.who(), Action::Send, destination.key()));
        consumed
    }
}

/// A text and a pattern that go back as often as can be: a `*` behind a `**`, and segments that nearly match. Of 255 bytes,
/// as a destination may have.
///
/// # Panics
/// If the pattern is none.
pub fn hostile_destination() -> impl FnMut() -> bool {
    let rules =
        Rules::compile(vec![rule("anyone", &["send"], &[], &["/topic/**a*a*a*b"])]).expect("a good rule");
    let key = format!("/topic/{}/{}", "a".repeat(200), "a".repeat(47));
    move || rules.may(Who::default(), Action::Send, black_box(&key))
}
