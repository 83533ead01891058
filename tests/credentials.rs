//! `tcbchat passwd`, `token` and `check` as an operator runs them: the real binary, files, a terminal.
//!
//! What a server does with the files is not asked here; what they mean to it is, by the library.
//!
//! Invariant: no password is in anything that a command prints.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tcbchat::auth::{Credentials, Keys, Refusal, Terms, Tokens, Users, Verdict};

const PASSWORD: &str = "correct horse: battery staple";

fn tcbchat(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcbchat"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TCBCHAT_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Runs a command with this on its standard input.
fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = tcbchat(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that reads nothing may be gone already.
    drop(child.stdin.take().expect("it is a pipe").write_all(input.as_bytes()));
    child.wait_with_output().expect("it ends")
}

/// Standard output of a command that must succeed.
fn succeed(arguments: &[&str], input: &str) -> String {
    let output = run(arguments, input);
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    stdout
}

/// Standard error of a command that must fail, with this exit code.
fn refused(arguments: &[&str], input: &str, code: i32) -> String {
    let output = run(arguments, input);
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    assert!(!stderr.contains(PASSWORD), "{stderr}");
    stderr
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn said(login: &str, passcode: &str) -> Credentials {
    Credentials {
        login: Some(login.into()),
        passcode: Some(passcode.into()),
        token: None,
        headers: [].into(),
        address: Some(Ipv4Addr::LOCALHOST.into()),
    }
}

fn roles_of(file: &str, login: &str, password: &str) -> Option<Vec<String>> {
    let users = Users::parse(&fs::read_to_string(file).unwrap()).unwrap();
    match users.verify(&said(login, password)) {
        Verdict::Accepted(accepted) => {
            Some(accepted.principal.roles.iter().map(|role| role.to_string()).collect())
        }
        _ => None,
    }
}

fn key(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/auth").join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn users_are_added_changed_and_removed_by_scripts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let file = path.to_str().unwrap();
    assert_eq!(
        succeed(&["passwd", file, "alice", "--role", "b", "--role", "a"], &format!("{PASSWORD}\n")),
        "alice: added\n"
    );
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(roles_of(file, "alice", PASSWORD), Some(vec!["a".into(), "b".into()]));

    // What an operator has added by hand stays.
    let text = format!("# staff\n{}# the end", fs::read_to_string(file).unwrap());
    fs::write(file, text).unwrap();
    assert_eq!(succeed(&["passwd", file, "bob"], "without a line's end"), "bob: added\n");
    assert_eq!(succeed(&["passwd", file, "alice"], "another\r\n"), "alice: changed\n");
    let text = fs::read_to_string(file).unwrap();
    assert!(
        text.starts_with("# staff\nalice:$argon2id$") && text.contains("\n# the end\nbob:$argon2id$"),
        "{text}"
    );
    assert_eq!(roles_of(file, "alice", "another"), Some(vec!["a".into(), "b".into()]));
    assert_eq!(roles_of(file, "alice", PASSWORD), None);
    assert_eq!(roles_of(file, "bob", "without a line's end"), Some(Vec::new()));

    assert_eq!(succeed(&["passwd", file, "alice", "--role", "c"], "another"), "alice: changed\n");
    assert_eq!(roles_of(file, "alice", "another"), Some(vec!["c".into()]));
    assert_eq!(succeed(&["passwd", file, "alice", "--delete"], ""), "alice: removed\n");
    assert!(!fs::read_to_string(file).unwrap().contains("alice"));
    let why = refused(&["passwd", file, "alice", "--delete"], "", 1);
    assert!(why.contains("\"alice\" is not in it"), "{why}");
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn owner_and_mode_stay_and_a_link_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    fs::write(&real, "# users\n").unwrap();
    fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
    symlink("real", &link).unwrap();
    // Only root can give a file away; others see their own stay.
    let owner = match chown(&real, Some(12_345), Some(23_456)) {
        Ok(()) => (12_345, 23_456),
        Err(_) => {
            let metadata = fs::metadata(&real).unwrap();
            (metadata.uid(), metadata.gid())
        }
    };
    let before = fs::metadata(&real).unwrap().ino();
    succeed(&["passwd", link.to_str().unwrap(), "alice"], PASSWORD);
    let after = fs::metadata(&real).unwrap();
    assert_ne!(after.ino(), before, "it is another file, which took its place");
    assert_eq!((after.uid(), after.gid()), owner);
    assert_eq!(after.permissions().mode() & 0o777, 0o640, "its group is whom the server runs as");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().starts_with("# users\nalice:"));
}

#[test]
fn what_cannot_be_a_user_leaves_the_file_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let file = path.to_str().unwrap();
    succeed(&["passwd", file, "alice"], PASSWORD);
    let before = fs::read_to_string(file).unwrap();
    for (login, expected) in [
        ("a:b", "a colon would end it"),
        ("a\nb", "control characters are not permitted"),
        ("a\u{1b}[31m", "control characters are not permitted"),
        ("", "it is empty"),
        ("#a", "a # would make it a comment"),
        (" a", "white space around it"),
    ] {
        let why = refused(&["passwd", file, login], PASSWORD, 2);
        assert!(why.contains(expected), "{login:?}: {why}");
    }
    for (input, expected) in [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("two\nlines\n", "one line without control characters is needed"),
        (&"x".repeat(1_025), "it has more than 1024 bytes"),
    ] {
        let why = refused(&["passwd", file, "alice"], input, 2);
        assert!(why.contains("the password: ") && why.contains(expected), "{why}");
    }
    let why = refused(&["passwd", file, "bob", "--role", "a b"], PASSWORD, 1);
    assert!(why.contains("a role has no white space"), "{why}");
    assert_eq!(fs::read_to_string(file).unwrap(), before);

    fs::write(file, "alice:secret\n").unwrap();
    let why = refused(&["passwd", file, "bob"], PASSWORD, 1);
    assert!(
        why.contains(&format!("{file}: line 1: the hash of \"alice\"")) && !why.contains("secret"),
        "{why}"
    );
    assert_eq!(fs::read_to_string(file).unwrap(), "alice:secret\n");
    let nowhere = directory.path().join("no/such/users");
    let why = refused(&["passwd", nowhere.to_str().unwrap(), "bob"], PASSWORD, 1);
    assert!(why.contains("No such file"), "{why}");
}

#[test]
fn two_who_change_the_file_at_once_both_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let file = path.to_str().unwrap();
    std::thread::scope(|scope| {
        for at in 0..8 {
            scope.spawn(move || succeed(&["passwd", file, &format!("user-{at}")], PASSWORD));
        }
    });
    assert_eq!(Users::parse(&fs::read_to_string(file).unwrap()).unwrap().count(), 8);
}

/// Runs `passwd` on a terminal, answers its prompts, and gives all that the terminal showed and whether it succeeded.
fn on_a_terminal(file: &str, answers: &[&str]) -> (String, bool) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let other_end = fs::OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let ends = || Stdio::from(other_end.try_clone().unwrap());
    let mut child =
        tcbchat(&["passwd", file, "alice"]).stdin(ends()).stdout(ends()).stderr(ends()).spawn().unwrap();
    // From here on the child has it alone, and reading ends with the child.
    drop(other_end);
    let terminal = fs::File::from(terminal);
    let mut shown = String::new();
    let read = |shown: &mut String| {
        let mut bytes = [0; 1024];
        // EIO: the other end is closed.
        let count = (&terminal).read(&mut bytes).unwrap_or(0);
        shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count
    };
    for (at, answer) in answers.iter().enumerate() {
        while shown.matches(": ").count() <= at {
            assert_ne!(read(&mut shown), 0, "{shown}");
        }
        (&terminal).write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    while read(&mut shown) > 0 {}
    (shown, child.wait().unwrap().success())
}

#[test]
fn a_terminal_is_asked_twice_and_does_not_show_the_password() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    let file = path.to_str().unwrap();
    let (shown, is_done) = on_a_terminal(file, &[PASSWORD, PASSWORD]);
    assert_eq!(shown, "Password of alice: \r\nOnce more: \r\nalice: added\r\n");
    assert!(is_done);
    assert_eq!(roles_of(file, "alice", PASSWORD), Some(Vec::new()));

    let (shown, is_done) = on_a_terminal(file, &["one", "other"]);
    assert!(shown.ends_with("tcbchat: the password: the two differ\r\n") && !is_done, "{shown}");
    assert_eq!(roles_of(file, "alice", PASSWORD), Some(Vec::new()));
}

/// What a server with these keys and terms says of a token at this moment.
fn verdict(keys: &str, terms: Terms, token: &str) -> Verdict {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let keys = Keys::parse(&fs::read(key(keys)).unwrap()).unwrap();
    Tokens::new(keys, terms).verify(&said("", token), now_s)
}

#[test]
fn tokens_of_every_kind_of_key_are_good_at_a_server_that_has_the_public_part() {
    let pairs = [
        ("ed25519.pem", "ed25519.pub.pem"),
        ("p256.pem", "p256.pub.pem"),
        ("p256.sec1.pem", "p256.pub.pem"),
        ("p384.pem", "p384.pub.pem"),
        ("rsa.pem", "rsa.pub.pem"),
        ("rsa.pkcs1.pem", "rsa.pkcs1.pub.pem"),
    ];
    for (private, public) in pairs {
        let token = succeed(&["token", "--key", &key(private), "--login", "alice"], "");
        let Verdict::Accepted(accepted) = verdict(public, Terms::default(), token.trim_end()) else {
            panic!("{private}: {token}")
        };
        assert_eq!(&*accepted.principal.login, "alice");
    }
    for kid in ["rsa", "p256", "p384", "ed25519", "hs"] {
        let arguments = ["token", "--key", &key("private.jwks.json"), "--kid", kid, "--login", "alice"];
        let token = succeed(&arguments, "");
        let verdict = verdict("public.jwks.json", Terms::default(), token.trim_end());
        assert!(matches!(verdict, Verdict::Accepted(_)), "{kid}: {verdict:?}");
    }
}

#[test]
fn a_token_says_what_it_was_told_to() {
    let (key, kid) = (key("ed25519.pem"), "ed25519");
    let base = ["token", "--key", &key, "--kid", kid, "--login", "alice"];
    let made = |more: &[&str]| succeed(&[&base, more].concat(), "").trim_end().to_owned();
    let terms = || Terms { issuer: Some("us".into()), audience: Some("chat".into()), ..Terms::default() };
    let all = ["--role", "b", "--role", "a", "--expires-in", "60s", "--audience", "chat", "--issuer", "us"];
    let Verdict::Accepted(accepted) = verdict("public.jwks.json", terms(), &made(&all)) else { panic!() };
    let roles: Vec<&str> = accepted.principal.roles.iter().map(|role| &**role).collect();
    assert_eq!(roles, ["a", "b"]);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let left_s = accepted.expires_s.unwrap() - now_s;
    assert!((30..=60).contains(&left_s), "{left_s}");

    let wrong: &[&[&str]] = &[&["--audience", "mail", "--issuer", "us"], &["--audience", "chat"], &[]];
    for more in wrong {
        let verdict = verdict("public.jwks.json", terms(), &made(more));
        assert!(matches!(verdict, Verdict::Refused(Refusal::NotAuthenticated(_))), "{more:?}: {verdict:?}");
    }
    for stale in ["-1s", "0s", "-1d"] {
        let verdict = verdict("public.jwks.json", Terms::default(), &made(&["--expires-in", stale]));
        assert_eq!(verdict, Verdict::Refused(Refusal::Expired), "{stale}");
    }
}

#[test]
fn a_key_that_cannot_sign_is_told_with_its_file() {
    for (name, more, expected) in [
        ("ed25519.pub.pem", &[][..], "there is no private key in it"),
        ("public.jwks.json", &["--kid", "rsa"], "line 3: key 1: it has no \"d\""),
        ("private.jwks.json", &["--kid", "x"], "there is no key with the kid \"x\""),
        ("absent", &[], "No such file"),
    ] {
        let path = key(name);
        let why = refused(&[&["token", "--key", &path, "--login", "alice"], more].concat(), "", 1);
        assert!(why.contains(&path) && why.contains(expected), "{why}");
    }
    let why = refused(&["token", "--key", "x", "--login", "alice", "--expires-in", "60"], "", 2);
    assert!(why.contains("a number with s, m, h or d is needed"), "{why}");
}

#[test]
fn check_shows_who_may_connect_and_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (users, configuration) = (path("users"), path("tcbchat.toml"));
    succeed(&["passwd", &users, "alice"], PASSWORD);
    let keys = key("public.jwks.json");
    let text = format!(
        "[auth]\nmode = [\"jwt\", \"users\"]\nusers_file = \"{users}\"\nkeys_file = \"{keys}\"\naudience = \"chat\"\n"
    );
    fs::write(&configuration, text).unwrap();
    let shown = succeed(&["check", "--config", &configuration], "");
    for expected in [
        "mode = [\"jwt\", \"users\"]\n",
        &format!(
            "\n# Who may connect:\n#   jwt: 5 keys of {keys}; issuer any, audience \"chat\", login from \"sub\""
        ),
        "\n#     \"ed25519\": EdDSA\n",
        &format!("\n#   users: 1 of {users}\n"),
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
    assert!(!shown.contains("$argon2id") && !shown.contains("alice"), "{shown}");
    // What is shown can be read back.
    let again = path("again.toml");
    fs::write(&again, shown).unwrap();
    succeed(&["check", "--config", &again], "");

    let set = |value: &str| ["check", "--config", &configuration, "--set", value].map(str::to_owned);
    let refused = |value: &str| {
        let arguments = set(value);
        refused(&arguments.each_ref().map(String::as_str), "", 2)
    };
    fs::write(path("broken"), "# users\nalice\n").unwrap();
    let why = refused(&format!("auth.users_file={}", path("broken")));
    assert!(why.contains(&format!("{}:2: LOGIN:HASH", path("broken"))), "{why}");
    let why = refused(&format!("auth.keys_file={}", key("rsa.pem")));
    assert!(why.contains(&format!("{}:1: PRIVATE KEY: it is a private key", key("rsa.pem"))), "{why}");
    let why = refused(&format!("auth.keys_file={}", path("absent")));
    assert!(why.contains(&format!("{}: No such file", path("absent"))), "{why}");
    // A mode that is not used has no say, and one word is a list of one.
    succeed(&set("auth.mode=users").each_ref().map(String::as_str), "");
    let why = refused("auth.mode=users,users");
    assert!(why.contains("auth.mode: \"users\" is there twice"), "{why}");
}

#[test]
fn a_mode_without_its_file_is_named() {
    for (mode, file) in [("users", "auth.users_file"), ("jwt", "auth.keys_file")] {
        let why = refused(&["check", "--set", &format!("auth.mode={mode}")], "", 2);
        assert!(why.contains(&format!("auth.mode has \"{mode}\", and {file} is unset")), "{why}");
    }
}
