//! What rules mean, and how mistakes in them are told. Random ones are in `tests/policy/`.

use super::*;

fn list(items: &str) -> Vec<String> {
    items.split_whitespace().map(str::to_owned).collect()
}

fn rule(who: &str, may: &str, deny: &str, destinations: &str) -> Rule {
    Rule { who: list(who), may: list(may), deny: list(deny), destinations: list(destinations) }
}

fn compile(rules: &[Rule]) -> Rules {
    Rules::compile(rules.to_vec()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// A person by a word: a login, or `-`, and roles behind it.
fn ask(rules: &Rules, person: &str, action: Action, key: &str) -> bool {
    let mut words = person.split_whitespace();
    let login = words.next().filter(|login| *login != "-");
    let roles: Vec<Box<str>> = words.map(Box::from).collect();
    rules.may(Who { login, roles: &roles, claims: &[] }, action, key)
}

#[test]
fn without_rules_everything_is_allowed_and_with_them_only_what_they_say() {
    let none = compile(&[]);
    assert!(none.is_empty() && ask(&none, "-", Action::Manage, "/topic/a"));
    let rules = compile(&[rule("login:ann", "send", "", "/topic/a")]);
    for (person, action, key, expected) in [
        ("ann", Action::Send, "/topic/a", true),
        ("bob", Action::Send, "/topic/a", false),
        ("-", Action::Send, "/topic/a", false),
        ("ann", Action::Subscribe, "/topic/a", false),
        ("ann", Action::Send, "/topic/b", false),
    ] {
        assert_eq!(ask(&rules, person, action, key), expected, "{person} {action:?} {key}");
    }
}

#[test]
fn the_first_rule_that_fits_wins() {
    let rules = compile(&[
        rule("login:mallory", "", "subscribe send", "**"),
        rule("role:admin", "send", "", "/topic/announcements"),
        rule("anonymous", "", "send", "**"),
        rule("anyone", "subscribe", "send", "/topic/announcements"),
        rule("anyone", "subscribe send", "", "/topic/**"),
        rule("anyone", "subscribe", "", "/user/{login}/**"),
    ]);
    for (person, action, key, expected) in [
        ("ann", Action::Send, "/topic/announcements", false),
        ("ann", Action::Subscribe, "/topic/announcements", true),
        ("ann admin", Action::Send, "/topic/announcements", true),
        ("mallory admin", Action::Send, "/topic/announcements", false),
        ("mallory", Action::Subscribe, "/topic/x", false),
        ("mallory", Action::Subscribe, "/user/mallory/queue/x", false),
        ("ann", Action::Send, "/topic/x", true),
        ("-", Action::Send, "/topic/x", false),
        ("- admin", Action::Send, "/topic/announcements", true),
        ("-", Action::Subscribe, "/topic/x", true),
        ("ann", Action::Subscribe, "/user/ann/queue/x", true),
        ("ann", Action::Subscribe, "/user/bob/queue/x", false),
        ("ann", Action::Send, "/user/ann/queue/x", false),
        ("-", Action::Subscribe, "/user/-/queue/x", false),
        ("ann", Action::History, "/topic/x", false),
    ] {
        assert_eq!(ask(&rules, person, action, key), expected, "{person} {action:?} {key}");
    }
}

#[test]
fn names_are_compared_whole_and_an_empty_login_is_none() {
    let rules = compile(&[rule("login:b login:a:b role:y role:x:z anonymous", "send", "", "/topic/*")]);
    for (person, expected) in [
        ("b", true),
        ("a:b", true),
        ("a", false),
        ("-", true),
        ("c y", true),
        ("c x:z", true),
        ("c x", false),
        ("anonymous", false),
        ("c q w y", true),
    ] {
        assert_eq!(ask(&rules, person, Action::Send, "/topic/a"), expected, "{person}");
    }
    let nameless = Who { login: Some(""), ..Who::default() };
    assert!(rules.may(nameless, Action::Send, "/topic/a"));
    let rules = compile(&[rule("anyone", "send", "", "/topic/{login}")]);
    assert!(!rules.may(nameless, Action::Send, "/topic/"));
}

#[test]
fn claims_that_rules_name_are_told() {
    let rules = compile(&[
        rule("anyone", "send", "", "/topic/{claim.team}.** /topic/{claim.org}.{claim.team}"),
        rule("anyone", "send", "", "/queue/{claim.team} /queue/{login}"),
    ]);
    assert_eq!(rules.claims().collect::<Vec<_>>(), ["org", "team"]);
    assert_eq!(rules.len(), 2);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let problems = Rules::compile(vec![
        rule("anyone", "send", "", "/topic/a"),
        rule("", "", "", ""),
        rule("everyone login: user:x role:* anyone anyone", "send write", "send", "topic/a /topic/{login}"),
    ])
    .unwrap_err();
    let texts: Vec<_> = problems.iter().map(|problem| (problem.item, problem.to_string())).collect();
    let names = "allowed are \"anyone\", \"anonymous\", \"login:NAME\" and \"role:NAME\"";
    let expected = [
        (None, "rule 2: rules.who: a rule is for somebody".into()),
        (None, "rule 2: rules.may: a rule allows something, or refuses something by \"deny\"".into()),
        (None, "rule 2: rules.where: a rule is about a destination".into()),
        (Some(0), format!("rule 3: rules.who = \"everyone\": {names}")),
        (Some(1), "rule 3: rules.who = \"login:\": a name has at least one character".into()),
        (Some(2), format!("rule 3: rules.who = \"user:x\": {names}")),
        (Some(3), "rule 3: rules.who = \"role:*\": a * stands for nothing in a name".into()),
        (Some(5), "rule 3: rules.who = \"anyone\": it is there twice".into()),
        (Some(1), "rule 3: rules.may = \"write\": allowed are \"subscribe\", \"send\", \"history\"".into()),
        (Some(0), "rule 3: rules.deny = \"send\": it is in \"may\", too".into()),
        (Some(0), "rule 3: rules.where = \"topic/a\": destinations begin with /topic/".to_owned()),
        (
            Some(1),
            "rule 3: rules.where = \"/topic/{login}\": what is refused must not depend on a value".into(),
        ),
    ];
    assert_eq!(texts.len(), expected.len(), "{texts:#?}");
    for ((item, text), (expected_item, expected)) in texts.iter().zip(&expected) {
        assert_eq!(item, expected_item, "{text}");
        assert!(text.starts_with(expected), "{text} / {expected}");
    }
}

#[test]
fn words_and_actions_agree() {
    for (at, action) in Action::ALL.into_iter().enumerate() {
        assert_eq!(action as usize, at);
        assert_eq!(Action::from_word(action.word()), Some(action));
    }
    assert_eq!(Action::from_word("Send"), None);
}
