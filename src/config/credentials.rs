//! The files of `[auth]`: users and keys, read and parsed.
//!
//! What they mean is for [`crate::auth`] to say. Both are read anew by whoever calls; what was in force before stays until
//! then.
//!
//! Invariant: checks are made of files without a mistake; one mistake, and there are none.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::settings::Origin;
use super::{Auth, ConfigError, Problem};
use crate::auth::{Checks, Keys, Mistake, Mode, Terms, Tokens, Users};
use crate::services::auth::without_secrets;

/// Bytes of a file of users, or of keys: some 100,000 users.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads the files of the modes that are in force. `claims` are the names of those that principals are to keep.
///
/// # Errors
/// A file that cannot be read, and everything that is wrong with what is in them, with file and line.
pub fn load(auth: &Auth, claims: &[Box<str>]) -> Result<Checks, ConfigError> {
    let mut problems = Vec::new();
    let mut checks = Checks { claims: claims.into(), ..Checks::default() };
    if let Some(path) = file_of(auth, Mode::Users, auth.users_file.as_deref()) {
        checks.users = parsed(path, &mut problems, |bytes| match str::from_utf8(bytes) {
            Ok(text) => Users::parse(text),
            Err(_) => Err(vec![Mistake { line: 0, text: "not UTF-8".into() }]),
        });
    }
    if let Some(path) = file_of(auth, Mode::Jwt, auth.keys_file.as_deref()) {
        let keys = parsed(path, &mut problems, Keys::parse);
        checks.tokens = keys.map(|keys| Tokens::new(keys, terms(auth, claims)));
    }
    if problems.is_empty() { Ok(checks) } else { Err(ConfigError { problems }) }
}

/// What is in force, for people: one line for each mode and each key, without anything secret.
pub fn describe(auth: &Auth, checks: &Checks) -> String {
    let mut text = String::new();
    let mut line =
        |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes every text");
    for mode in &auth.modes {
        match mode {
            Mode::Open if auth.is_guarded() => {
                line(format_args!("open: whoever says nothing, without a login"))
            }
            Mode::Open => line(format_args!("open: every login, with every passcode")),
            Mode::Http => {
                let url = without_secrets(auth.http_url.as_deref().unwrap_or_default());
                line(format_args!("http: {url} is asked"));
            }
            Mode::Users => {
                let (users, path) = (checks.users.as_ref().map_or(0, Users::count), shown(&auth.users_file));
                line(format_args!("users: {users} of {path}"));
            }
            Mode::Jwt => {
                let Some(tokens) = &checks.tokens else { continue };
                let (keys, path) = (tokens.keys(), shown(&auth.keys_file));
                let (count, terms) = (keys.count(), tokens.terms());
                let noun = if count == 1 { "key" } else { "keys" };
                line(format_args!("jwt: {count} {noun} of {path}; {terms}"));
                for key in keys.to_string().lines() {
                    line(format_args!("  {key}"));
                }
                for why in keys.passed_over() {
                    line(format_args!("  {why}"));
                }
                if auth.audience.is_none() {
                    line(format_args!(
                        "  auth.audience is unset: tokens that were made for other services are accepted, too"
                    ));
                }
            }
        }
    }
    text
}

fn shown(path: &Option<std::path::PathBuf>) -> String {
    path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

fn file_of<'a>(auth: &Auth, mode: Mode, path: Option<&'a Path>) -> Option<&'a Path> {
    path.filter(|_| auth.modes.contains(&mode))
}

fn terms(auth: &Auth, claims: &[Box<str>]) -> Terms {
    Terms {
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        login_claim: auth.login_claim.clone(),
        roles_claim: auth.roles_claim.clone(),
        is_expiry_required: auth.is_token_expiry_required,
        leeway_s: auth.limits.leeway_s,
        token_bytes_max: auth.limits.token_bytes_max as usize,
        claims: claims.into(),
    }
}

/// What is in a file; nothing, and problems, if something is wrong with it.
fn parsed<T>(
    path: &Path,
    problems: &mut Vec<Problem>,
    parse: impl FnOnce(&[u8]) -> Result<T, Vec<Mistake>>,
) -> Option<T> {
    let origin = |line| Origin::File { file: path.to_string_lossy().into(), line };
    match read(path) {
        Ok(bytes) => match parse(&bytes) {
            Ok(read) => return Some(read),
            Err(mistakes) => {
                problems.extend(
                    mistakes.into_iter().map(|Mistake { line, text }| Problem::new(origin(line), text)),
                );
            }
        },
        Err(error) => problems.push(Problem::new(origin(0), error.to_string())),
    }
    None
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{Flag, Sources};

    fn auth(values: &[(&str, &str)]) -> Auth {
        let flag = |(key, value): &(&str, &str)| Flag {
            flag: "--set",
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let sources = Sources { flags: values.iter().map(flag).collect(), ..Sources::default() };
        crate::config::load(&sources).unwrap().0.auth
    }

    #[test]
    fn files_are_those_of_the_modes_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/auth/public.jwks.json");
        std::fs::write(path("users"), crate::auth::users::set("", "alice", "a", None).unwrap()).unwrap();
        let all = auth(&[
            ("auth.mode", "jwt,users,open"),
            ("auth.users_file", &path("users")),
            ("auth.keys_file", keys.to_str().unwrap()),
            ("auth.issuer", "us"),
        ]);
        let checks = load(&all, &[]).unwrap();
        assert_eq!(checks.users.as_ref().unwrap().count(), 1);
        assert_eq!(checks.tokens.as_ref().unwrap().keys().count(), 5);
        let said = describe(&all, &checks);
        let expected = [
            &format!("jwt: 5 keys of {}; issuer \"us\", audience any, ", keys.display()),
            "\n  \"rsa\": RS256, RS384, RS512, PS256, PS384, PS512\n",
            "\n  auth.audience is unset",
            &format!("\nusers: 1 of {}\n", path("users")),
            "\nopen: whoever says nothing",
        ];
        for expected in expected {
            assert!(said.contains(expected), "{said}");
        }
        assert!(!said.contains("argon2"), "{said}");

        let pem = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/auth/ed25519.pub.pem");
        let one = auth(&[("auth.mode", "jwt"), ("auth.keys_file", pem.to_str().unwrap())]);
        let said = describe(&one, &load(&one, &[]).unwrap());
        assert!(said.starts_with(&format!("jwt: 1 key of {}; ", pem.display())), "{said}");

        // Files of modes that are not in force are not looked at.
        let none = auth(&[("auth.mode", "open"), ("auth.users_file", &path("absent"))]);
        let checks = load(&none, &[]).unwrap();
        assert!(checks.users.is_none() && checks.tokens.is_none());
    }

    #[test]
    fn every_problem_has_its_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("users"), "# users\nalice:secret\nbob\n").unwrap();
        let auth = auth(&[
            ("auth.mode", "users,jwt"),
            ("auth.users_file", &path("users")),
            ("auth.keys_file", &path("absent")),
        ]);
        let error = load(&auth, &[]).unwrap_err();
        let lines: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with(&format!("{}:2: the hash of \"alice\"", path("users"))), "{lines:?}");
        assert!(lines[1].starts_with(&format!("{}:3: LOGIN:HASH", path("users"))), "{lines:?}");
        assert!(lines[2].starts_with(&format!("{}: No such file", path("absent"))), "{lines:?}");
        std::fs::write(path("users"), b"\xff").unwrap();
        let error = load(&auth, &[]).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
