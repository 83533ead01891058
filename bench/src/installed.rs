//! Servers of others that Debian packages, to measure against: RabbitMQ's web-stomp, and a small broker on Tomcat.
//!
//! Nobody has to have them: what is missing is named with the packages that bring it. Whoever starts one has it to
//! itself: on free ports of 127.0.0.1, in a temporary directory, beside a service that may run from the same package.
//!
//! Invariant: when the value that stands for a running server is gone, so is every process that it started.

pub mod rabbitmq;
pub mod tomcat;

use std::path::Path;

/// A server that comes in packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// RabbitMQ with its plugin `rabbitmq_web_stomp`.
    Rabbitmq,
    /// Tomcat with the broker of `bench/peers/tomcat`.
    Tomcat,
}

impl Installed {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Rabbitmq, Self::Tomcat];

    /// As `--servers` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rabbitmq => "rabbitmq",
            Self::Tomcat => "tomcat",
        }
    }

    /// The Debian packages that it needs.
    pub fn packages(self) -> &'static str {
        match self {
            Self::Rabbitmq => "rabbitmq-server",
            Self::Tomcat => "libtomcat10-java openjdk-17-jdk-headless",
        }
    }

    /// Is all of it on this machine?
    ///
    /// # Errors
    /// What is missing, and the packages that bring it.
    pub fn check(self) -> Result<(), String> {
        self.check_in(Path::new("/"))
    }

    fn check_in(self, root: &Path) -> Result<(), String> {
        let files: Vec<String> = match self {
            Self::Rabbitmq => rabbitmq::FILES.iter().map(|&path| path.to_owned()).collect(),
            Self::Tomcat => tomcat::files().collect(),
        };
        match files.iter().find(|path| !root.join(path.trim_start_matches('/')).exists()) {
            None => Ok(()),
            Some(path) => Err(format!(
                "{}: there is no {path}; on Debian, apt-get install --no-install-recommends {}",
                self.name(),
                self.packages()
            )),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/support/skipped.rs"]
#[allow(dead_code, reason = "this run's list is shown by another target")]
mod skipped;

#[cfg(test)]
mod tests {
    use rustix::event::Timespec;

    use super::*;

    /// Says why a test is left out when the server is not installed; in CI, nothing may be.
    pub fn is_there(server: Installed) -> bool {
        let Err(reason) = server.check() else { return true };
        skipped::note(format_args!("{reason}; .ci/setup installs it"));
        false
    }

    #[test]
    fn what_is_missing_is_named_with_its_packages() {
        let empty = tempfile::tempdir().unwrap();
        for server in Installed::ALL {
            let error = server.check_in(empty.path()).unwrap_err();
            assert!(error.starts_with(&format!("{}: there is no /usr/", server.name())), "{error}");
            assert!(error.ends_with(server.packages()), "{error}");
        }
        // A part of it is not enough.
        for path in rabbitmq::FILES {
            assert!(Installed::Rabbitmq.check_in(empty.path()).unwrap_err().contains(path));
            let path = empty.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(Installed::Rabbitmq.check_in(empty.path()), Ok(()));
    }

    #[test]
    fn tomcat_serves_a_client_that_is_not_ours_and_ends() {
        if !is_there(Installed::Tomcat) {
            return;
        }
        let program = tomcat::Program::compile().unwrap();
        let running = program.start(100).unwrap();
        let url = running.server().url();
        crate::visit::pay(url.trim_start_matches("ws://").trim_end_matches("/ws").parse().unwrap());
        let pid = running.server().pid();
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }

    #[test]
    fn rabbitmq_serves_a_client_that_is_not_ours_and_ends_with_all_that_it_started() {
        if !is_there(Installed::Rabbitmq) {
            return;
        }
        let node = rabbitmq::Node::start().unwrap();
        let command = std::fs::read_to_string(format!("/proc/{}/comm", node.pid())).unwrap();
        assert_eq!(command, "beam.smp\n", "what is measured is the machine, not a shell around it");
        let (mut one, mut two) =
            (crate::visit::Visitor::new(node.address()), crate::visit::Visitor::new(node.address()));
        crate::visit::chat(&mut one, &mut two);
        let processes = node.processes();
        // The machine, the parent of its helpers, and the port mapper at the least.
        assert!(processes.len() >= 3, "{processes:?}");
        drop(node);
        for process in processes {
            assert!(process.has_ended(Timespec::default()), "{process:?} is still there");
        }
    }
}
