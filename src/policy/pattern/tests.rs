//! What patterns mean, one line each. Random ones are in `tests/policy/`.

use super::*;

fn who<'a>(login: &'a str, claims: &'a [(Box<str>, Box<str>)]) -> Who<'a> {
    Who { login: (login != "-").then_some(login), roles: &[], claims }
}

fn claims(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn wildcards() {
    for (pattern, key, expected) in [
        ("/topic/a", "/topic/a", true),
        ("/topic/a", "/topic/ab", false),
        ("/topic/a", "/topic/", false),
        ("/topic/a", "/queue/a", false),
        ("/topic/*", "/topic/a.b", true),
        ("/topic/*", "/topic/a/b", false),
        ("/topic/*/b", "/topic/a/b", true),
        ("/topic/*/b", "/topic/a/c/b", false),
        ("/topic/a*", "/topic/a", true),
        ("/topic/a*c*e", "/topic/abcbcde", true),
        ("/topic/a*c*e", "/topic/abcbcdef", false),
        ("/topic/**", "/topic/a/b/c", true),
        ("/topic/a.**", "/topic/a", false),
        ("/topic/a.**", "/topic/a.b/c", true),
        ("/topic/**/c", "/topic/a/b/c", true),
        ("/topic/**/c", "/topic/c", false),
        ("/topic/**c", "/topic/c", true),
        ("/topic/**.secret.**", "/topic/a/b.secret.c/d", true),
        ("/topic/**.secret.**", "/topic/a/b.secret", false),
        // The `*` cannot pass the `/`: the `**` must.
        ("/topic/**a*b", "/topic/xa/yab", true),
        ("/topic/**a*b", "/topic/xa/yb", false),
        ("/topic/**a*/b*c", "/topic/a/a/bxc", true),
        ("/topic/**/*.b", "/topic/a.b/c.b", true),
        ("**", "/queue/x", true),
        ("/**", "/user/a/queue/x", true),
        ("/*/a", "/queue/a", true),
        ("/user/*/queue/x", "/user/a%2Fb/queue/x", true),
        ("/user/ann/**", "/user/ann/queue/x/y", true),
        ("/topic/\u{e9}*", "/topic/\u{e9}\u{e8}", true),
    ] {
        let parsed = RulePattern::parse(pattern).unwrap_or_else(|bad| panic!("{pattern}: {bad}"));
        assert_eq!(parsed.matches(key, &Who::default()), expected, "{pattern} for {key}");
    }
}

#[test]
fn values_are_text_and_a_part_of_one_segment() {
    for (pattern, login, key, expected) in [
        ("/user/{login}/**", "ann", "/user/ann/queue/x", true),
        ("/user/{login}/**", "ann", "/user/anna/queue/x", false),
        ("/user/{login}/**", "ann", "/user/an/queue/x", false),
        ("/user/{login}/**", "Ann", "/user/ann/queue/x", false),
        // Cyrillic, and an accent that is a character of its own.
        ("/user/{login}/**", "\u{430}nn", "/user/ann/queue/x", false),
        ("/user/{login}/**", "e\u{301}", "/user/\u{e9}/queue/x", false),
        ("/user/{login}/**", "-", "/user/-/queue/x", false),
        ("/user/{login}/**", "", "/user//queue/x", false),
        ("/user/{login}/**", "*", "/user/ann/queue/x", false),
        ("/user/{login}/**", "*", "/user/*/queue/x", true),
        ("/user/{login}/**", "**", "/user/ann/queue/x", false),
        ("/user/{login}/**", "{login}", "/user/ann/queue/x", false),
        ("/user/{login}/**", "ann/queue", "/user/ann/queue/x", false),
        ("/user/{login}/**", "ann/queue", "/user/ann%2Fqueue/queue/x", true),
        ("/user/{login}/**", "ann%2Fqueue", "/user/ann%2Fqueue/queue/x", false),
        ("/user/{login}/**", "ann%2Fqueue", "/user/ann%252Fqueue/queue/x", true),
        ("/user/{login}/**", "..", "/user/ann/queue/x", false),
        ("/topic/{login}/**", "a/b", "/topic/a/b/c", false),
        ("/topic/{login}/**", "..", "/topic/../c", true),
        ("/topic/{login}/**", "ann", "/topic/../topic/ann/c", false),
        ("/topic/inbox.{login}", "ann.smith@example.com", "/topic/inbox.ann.smith@example.com", true),
        // Only the text between tells where a value ends.
        ("/topic/{login}.**", "ann", "/topic/ann.smith.x", true),
        ("/topic/{login}.**", "ann.smith", "/topic/ann.smith.x", false),
        ("/topic/{login}/x.*", "ann.smith", "/topic/ann.smith/x.y", true),
        ("/topic/*.{login}", "smith", "/topic/x.ann.smith", true),
        ("/topic/*.{login}", "ann.smith", "/topic/x.ann.smith", false),
        ("/topic/*/{login}", "ann.smith", "/topic/x/ann.smith", true),
        ("/topic/**/{login}", "ann.smith", "/topic/x/y/ann.smith", true),
        ("/topic/{login}\u{e9}*", "a\u{e8}", "/topic/a\u{e8}\u{e9}x", true),
        ("/topic/{login}\u{e9}*", "a\u{e9}", "/topic/a\u{e9}\u{e9}x", false),
        ("/topic/{login}%*", "a/b", "/topic/a%2Fb%x", false),
        ("/topic/{login}F*", "a/b", "/topic/a%2FbFx", false),
        ("/topic/{login}F*", "a%b", "/topic/a%25bFx", true),
        ("/topic/{login}.{login}", "a", "/topic/a.a", true),
        ("/topic/{login}.{login}", "a", "/topic/a.b", false),
    ] {
        let parsed = RulePattern::parse(pattern).unwrap_or_else(|bad| panic!("{pattern}: {bad}"));
        assert_eq!(parsed.matches(key, &who(login, &[])), expected, "{pattern} for {login:?} and {key}");
    }
}

#[test]
fn claims_have_one_value_or_several() {
    let several =
        claims(&[("team", "a"), ("org", "x"), ("team", "b"), ("https://c.example/{", "odd"), ("role", "")]);
    let may =
        |pattern: &str, key: &str| RulePattern::parse(pattern).unwrap().matches(key, &who("ann", &several));
    assert!(may("/topic/{claim.team}.**", "/topic/a.x") && may("/topic/{claim.team}.**", "/topic/b.x"));
    assert!(!may("/topic/{claim.team}.**", "/topic/x.x") && !may("/topic/{claim.none}.**", "/topic/.x"));
    assert!(!may("/topic/{claim.role}.x", "/topic/.x"), "an empty value is none");
    assert!(may("/topic/{claim.org}.{claim.team}.{login}", "/topic/x.b.ann"));
    assert!(!may("/topic/{claim.org}.{claim.team}.{login}", "/topic/a.b.ann"));
    // One value, wherever it is named.
    assert!(may("/topic/{claim.team}/{claim.team}", "/topic/b/b"));
    assert!(!may("/topic/{claim.team}/{claim.team}", "/topic/a/b"));
    assert!(may("/topic/{claim.https://c.example/{}", "/topic/odd"));
    let pattern = RulePattern::parse("/topic/{claim.org}.{claim.team}.{login}.{claim.org}").unwrap();
    assert_eq!(pattern.claims().collect::<Vec<_>>(), ["org", "team"]);
}

#[test]
fn what_is_no_pattern_is_refused() {
    use BadPattern::*;
    for (pattern, expected) in [
        ("", UnknownPrefix),
        ("topic/a", UnknownPrefix),
        ("/topics/**", UnknownPrefix),
        ("/topic", UnknownPrefix),
        ("*", UnknownPrefix),
        ("/topic/", EmptyName),
        ("/queue/", EmptyName),
        ("/user/queue/**", OwnQueue),
        ("/user/queue", OwnQueue),
        ("/user/ann", BadUserForm),
        ("/user/{login}", BadUserForm),
        ("/user//queue/x", BadUserForm),
        ("/user/*/inbox/**", BadUserForm),
        ("/user/*/queue/", BadUserForm),
        ("/user/*/queues/**", BadUserForm),
        ("/user/ann/x**", BadUserForm),
        ("/topic/***", Asterisks),
        ("/topic/a}", Brace),
        ("/topic/{login", Brace),
        ("/topic/{}", UnknownValue),
        ("/topic/{user}", UnknownValue),
        ("/topic/{claim.}", UnknownValue),
        ("/topic/{claim}", UnknownValue),
        ("/topic/{login}.{claim.a}.{claim.b}.{claim.c}.{claim.d}", TooManyValues),
        ("/topic/{login}*", Touching),
        ("/topic/{login}**", Touching),
        ("/topic/*{login}", Touching),
        ("/topic/{login}{claim.a}", Touching),
        ("/topic/{login}{login}", Touching),
        ("/topic/*.{login}.*", BetweenWildcards),
        ("/topic/**/{login}/**", BetweenWildcards),
        ("/topic/**.{login}/*/**", BetweenWildcards),
        ("/topic/a\nb", Control),
    ] {
        assert_eq!(RulePattern::parse(pattern).err(), Some(expected), "{pattern:?}");
    }
    for good in [
        "/user/**",
        "/user/*/queue/*",
        "/user/*/*/x",
        "/user/{login}/q**",
        "/user/a/queue//x",
        "/user/**/x",
        "/us*/x",
        "/topic/**/{login}.*",
        "/topic/{login}.{claim.a}.{claim.b}.{claim.c}",
    ] {
        assert!(RulePattern::parse(good).is_ok(), "{good}");
    }
}
