//! Who may do what where: rules, compiled at the start, and the verdicts that they give.
//!
//! The first rule that names who asks, the action and the destination decides. Where there are rules, what none of them
//! names is refused; where there are none, everything is allowed. A rule lists actions that it allows (`may`) and actions
//! that it refuses (`deny`), so that an exception can stand before what it is one from.
//!
//! [`Rules`] are the same for all shards and never change. An [`Authorizer`] has those in force on one shard and remembers
//! verdicts. Who somebody is, is not found out here, and nobody is told of a refusal. Configuration is read elsewhere, too.
//!
//! Invariant: a text that a user may choose (login, value of a claim, destination) is only ever compared, never read as a
//! pattern.

mod authorizer;
pub mod bans;
mod cache;
pub mod destinations;
mod pattern;

use std::collections::BTreeSet;
use std::fmt;

pub use authorizer::{Authorizer, NOBODY};
pub use pattern::{BadPattern, RulePattern, VALUES_MAX};

/// What somebody wants to do with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Get its messages.
    Subscribe,
    /// Publish to it.
    Send,
    /// Read messages from before the subscription.
    History,
    /// See who is there.
    Presence,
    /// Have a say over others in it.
    Manage,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 5] =
        [Action::Subscribe, Action::Send, Action::History, Action::Presence, Action::Manage];

    /// As rules write it.
    pub fn word(self) -> &'static str {
        match self {
            Action::Subscribe => "subscribe",
            Action::Send => "send",
            Action::History => "history",
            Action::Presence => "presence",
            Action::Manage => "manage",
        }
    }

    /// The action of a word.
    pub fn from_word(word: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.word() == word)
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Who<'a> {
    /// The login; `None`, or an empty one, of somebody anonymous.
    pub login: Option<&'a str>,
    /// The roles, in any order.
    pub roles: &'a [Box<str>],
    /// Names and values of claims. A name that is there twice has several values.
    pub claims: &'a [(Box<str>, Box<str>)],
}

/// A rule as it is written: four lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// `anyone`, `anonymous`, `login:NAME`, `role:NAME`: whom the rule is for, if it is any of them.
    pub who: Vec<String>,
    /// Words of actions that are allowed.
    pub may: Vec<String>,
    /// Words of actions that are refused.
    pub deny: Vec<String>,
    /// Patterns of destinations, as [`RulePattern::parse`] reads them.
    pub destinations: Vec<String>,
}

/// A list of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// [`Rule::who`].
    Who,
    /// [`Rule::may`].
    May,
    /// [`Rule::deny`].
    Deny,
    /// [`Rule::destinations`].
    Where,
}

impl Field {
    /// All of them, in the order in which rules are written.
    pub const ALL: [Field; 4] = [Field::Who, Field::May, Field::Deny, Field::Where];

    /// The name of the list in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Field::Who => "who",
            Field::May => "may",
            Field::Deny => "deny",
            Field::Where => "where",
        }
    }
}

impl Rule {
    /// A list by its name.
    pub fn list(&self, field: Field) -> &[String] {
        match field {
            Field::Who => &self.who,
            Field::May => &self.may,
            Field::Deny => &self.deny,
            Field::Where => &self.destinations,
        }
    }

    /// A list by its name, to be written.
    pub fn list_mut(&mut self, field: Field) -> &mut Vec<String> {
        match field {
            Field::Who => &mut self.who,
            Field::May => &mut self.may,
            Field::Deny => &mut self.deny,
            Field::Where => &mut self.destinations,
        }
    }
}

/// One thing that is wrong with a list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which rule, from 0.
    pub rule: usize,
    /// Which of its lists.
    pub field: Field,
    /// Which item of the list, from 0; `None` if it is the list as a whole.
    pub item: Option<usize>,
    /// The key, the item, and what is wrong with it.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}: {}", self.rule + 1, self.text)
    }
}

/// Compiled rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Box<[Compiled]>,
    /// For each action the rules that name it, in their order.
    by_action: [Box<[Entry]>; Action::ALL.len()],
    /// Sorted, none twice.
    claims: Box<[Box<str>]>,
}

/// A rule that names an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    rule: u32,
    is_allowed: bool,
}

/// Whom a rule is for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Compiled {
    subjects: Subjects,
    patterns: Box<[RulePattern]>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Subjects {
    anyone: bool,
    anonymous: bool,
    /// Sorted.
    logins: Vec<Box<str>>,
    /// Sorted.
    roles: Vec<Box<str>>,
}

impl Rules {
    /// Compiles rules, the first of which wins.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn compile(rules: Vec<Rule>) -> Result<Rules, Vec<Problem>> {
        let mut compiler = Compiler::default();
        for (at, rule) in rules.iter().enumerate() {
            compiler.add(at, rule);
        }
        compiler.finish()
    }

    /// Whether somebody may do this with the destination that has this canonical text
    /// ([`Destination::key`](crate::message::destination::Destination::key)).
    pub fn may(&self, who: Who<'_>, action: Action, key: &str) -> bool {
        if self.is_empty() {
            return true;
        }
        let who = Who { login: who.login.filter(|login| !login.is_empty()), ..who };
        let concerns = |entry: &&Entry| self.rules[entry.rule as usize].concerns(&who, key);
        self.by_action[action as usize].iter().find(concerns).is_some_and(|entry| entry.is_allowed)
    }

    /// Whether there are none, so that everything is allowed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Names of the claims that rules ask for, sorted. No other claim has any effect.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.claims.iter().map(|name| &**name)
    }
}

impl Compiled {
    fn concerns(&self, who: &Who<'_>, key: &str) -> bool {
        // The begin of a destination costs less to compare than names, and tells most rules apart.
        let mut near = self.patterns.iter().filter(|pattern| pattern.may_match(key)).peekable();
        near.peek().is_some() && self.subjects.include(who) && near.any(|pattern| pattern.matches(key, who))
    }
}

impl Subjects {
    fn include(&self, who: &Who<'_>) -> bool {
        let is_in =
            |names: &[Box<str>], name: &str| names.binary_search_by(|other| (**other).cmp(name)).is_ok();
        self.anyone
            || who.login.map_or(self.anonymous, |login| is_in(&self.logins, login))
            || who.roles.iter().any(|role| is_in(&self.roles, role))
    }
}

/// Rules so far, and what is wrong with them.
#[derive(Default)]
struct Compiler {
    rules: Vec<Compiled>,
    by_action: [Vec<Entry>; Action::ALL.len()],
    claims: BTreeSet<Box<str>>,
    problems: Vec<Problem>,
}

impl Compiler {
    fn add(&mut self, at: usize, rule: &Rule) {
        let first = self.problems.len();
        self.check_lists(at, rule);
        let mut subjects = Subjects::default();
        self.each(at, rule, Field::Who, |_, subject| subjects.add(subject));
        let mut patterns = Vec::new();
        self.each(at, rule, Field::Where, |_, text| {
            let pattern = RulePattern::parse(text).map_err(|bad| bad.to_string())?;
            if pattern.has_values() && !rule.deny.is_empty() {
                return Err(
                    "what is refused must not depend on a value: who lacks it would not be refused".into()
                );
            }
            patterns.push(pattern);
            Ok(())
        });
        let rule_index = self.rules.len() as u32;
        for (field, is_allowed) in [(Field::May, true), (Field::Deny, false)] {
            self.each(at, rule, field, |compiler, word| {
                let action = Action::from_word(word).ok_or_else(|| {
                    let words = Action::ALL.map(|action| format!("\"{}\"", action.word()));
                    format!("allowed are {}", words.join(", "))
                })?;
                if !is_allowed && rule.may.iter().any(|allowed| allowed == word) {
                    return Err("it is in \"may\", too".into());
                }
                compiler.by_action[action as usize].push(Entry { rule: rule_index, is_allowed });
                Ok(())
            });
        }
        // The lists of problems read as the rule does.
        self.problems[first..].sort_by_key(|problem| (problem.field as usize, problem.item));
        subjects.logins.sort_unstable();
        subjects.roles.sort_unstable();
        self.claims.extend(patterns.iter().flat_map(RulePattern::claims).map(Box::from));
        self.rules.push(Compiled { subjects, patterns: patterns.into() });
    }

    /// What a rule must have.
    fn check_lists(&mut self, at: usize, rule: &Rule) {
        for (field, text) in [
            (
                Field::Who,
                "a rule is for somebody: \"anyone\", \"anonymous\", \"login:NAME\" or \"role:NAME\"",
            ),
            (Field::Where, "a rule is about a destination, such as \"/topic/**\""),
        ] {
            if rule.list(field).is_empty() {
                self.note(at, field, None, format!("rules.{}: {text}", field.name()));
            }
        }
        if rule.may.is_empty() && rule.deny.is_empty() {
            let text = "rules.may: a rule allows something, or refuses something by \"deny\"";
            self.note(at, Field::May, None, text.into());
        }
    }

    /// Reads each item of a list; notes those that cannot be read, or are there twice.
    fn each<'a>(
        &mut self,
        at: usize,
        rule: &'a Rule,
        field: Field,
        mut read: impl FnMut(&mut Compiler, &'a str) -> Result<(), String>,
    ) {
        let list = rule.list(field);
        for (item, text) in list.iter().enumerate() {
            let read =
                if list[..item].contains(text) { Err("it is there twice".into()) } else { read(self, text) };
            if let Err(reason) = read {
                self.note(at, field, Some(item), format!("rules.{} = {text:?}: {reason}", field.name()));
            }
        }
    }

    fn note(&mut self, rule: usize, field: Field, item: Option<usize>, text: String) {
        self.problems.push(Problem { rule, field, item, text });
    }

    fn finish(self) -> Result<Rules, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        Ok(Rules {
            rules: self.rules.into(),
            by_action: self.by_action.map(Vec::into_boxed_slice),
            claims: self.claims.into_iter().collect(),
        })
    }
}

impl Subjects {
    fn add(&mut self, subject: &str) -> Result<(), String> {
        match subject.split_once(':') {
            None if subject == "anyone" => self.anyone = true,
            None if subject == "anonymous" => self.anonymous = true,
            Some(("login" | "role", name)) if name.contains('*') => {
                return Err("a * stands for nothing in a name; \"anyone\" is everybody".into());
            }
            Some((_, name)) if name.is_empty() || name.contains(char::is_control) => {
                return Err("a name has at least one character, and no control characters".into());
            }
            Some(("login", name)) => self.logins.push(name.into()),
            Some(("role", name)) => self.roles.push(name.into()),
            _ => return Err("allowed are \"anyone\", \"anonymous\", \"login:NAME\" and \"role:NAME\"".into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
