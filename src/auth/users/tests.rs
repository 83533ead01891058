use std::cell::RefCell;
use std::net::Ipv4Addr;

use argon2::Params;
use argon2::password_hash::CustomizedPasswordHasher;
use proptest::prelude::*;

use super::*;

/// A hash that costs as little as can be.
fn cheap(password: &str, params: (u32, u32, u32)) -> String {
    let params = Params::new(params.0, params.1, params.2, None).unwrap();
    let argon2 = Argon2::default();
    let hash = argon2.hash_password_customized(password.as_bytes(), b"0123456789abcdef", None, None, params);
    hash.unwrap().to_string()
}

fn said(login: Option<&str>, passcode: Option<&str>) -> Credentials {
    Credentials {
        login: login.map(Into::into),
        passcode: passcode.map(Into::into),
        token: None,
        headers: [].into(),
        address: Some(Ipv4Addr::LOCALHOST.into()),
    }
}

fn mistakes(text: &str) -> Vec<String> {
    Users::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_password_is_checked_and_roles_come_from_the_file() {
    let users = format!(
        "# comment\n\nalice:{}:staff,admin,staff\r\n  bob:{}  \n",
        cheap("a", (8, 1, 1)),
        cheap("b:c", (16, 2, 2))
    );
    let users = Users::parse(&users).unwrap();
    assert_eq!(users.count(), 2);
    let accepted = |login: &str, roles: &[&str]| {
        let principal = Principal::new(login, roles.iter().map(|role| Box::from(*role)), []);
        Verdict::Accepted(Accepted { principal, expires_s: None })
    };
    let cases = [
        (Some("alice"), Some("a"), accepted("alice", &["admin", "staff"])),
        (Some("bob"), Some("b:c"), accepted("bob", &[])),
        (Some("bob"), Some("a"), Verdict::Refused(Refusal::WRONG)),
        (Some("bob"), Some(""), Verdict::Refused(Refusal::WRONG)),
        (Some("bob"), None, Verdict::Refused(Refusal::MISSING)),
        (Some("Alice"), Some("a"), Verdict::NotMine),
        (Some("alice "), Some("a"), Verdict::NotMine),
        (Some("# comment"), Some("a"), Verdict::NotMine),
        (Some(""), Some(""), Verdict::NotMine),
        (Some("eve"), None, Verdict::NotMine),
        (None, Some("a"), Verdict::NotMine),
        (None, None, Verdict::NotMine),
    ];
    for (login, passcode, expected) in cases {
        assert_eq!(users.verify(&said(login, passcode)), expected, "{login:?} {passcode:?}");
    }
}

#[test]
fn an_unknown_login_costs_what_a_wrong_password_costs() {
    let text = format!("alice:{}\nbob:{}\n", cheap("a", (8, 1, 1)), cheap("b", (24, 3, 2)));
    let users = Users::parse(&text).unwrap();
    let costs = RefCell::new(Vec::new());
    let verify = |login: &str| {
        users.verify_by(&said(Some(login), Some("x")), |hash, passcode| {
            let output = hash.hash.as_ref().unwrap().as_ref().len();
            costs.borrow_mut().push((hash.params.to_string(), hash.salt.map(|salt| salt.len()), output));
            Argon2::default().verify_password(passcode.as_bytes(), hash)
        })
    };
    let _ = (verify("alice"), verify("bob"));
    let known = costs.take();
    assert_eq!(known.len(), 2);
    let mut seen = [0; 2];
    for at in 0..64 {
        let login = format!("nobody-{at}");
        assert_eq!(verify(&login), Verdict::NotMine);
        assert_eq!(verify(&login), Verdict::NotMine);
        let unknown = costs.take();
        assert_eq!(unknown.len(), 2, "one hashing each");
        assert_eq!(unknown[0], unknown[1], "the same login costs the same");
        let which = known.iter().position(|cost| *cost == unknown[0]).expect("a cost that users have");
        seen[which] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    // To the client they are the same, too, when no other mode is asked.
    let of_unknown = Refusal::of_no_mode(&said(Some("nobody"), Some("x")));
    assert_eq!(verify("alice"), Verdict::Refused(of_unknown));
}

#[test]
fn a_decoy_is_nobodys_password() {
    let hash = cheap("a", (8, 1, 1));
    let users = Users::parse(&format!("alice:{hash}\n")).unwrap();
    assert_eq!(users.verify(&said(Some("eve"), Some("a"))), Verdict::NotMine);
    assert_ne!(users.decoys[0].hash, PasswordHash::new(&hash).unwrap().hash);
}

#[test]
fn without_memory_for_a_hashing_nothing_is_said_of_the_password() {
    let users = Users::parse(&format!("alice:{}\n", cheap("a", (8, 1, 1)))).unwrap();
    let none = |_: &PasswordHash, _: &str| Err(password_hash::Error::OutOfMemory);
    let verdict = users.verify_by(&said(Some("alice"), Some("a")), none);
    assert_eq!(verdict, Verdict::Refused(Refusal::Busy));
    let verdict = users.verify_by(&said(Some("eve"), Some("a")), none);
    assert_eq!(verdict, Verdict::NotMine);
}

#[test]
fn what_is_no_user_is_told_with_its_line_and_without_the_hash() {
    let good = cheap("a", (8, 1, 1));
    let cases = [
        ("alice".into(), "line 1: LOGIN:HASH or LOGIN:HASH:ROLE,ROLE is needed"),
        ("\n\nalice:secret".into(), "line 3: the hash of \"alice\": an argon2id hash"),
        (format!("alice:{good}\nalice:{good}"), "line 2: \"alice\" is there twice"),
        (format!(":{good}"), "line 1: the login \"\": it is empty"),
        (format!("a\u{7}:{good}"), "line 1: the login \"a\\u{7}\": control characters"),
        (format!("{}:{good}", "x".repeat(256)), "line 1: the login has 256 bytes; 255 are permitted"),
        (format!("alice:{good}:a b"), "line 1: the roles of \"alice\": \"a b\": a role has no white space"),
        (format!("alice:{good}:a,,b"), "line 1: the roles of \"alice\": a role has 1 to 64 bytes"),
        (format!("alice:{good}:a:b"), "line 1: \"alice\": nothing may follow the roles"),
        (format!("alice:{}", good.replace("argon2id", "argon2i")), "an argon2id hash"),
        (format!("alice:{}", good.replace("v=19", "v=16")), "argon2 version 19 is needed"),
        (format!("alice:{}", good.replace("$v=19", "")), "argon2 version 19 is needed"),
        (format!("alice:{}", good.replace("m=8", "m=131073")), "m (memory in KiB) = 131073: at most 131072"),
        (format!("alice:{}", good.replace("t=1", "t=17")), "t (passes) = 17: at most 16"),
        (format!("alice:{}", good.replace("m=8,t=1,p=1", "m=256,t=1,p=17")), "p (lanes) = 17: at most 16"),
        (format!("alice:{}", good.replace("m=8", "m=4")), "its parameters"),
        (format!("alice:{}", good.rsplit_once('$').unwrap().0), "an argon2id hash"),
    ];
    for (text, expected) in cases {
        let found = mistakes(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains(expected), "{text}: {found:?}");
        assert!(!found[0].contains("secret") && !found[0].contains("MDEyMzQ1"), "{found:?}");
    }
    assert_eq!(mistakes(&"x\n".repeat(100)).len(), 16);
}

#[test]
fn nobody_is_known_in_an_empty_file() {
    let users = Users::parse("# nobody yet\n").unwrap();
    assert_eq!(users.verify(&said(Some("alice"), Some("a"))), Verdict::NotMine);
}

#[test]
fn passwords_are_set_changed_and_removed_among_comments() {
    let text = set("# staff\n\n", "alice", "one", Some(&["admin".into(), "staff".into()])).unwrap();
    let text = set(&text, "bob", "two", None).unwrap();
    let text = set(&(text + "# the end"), "alice", "three", None).unwrap();
    assert!(text.starts_with("# staff\n\nalice:$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
    assert!(text.lines().nth(2).unwrap().ends_with(":admin,staff"), "roles are kept: {text}");
    assert!(text.ends_with("\n# the end\n"), "{text}");
    let users = Users::parse(&text).unwrap();
    assert!(matches!(users.verify(&said(Some("alice"), Some("three"))), Verdict::Accepted(_)));
    assert_eq!(users.verify(&said(Some("alice"), Some("one"))), Verdict::Refused(Refusal::WRONG));

    let text = remove(&text, "alice").unwrap().unwrap();
    assert!(!text.contains("alice") && text.contains("bob:") && text.contains("# the end"), "{text}");
    assert_eq!(remove(&text, "alice"), Ok(None));
    assert!(remove("broken", "alice").is_err() && set("broken", "alice", "a", None).is_err());
    for (login, password) in [("a:b", "x"), ("a\n", "x"), ("", "x"), ("#a", "x"), (" a", "x"), ("a", "")] {
        assert!(set("", login, password, None).is_err(), "{login:?} {password:?}");
    }
    for role in ["", "a,b c", "a:b", "a\n"] {
        assert!(set("", "alice", "x", Some(&[role.into()])).is_err(), "{role:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "([a-c#]{0,2}:?(\\$argon2id\\$v=19\\$m=8,t=1,p=1\\$[A-Za-z0-9+/$=]{0,40})?:?[,a]{0,3}\n?){0,4}") {
        if let Ok(users) = Users::parse(&text) {
            prop_assert!(users.count() <= text.lines().count());
        }
    }

    #[test]
    fn an_entry_reads_back_as_itself(
        login in "[^:\\p{Cc}]{1,20}",
        roles in prop::collection::vec("[a-z]{1,5}", 0..4),
    ) {
        prop_assume!(check_login(&login).is_ok());
        let hash = PasswordHash::new(&cheap("a", (8, 1, 1))).unwrap();
        let roles: Vec<Box<str>> = roles.into_iter().map(Into::into).collect();
        let entry = Entry { login: login.into(), hash, roles };
        prop_assert_eq!(Entry::parse(&entry.to_string()), Ok(Some(entry)));
    }
}
