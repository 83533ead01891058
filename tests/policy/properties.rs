//! A thousand random sets of rules against the model, and what no login can do.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use tcbchat::message::destination::Destination;
use tcbchat::policy::{Action, Rule, RulePattern, Rules, Who};

use crate::checks::{Case, Person, Tally, check, check_unique, matches, run};

/// Parts of patterns: those of destinations, wildcards and values.
const PARTS: &[&str] = &[
    "a",
    "b",
    ".",
    ".",
    "/",
    "/",
    "\u{e9}",
    "%",
    "2F",
    "*",
    "**",
    "{login}",
    "{login}",
    "{claim.t}",
    "{claim.u}",
];
/// Logins and values of claims: plain ones, and those that look like something else.
const VALUES: &[&str] = &[
    "a",
    "b",
    "a.b",
    ".a",
    "a.",
    "a/b",
    "/",
    "..",
    "../b",
    "*",
    "**",
    "a*",
    "{login}",
    "{claim.t}",
    "%",
    "%2F",
    "a%2Fb",
    "%25",
    "2F",
    "\u{e9}",
    "e\u{301}",
    "\u{430}",
    "",
    " ",
    "a\nb",
    "queue",
    "/user/a",
];
const LOGINS: &[&str] = &["a", "b", "a.b", "a/b", "*", "%2F"];
const ROLES: &[&str] = &["admin", "a", "login:a"];

/// A good pattern, as its parts.
fn parts() -> impl Strategy<Value = Vec<&'static str>> {
    let prefix = prop_oneof![
        8 => Just("/topic/"),
        1 => Just("/queue/"),
        1 => Just("/user/{login}/queue/"),
        1 => Just("/user/*/queue/"),
        1 => Just("/**"),
    ];
    let parts = (prefix, prop::collection::vec(select(PARTS), 1..7)).prop_map(|(prefix, parts)| {
        let mut all = vec![prefix];
        all.extend(parts);
        all
    });
    parts.prop_filter("a pattern", |parts| RulePattern::parse(&parts.concat()).is_ok())
}

fn has_values(pattern: &str) -> bool {
    pattern.contains('{')
}

fn person() -> impl Strategy<Value = Person> {
    let login =
        prop_oneof![1 => Just(None), 5 => select(LOGINS).prop_map(Some), 5 => select(VALUES).prop_map(Some)];
    let claim = (select(&["t", "u", "v"][..]), select(VALUES));
    let roles = prop::collection::vec(select(ROLES), 0..3);
    (login, roles, prop::collection::vec(claim, 0..4)).prop_map(|(login, roles, claims)| Person {
        login: login.map(str::to_owned),
        roles: roles.into_iter().map(Box::from).collect(),
        claims: claims.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let mut subjects = vec!["anyone".to_owned(), "anyone".to_owned(), "anonymous".to_owned()];
    subjects.extend(LOGINS.iter().filter(|login| !login.contains('*')).map(|login| format!("login:{login}")));
    subjects.extend(ROLES.iter().map(|role| format!("role:{role}")));
    let who = prop::collection::btree_set(select(subjects), 1..4);
    let actions = prop::collection::vec(0u8..5, Action::ALL.len());
    (who, actions, prop::collection::vec(parts(), 1..4)).prop_map(|(who, verdicts, patterns)| {
        let words = |wanted: &[u8]| -> Vec<String> {
            let chosen = Action::ALL.iter().zip(&verdicts).filter(|(_, verdict)| wanted.contains(verdict));
            chosen.map(|(action, _)| action.word().to_owned()).collect()
        };
        let patterns: BTreeSet<String> = patterns.iter().map(|parts| parts.concat()).collect();
        let (mut may, mut deny) = (words(&[0, 1]), words(&[2]));
        if patterns.iter().any(|pattern| has_values(pattern)) {
            may.append(&mut deny);
        }
        if may.is_empty() && deny.is_empty() {
            may.push("send".to_owned());
        }
        Rule { who: who.into_iter().collect(), may, deny, destinations: patterns.into_iter().collect() }
    })
}

/// What may stand for a part of a pattern in a destination: what it matches, or nearly.
fn filling() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        3 => select(&["a", "b", ".", "/", "a.b", "a/b", "%", "2F", "\u{e9}", "x"][..]).prop_map(str::to_owned),
        3 => select(VALUES).prop_map(|value| value.replace('%', "%25").replace('/', "%2F")),
        1 => select(VALUES).prop_map(str::to_owned),
    ]
}

/// A destination that is near to one of the patterns: its text, each wildcard and value filled, and now and then a part
/// that is not its own.
fn key_of(parts: &[&str], fillings: &[String], own: &[String], slip: usize) -> String {
    let mut key = String::new();
    for (at, part) in parts.iter().enumerate() {
        let filling = &fillings[at % fillings.len()];
        let is_value = part.starts_with('{') || part.contains("{login}");
        match *part {
            "/user/{login}/queue/" => {
                key.push_str(&format!("/user/{}/queue/", own[at % own.len()]));
            }
            "/user/*/queue/" | "/**" => key.push_str(&part.replace("**", filling).replace('*', filling)),
            "*" | "**" => key.push_str(filling),
            _ if is_value && !own.is_empty() => key.push_str(&own[at % own.len()]),
            _ if is_value || at == slip => key.push_str(filling),
            text => key.push_str(text),
        }
    }
    key
}

fn spelled(value: &str) -> String {
    value.replace('%', "%25").replace('/', "%2F")
}

fn case() -> impl Strategy<Value = Case> {
    let near = (any::<Index>(), any::<Index>(), prop::collection::vec(filling(), 6), 2usize..40);
    let rules = prop_oneof![1 => Just(Vec::new()), 30 => prop::collection::vec(rule(), 1..9)];
    (rules, prop::collection::vec(person(), 1..5), prop::collection::vec((near, parts()), 4..12)).prop_map(
        |(rules, people, wanted)| {
            let mut keys = Vec::new();
            for ((which, whose, fillings, slip), other) in wanted {
                let patterns: Vec<&String> = rules.iter().flat_map(|rule| &rule.destinations).collect();
                let own = &people[whose.index(people.len())];
                let mut values: Vec<String> = own.claims.iter().map(|(_, value)| spelled(value)).collect();
                values.extend(own.login.as_deref().map(spelled));
                values.push("a".to_owned());
                keys.push(key_of(&other, &fillings, &values, slip));
                if !patterns.is_empty() {
                    let pattern = cut(patterns[which.index(patterns.len())]);
                    let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
                    keys.push(key_of(&pattern, &fillings, &values, slip));
                }
            }
            Case { rules, people, keys }
        },
    )
}

/// A pattern's text as parts.
fn cut(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let bytes = match first {
            '{' => rest.find('}').map_or(rest.len(), |end| end + 1),
            '*' if rest.starts_with("**") => 2,
            _ => first.len_utf8(),
        };
        parts.push(rest[..bytes].to_owned());
        rest = &rest[bytes..];
    }
    parts
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, source_file: Some(file!()), ..Config::default() })
}

#[test]
fn a_thousand_sets_of_rules_say_what_the_model_says() {
    let sum = Cell::new(Tally::default());
    let mut runner = runner(1_000);
    let ran = runner.run(&case(), |case| {
        let (tally, mut all) = (check(&case), sum.get());
        all.allowed += tally.allowed;
        all.denied_by_rule += tally.denied_by_rule;
        all.unmatched += tally.unmatched;
        sum.set(all);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    // Each answer was asked for, and not by luck.
    let Tally { allowed, denied_by_rule, unmatched } = sum.get();
    let asked = allowed + denied_by_rule + unmatched;
    println!(
        "{asked} asked: {allowed} allowed, {denied_by_rule} denied by a rule, {unmatched} matched by none"
    );
    assert!(allowed > asked / 50 && denied_by_rule > asked / 200 && unmatched > asked / 4, "{:?}", sum.get());
}

#[test]
fn a_destination_belongs_to_one_login_and_one_value_of_each_claim() {
    let found = Cell::new(0);
    let values = prop::collection::vec(filling(), 1..4);
    let strategy = (parts(), prop::collection::vec(filling(), 6), values, person());
    let strategy = strategy.prop_filter("values", |(parts, ..)| has_values(&parts.concat()));
    let ran = runner(2_000).run(&strategy, |(parts, fillings, values, person)| {
        let key = key_of(&parts, &fillings, &values, 99);
        found.set(found.get() + check_unique(&parts.concat(), &key, &person));
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    assert!(found.get() > 100, "{} had an owner", found.get());
}

/// Not only each by itself: no destination is one pair's and another pair's.
#[test]
fn a_destination_belongs_to_one_pair_of_values() {
    let found = Cell::new(0);
    let text = |parts| prop::collection::vec(select(parts), 0..3).prop_map(|parts: Vec<&str>| parts.concat());
    let around = || text(&["a", ".", ".", "/", "*", "**"][..]);
    let pattern = (around(), around(), around())
        .prop_map(|(a, b, c)| format!("/topic/{a}{{login}}{b}{{claim.t}}{c}"))
        .prop_filter("a pattern", |pattern| RulePattern::parse(pattern).is_ok());
    let fillings = prop::collection::vec(text(&["a", "b", ".", "/"][..]), 6);
    let ran = runner(1_500).run(&(pattern, fillings), |(pattern, fillings)| {
        let compiled = RulePattern::parse(&pattern).expect("it was chosen so");
        let parts = cut(&pattern);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let key = key_of(&parts, &fillings, &["a".to_owned(), "b".to_owned(), "a.b".to_owned()], 99);
        let ends = |from| (from + 1..=key.len()).map(move |to| (from, to));
        let values: BTreeSet<&str> = (7..key.len()).flat_map(ends).map(|(from, to)| &key[from..to]).collect();
        let mut owners = Vec::new();
        for login in &values {
            for team in &values {
                let claims = [(Box::from("t"), Box::from(*team))];
                if compiled.matches(&key, &Who { login: Some(login), roles: &[], claims: &claims }) {
                    owners.push((*login, *team));
                }
            }
        }
        found.set(found.get() + owners.len());
        prop_assert!(owners.len() <= 1, "{} has {} for {:?}", pattern, key, owners);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    assert!(found.get() > 500, "{} had an owner", found.get());
}

proptest! {
    #![proptest_config(Config::with_cases(1_000))]

    /// As the server spells destinations: what a login subscribes to is its own, and nobody else's.
    #[test]
    fn a_login_has_its_own_user_destinations_and_no_other(
        login in prop_oneof![select(VALUES).prop_map(str::to_owned), "\\PC{1,12}", "[a-c./%*{}]{1,6}"],
        other in prop_oneof![select(VALUES).prop_map(str::to_owned), "\\PC{1,12}", "[a-c./%*{}]{1,6}"],
        name in "[a-z./%*]{1,8}",
    ) {
        prop_assume!(!login.is_empty() && !other.is_empty());
        let rule = Rule {
            who: vec!["anyone".into()],
            may: vec!["subscribe".into()],
            destinations: vec!["/user/{login}/**".into()],
            ..Rule::default()
        };
        let rules = Rules::compile(vec![rule]).unwrap();
        let subscribed = format!("/user/queue/{name}");
        let own = Destination::parse_subscribe(&subscribed, Some(&login)).unwrap();
        let who = |login| Who { login: Some(login), ..Who::default() };
        prop_assert!(rules.may(who(&login), Action::Subscribe, own.key()));
        prop_assert_eq!(rules.may(who(&other), Action::Subscribe, own.key()), other == login);
        prop_assert!(!rules.may(Who::default(), Action::Subscribe, own.key()));
        // Nor by another spelling of it.
        if let Ok(sent) = Destination::parse_send(&own.key().replace("%2F", "%2f")) {
            prop_assert!(rules.may(who(&login), Action::Subscribe, sent.key()));
        }
    }

    /// Wildcards alone, with more of them than people write.
    #[test]
    fn wildcards_are_as_the_model_has_them(
        pattern in prop::collection::vec(select(&["a", "b", "/", "/", "*", "**"][..]), 0..12),
        text in prop::collection::vec(select(&["a", "a", "b", "/"][..]), 0..24),
    ) {
        let pattern = format!("/topic/x{}", pattern.concat());
        let key = format!("/topic/x{}", text.concat());
        prop_assume!(!pattern.contains("***"));
        let compiled = RulePattern::parse(&pattern).unwrap();
        prop_assert_eq!(compiled.matches(&key, &Who::default()), matches(&pattern, &key, &Person::default()));
    }

    /// What is no text of rules, or nearly.
    #[test]
    fn any_text_is_taken_or_refused(
        lines in prop::collection::vec((select(&["r", "w", "m", "d", "p", "p", "l", "o", "c", "k", "-", ""][..]), prop_oneof![
            3 => "\\PC{0,12}",
            3 => prop::collection::vec(select(PARTS), 0..5).prop_map(|parts| format!("/topic/{}", parts.concat())),
            2 => select(&["anyone", "login:a", "role:b", "send", "subscribe", "t=a", "u=b"][..]).prop_map(str::to_owned),
        ]), 0..30)
    ) {
        let text: Vec<String> = lines.into_iter().map(|(what, rest)| format!("{what}{rest}")).collect();
        run(text.join("\n").as_bytes());
    }
}
