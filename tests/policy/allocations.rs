//! A verdict allocates nothing, whether it is known or not.

use std::sync::Arc;

use tcbchat::policy::{Action, Authorizer, Rule, Rules, Who};

use crate::counting::allocations;

#[test]
fn a_verdict_allocates_nothing() {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    let rules = Rules::compile(vec![
        Rule {
            who: list(&["role:admin", "login:root"]),
            may: list(&["send"]),
            deny: list(&[]),
            destinations: list(&["/topic/announcements", "/topic/**.audit.*"]),
        },
        Rule {
            who: list(&["anyone"]),
            may: list(&["send"]),
            deny: list(&[]),
            destinations: list(&["/topic/{claim.org}.{claim.team}.**", "/user/{login}/**"]),
        },
    ]);
    let rules = rules.expect("good rules");
    let claims: Vec<(Box<str>, Box<str>)> =
        [("team", "a"), ("team", "b"), ("org", "o")].map(|(name, value)| (name.into(), value.into())).into();
    let roles: [Box<str>; 2] = ["member".into(), "writer".into()];
    let who = Who { login: Some("ann/%"), roles: &roles, claims: &claims };
    for (key, expected) in [
        ("/topic/o.b.x/y", true),
        ("/user/ann%2F%25/queue/x", true),
        ("/topic/announcements", false),
        ("/topic/a.audit.b", false),
        ("/queue/x", false),
    ] {
        let counted = allocations(|| assert_eq!(rules.may(who, Action::Send, key), expected, "{key}"));
        assert_eq!(counted, 0, "{key}");
    }

    let mut authorizer = Authorizer::new(Arc::new(rules), 1);
    assert!(allocations(|| assert!(!authorizer.may(1, || who, Action::Send, "/queue/x"))) > 0, "its places");
    let counted = allocations(|| {
        for key in ["/topic/o.b.x/y", "/topic/o.b.x/y", "/user/ann%2F%25/queue/x"] {
            assert!(authorizer.may(1, || who, Action::Send, key));
        }
        authorizer.release(1);
        assert!(authorizer.may(1, || who, Action::Send, "/topic/o.b.x/y"));
    });
    assert_eq!(counted, 0);
}
