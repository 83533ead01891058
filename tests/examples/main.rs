//! The programs in `examples/`, run as their users run them, against the real server.
//!
//! Each is copied into an empty folder, so that it proves to stand by itself. The tests of [`chat`] are the
//! same for all its languages. Nothing of an example is replaced or left out.
//!
//! Invariant: every program in `examples/` is run here. A new folder without a test fails [`every_example_has_a_test`].

#[path = "../support/mod.rs"]
mod support;

mod chat;
mod curl;
mod spring;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Server, peer};
use tempfile::TempDir;

const SECRET: &str = r#"{"keys":[{"kty":"oct","kid":"k","alg":"HS256","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}]}"#;

/// Folders of `examples/` that tests here run.
const TESTED: &[&str] = &["curl", "java", "python", "spring", "stompjs"];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// A copy of one folder of `examples/`, with a file of users and one of keys beside.
struct Example(TempDir);

impl Example {
    fn copy(name: &str) -> Example {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(examples().join(name)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        // What `npm install` makes.
        symlink(peer::clients_dir().join("node_modules"), copy.path().join("node_modules")).unwrap();
        std::fs::write(copy.path().join("keys"), SECRET).unwrap();
        Example(copy)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Adds a user.
    fn passwd(&self, login: &str, password: &str, roles: &[&str]) {
        let users = self.path("users");
        let mut arguments = vec!["passwd", &users, login];
        roles.iter().for_each(|role| arguments.extend(["--role", role]));
        let output = Server::run_saying(&arguments, password);
        assert!(output.status.success(), "{output:?}");
    }

    fn token(&self, login: &str) -> String {
        let output = Server::run(&["token", "--key", &self.path("keys"), "--login", login]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A program of the folder, if what runs it is there.
    fn program(&self, script: &str) -> Option<Command> {
        let mut command = match script.rsplit_once('.').expect("its language").1 {
            "mjs" => {
                peer::node(script, &["@stomp/stompjs", "ws"])?;
                Command::new("node")
            }
            "py" => peer::python_program("python")?,
            "java" => peer::java()?,
            "sh" => Command::new("sh"),
            other => panic!("what runs {other}?"),
        };
        command.arg(script).current_dir(self.0.path());
        Some(command)
    }
}

#[test]
fn every_example_has_a_test() {
    let folders = std::fs::read_dir(examples()).unwrap().map(Result::unwrap);
    let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    let names: BTreeSet<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert_eq!(names, TESTED.iter().map(|name| (*name).to_owned()).collect());
    let readme = std::fs::read_to_string(examples().join("README.md")).unwrap();
    for name in names {
        assert!(readme.contains(&format!("]({name})")), "examples/README.md does not list {name}");
    }
}

#[test]
fn packages_are_those_that_are_tested() {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let packages = |path: PathBuf| {
        let manifest: serde_json::Value = serde_json::from_str(&read(path)).unwrap();
        manifest["dependencies"].as_object().unwrap().clone()
    };
    let tested = packages(peer::clients_dir().join("package.json"));
    for example in ["spring", "stompjs"] {
        for (name, version) in packages(examples().join(example).join("package.json")) {
            assert_eq!(tested.get(&name), Some(&version), "{example}: {name}");
        }
    }
    let tested = read(peer::clients_dir().join("requirements.txt"));
    for line in read(examples().join("python/requirements.txt")).lines() {
        assert!(tested.lines().any(|tested| tested == line), "python: {line}");
    }
}

#[test]
fn java_is_free_of_warnings() {
    let Some(javac) = peer::program("javac") else { return };
    let classes = tempfile::tempdir().unwrap();
    for source in ["java/Chat.java", "spring/Worker.java"] {
        let mut command = Command::new(&javac);
        command.args(["-Xlint:all", "-Werror", "-d"]).arg(classes.path()).arg(examples().join(source));
        peer::run(&mut command, std::time::Duration::from_secs(60));
    }
}
