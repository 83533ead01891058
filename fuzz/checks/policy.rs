//! What must hold of rules and patterns for every input, and a plain model of them. Shared by the fuzz target, the replay
//! of its corpus and the property tests.
//!
//! The model reads a pattern character by character, writes the values into it, and tries everything. It knows no pieces,
//! no order of trying and no index.
//!
//! Invariant: these functions panic exactly when the rules are compiled or applied wrongly.

use std::collections::HashSet;

use tcbchat::policy::{Action, Field, Rule, RulePattern, Rules, Who};

/// Somebody, with nothing borrowed.
#[derive(Debug, Clone, Default)]
pub struct Person {
    pub login: Option<String>,
    pub roles: Vec<Box<str>>,
    pub claims: Vec<(Box<str>, Box<str>)>,
}

impl Person {
    pub fn who(&self) -> Who<'_> {
        Who { login: self.login.as_deref(), roles: &self.roles, claims: &self.claims }
    }

    /// The values of `login` or `claim.NAME`.
    fn values(&self, name: &str) -> Vec<&str> {
        let all: Vec<&str> = match name.strip_prefix("claim.") {
            None => self.login.as_deref().into_iter().collect(),
            Some(claim) => {
                self.claims.iter().filter(|(name, _)| **name == *claim).map(|(_, value)| &**value).collect()
            }
        };
        all.into_iter().filter(|value| !value.is_empty()).collect()
    }
}

/// Rules, people, and destinations to ask for.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub rules: Vec<Rule>,
    pub people: Vec<Person>,
    pub keys: Vec<String>,
}

/// How often a case had each answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub allowed: u64,
    pub denied_by_rule: u64,
    pub unmatched: u64,
}

/// One input of the fuzzer: lines, of which the first character says what they are.
pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let case = read(text);
        check(&case);
        for pattern in case.rules.iter().flat_map(|rule| &rule.destinations) {
            for key in case.keys.iter().filter(|key| key.len() <= 40) {
                check_unique(pattern, key, &case.people.first().cloned().unwrap_or_default());
            }
        }
    }
}

/// `r` begins a rule, which `w` (who), `m` (may), `d` (deny) and `p` (pattern) fill; `l` begins somebody, by a login,
/// whom `o` gives a role and `c` a claim (`name=value`); `-` begins somebody anonymous; `k` is a destination.
pub fn read(text: &str) -> Case {
    let mut case = Case::default();
    for line in text.lines() {
        let mut characters = line.chars();
        let Some(what) = characters.next() else { continue };
        let rest = characters.as_str();
        match what {
            'r' => case.rules.push(Rule::default()),
            'w' | 'm' | 'd' | 'p' => {
                let field = Field::ALL["wmdp".find(what).expect("one of them")];
                if let Some(rule) = case.rules.last_mut() {
                    rule.list_mut(field).push(rest.to_owned());
                }
            }
            'l' => case.people.push(Person { login: Some(rest.to_owned()), ..Person::default() }),
            '-' => case.people.push(Person::default()),
            'o' | 'c' => {
                if let Some(person) = case.people.last_mut() {
                    match rest.split_once('=') {
                        Some((name, value)) if what == 'c' => person.claims.push((name.into(), value.into())),
                        _ => person.roles.push(rest.into()),
                    }
                }
            }
            'k' => case.keys.push(rest.to_owned()),
            _ => {}
        }
    }
    case
}

/// Everybody may do what the model says, or each problem names an item that is there.
pub fn check(case: &Case) -> Tally {
    let mut tally = Tally::default();
    let rules = match Rules::compile(case.rules.clone()) {
        Ok(rules) => rules,
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let list = case.rules[problem.rule].list(problem.field);
                match problem.item {
                    Some(item) => assert!(problem.text.contains(&format!("{:?}", list[item]))),
                    None => assert!(list.is_empty()),
                }
                assert!(problem.text.starts_with(&format!("rules.{}", problem.field.name())));
            }
            return tally;
        }
    };
    assert_eq!(rules.len(), case.rules.len());
    for person in &case.people {
        for action in Action::ALL {
            for key in &case.keys {
                let expected = decide(&case.rules, person, action, key);
                assert_eq!(
                    rules.may(person.who(), action, key),
                    expected.unwrap_or(rules.is_empty()),
                    "{person:?} {action:?} {key:?}"
                );
                match expected {
                    Some(true) => tally.allowed += 1,
                    Some(false) => tally.denied_by_rule += 1,
                    None => tally.unmatched += 1,
                }
            }
        }
    }
    tally
}

/// What the first rule says that fits: every subject with every pattern.
fn decide(rules: &[Rule], person: &Person, action: Action, key: &str) -> Option<bool> {
    for rule in rules {
        let is_said = |words: &[String]| words.iter().any(|word| word == action.word());
        if !is_said(&rule.may) && !is_said(&rule.deny) {
            continue;
        }
        for subject in &rule.who {
            for pattern in &rule.destinations {
                if is_subject(subject, person) && matches(pattern, key, person) {
                    return Some(is_said(&rule.may));
                }
            }
        }
    }
    None
}

fn is_subject(subject: &str, person: &Person) -> bool {
    let login = person.login.as_deref().unwrap_or_default();
    match subject {
        "anyone" => true,
        "anonymous" => login.is_empty(),
        _ => {
            subject.strip_prefix("login:").is_some_and(|name| name == login)
                || subject
                    .strip_prefix("role:")
                    .is_some_and(|name| person.roles.iter().any(|role| **role == *name))
        }
    }
}

/// A character of a pattern, or what stands for characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Token {
    Character(char),
    Part,
    All,
    Value(String),
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let (token, bytes) = if rest.starts_with("**") {
            (Token::All, 2)
        } else if first == '*' {
            (Token::Part, 1)
        } else if first == '{' {
            let end = rest.find('}').expect("a good pattern");
            (Token::Value(rest[1..end].to_owned()), end + 1)
        } else {
            (Token::Character(first), first.len_utf8())
        };
        tokens.push(token);
        rest = &rest[bytes..];
    }
    tokens
}

fn spelled(value: &str) -> String {
    value.replace('%', "%25").replace('/', "%2F")
}

/// The model of a match: for some choice of values, which are written into the pattern one name after the other.
pub fn matches(pattern: &str, key: &str, person: &Person) -> bool {
    let key: Vec<char> = key.chars().collect();
    let tokens = tokens(pattern);
    let mut choices = vec![tokens.clone()];
    while let Some(Token::Value(name)) = choices
        .first()
        .and_then(|tokens| tokens.iter().find(|token| matches!(token, Token::Value(_))))
        .cloned()
    {
        let mut more = Vec::new();
        for chosen in choices {
            for value in person.values(&name) {
                let value = spelled(value);
                if !is_ambiguous(&tokens, &name, &value) {
                    let written = |token: &Token| match token {
                        Token::Value(other) if *other == name => {
                            value.chars().map(Token::Character).collect()
                        }
                        other => vec![other.clone()],
                    };
                    more.push(chosen.iter().flat_map(written).collect::<Vec<_>>());
                }
            }
        }
        choices = more;
    }
    choices.iter().any(|tokens| is_match(tokens, &key, &mut HashSet::new()))
}

/// Whether the character next to the value, towards what varies in its segment, is in it: before it if there is a wildcard,
/// behind it otherwise.
fn is_ambiguous(tokens: &[Token], name: &str, value: &str) -> bool {
    let slash = Token::Character('/');
    let is_it = |token: &Token| matches!(token, Token::Value(other) if other == name);
    (0..tokens.len()).filter(|at| is_it(&tokens[*at])).any(|at| {
        let begin = tokens[..at].iter().rposition(|token| *token == slash).map_or(0, |slash| slash + 1);
        let end =
            tokens[at..].iter().position(|token| *token == slash).map_or(tokens.len(), |slash| at + slash);
        let is_wild = tokens[begin..at].iter().any(|token| matches!(token, Token::Part | Token::All));
        let varies = tokens[at + 1..end].iter().any(|token| !matches!(token, Token::Character(_)));
        let beside = match (is_wild, varies) {
            (true, _) => &tokens[at - 1],
            (false, true) => &tokens[at + 1],
            (false, false) => return false,
        };
        matches!(beside, Token::Character(character) if value.contains(*character))
    })
}

/// Tries everything; `failed` are the ends that were tried before.
fn is_match(tokens: &[Token], text: &[char], failed: &mut HashSet<(usize, usize)>) -> bool {
    let ends = (tokens.len(), text.len());
    if failed.contains(&ends) {
        return false;
    }
    let is_it = match tokens.first() {
        None => text.is_empty(),
        Some(Token::Character(character)) => {
            text.first() == Some(character) && is_match(&tokens[1..], &text[1..], failed)
        }
        Some(wildcard) => {
            let takes = text.first().is_some_and(|next| *wildcard == Token::All || *next != '/');
            is_match(&tokens[1..], text, failed) || (takes && is_match(tokens, &text[1..], failed))
        }
    };
    if !is_it {
        failed.insert(ends);
    }
    is_it
}

/// A destination belongs to one login at most, and to one value of each claim: all parts of it are tried. Returns how many
/// have it: one or none.
pub fn check_unique(pattern: &str, key: &str, person: &Person) -> usize {
    let Ok(compiled) = RulePattern::parse(pattern) else { return 0 };
    let names: Vec<String> = tokens(pattern)
        .into_iter()
        .filter_map(|token| if let Token::Value(name) = token { Some(name) } else { None })
        .collect();
    let Some(name) = names.first() else { return 0 };
    let ends: Vec<usize> = key.char_indices().map(|(at, _)| at).chain([key.len()]).collect();
    let mut having = HashSet::new();
    for (at, from) in ends.iter().enumerate() {
        for to in &ends[at + 1..] {
            let value = key[*from..*to].replace("%2F", "/").replace("%25", "%");
            let mut other = person.clone();
            match name.strip_prefix("claim.") {
                None => other.login = Some(value.clone()),
                Some(claim) => {
                    other.claims.retain(|(name, _)| **name != *claim);
                    other.claims.push((claim.into(), value.as_str().into()));
                }
            }
            if compiled.matches(key, &other.who()) {
                having.insert(value);
            }
        }
    }
    assert!(having.len() <= 1, "{pattern} has {key} for {having:?}");
    having.len()
}
