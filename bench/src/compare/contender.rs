//! The servers that are compared: how each is chosen and started, and what it is asked.
//!
//! Invariant: every server does a workload's same work; where one cannot, what it does instead is said here and in
//! `docs/lab/comparisons.md`.

use std::process::{Command, ExitStatus};

use super::workload::{self, Workload};
use crate::installed::{Installed, rabbitmq, tomcat};
use crate::process::{Programs, Server};

/// Name of the server that the others are measured against.
pub const FLOOR: &str = "floor";

/// Name of the same server once more: how far its numbers are from the floor's is noise.
pub const FLOOR_AGAIN: &str = "floor-again";

/// Connections that every server must have room for.
const CAPACITY: u32 = 12_000;

/// Servers of this repository, beside the floor.
const OWN: [&str; 3] = ["tcbchat", "axum-lean", "axum-usual"];

/// All names for `--servers`.
pub const NAMES: [&str; 5] = ["tcbchat", "axum-lean", "axum-usual", "rabbitmq", "tomcat"];

/// One server of the comparison.
#[derive(Debug)]
pub struct Contender {
    /// As in `--servers`.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Floor,
    Tcbchat,
    Axum,
    Rabbitmq,
    Tomcat(tomcat::Program),
}

/// The floor and the servers of these names; without names, all of this repository and those that are installed.
///
/// # Errors
/// One that was named is not installed.
pub fn chosen(names: &[String], quick: bool) -> Result<Vec<Contender>, String> {
    let mut all = vec![Contender::of(FLOOR)?, Contender::of(FLOOR_AGAIN)?];
    let own = if quick { &OWN[..1] } else { &OWN[..] };
    for name in NAMES {
        if names.iter().any(|wanted| wanted == name) || (names.is_empty() && own.contains(&name)) {
            all.push(Contender::of(name)?);
        }
    }
    if names.is_empty() && !quick {
        for server in Installed::ALL {
            match server.check() {
                Ok(()) => all.push(Contender::of(server.name())?),
                Err(reason) => eprintln!("left out: {reason}"),
            }
        }
    }
    Ok(all)
}

impl Contender {
    fn of(name: &'static str) -> Result<Self, String> {
        let kind = match name {
            FLOOR | FLOOR_AGAIN => Kind::Floor,
            "tcbchat" => Kind::Tcbchat,
            "rabbitmq" => Installed::Rabbitmq.check().map(|()| Kind::Rabbitmq)?,
            "tomcat" => {
                Installed::Tomcat.check().and_then(|()| tomcat::Program::compile()).map(Kind::Tomcat)?
            }
            _ => Kind::Axum,
        };
        Ok(Self { name, kind })
    }

    /// Is it one of others, whose failure is a result, too?
    pub fn is_installed(&self) -> bool {
        matches!(self.kind, Kind::Rabbitmq | Kind::Tomcat(_))
    }

    /// Does it say how far tcbchat is from the floor, or what of that is noise?
    pub fn is_of_the_question(&self) -> bool {
        matches!(self.kind, Kind::Floor | Kind::Tcbchat)
    }

    /// Does it do this in this round? Those that are installed take long, and take part in the first only; writes that
    /// wait are tcbchat's own, and to measure others twice would say nothing.
    pub fn does(&self, workload: &Workload, round: u32) -> bool {
        !self.is_installed() || (round == 1 && !workload.is_delayed)
    }

    /// What the simulator is told beside the workload's arguments.
    pub fn arguments(&self, workload: &Workload) -> &'static [&'static str] {
        match self.kind {
            // It closes the connection before a client has the receipt of its DISCONNECT.
            Kind::Rabbitmq if workload.name == "churn" => &["--leave", "drop"],
            // Nothing may arrive for seconds while it routes what was sent at once.
            Kind::Rabbitmq => &["--drain", "30"],
            _ => &[],
        }
    }

    /// Does it do everything once before it is measured? Java's code is compiled while it runs.
    pub fn warms_up(&self) -> bool {
        matches!(self.kind, Kind::Tomcat(_))
    }

    /// Starts it, with one thread for its sockets if it lets itself be told.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, programs: &Programs, is_delayed: bool) -> Result<Running, String> {
        let own = || Command::new(&programs.own);
        let mut command = match &self.kind {
            Kind::Rabbitmq => return rabbitmq::Node::start().map(Running::Rabbitmq),
            Kind::Tomcat(program) => return program.start(CAPACITY).map(Running::Tomcat),
            Kind::Tcbchat => {
                let mut command = Command::new(&programs.server);
                command.args(["serve", "--listen", "127.0.0.1:0", "--reactors", "1"]);
                command.args(["--capacity", &CAPACITY.to_string()]);
                if is_delayed {
                    command.args(["--set", workload::FLUSH_DELAY]);
                }
                command
            }
            Kind::Floor => {
                let mut command = own();
                command.arg("floor").args(is_delayed.then_some("--write-per-message"));
                command
            }
            Kind::Axum => {
                let mut command = own();
                command.args(["peer", self.name]);
                command
            }
        };
        Ok(Running::Own(Server::launch(&mut command)?))
    }
}

/// One that serves.
#[derive(Debug)]
pub enum Running {
    /// Of this repository.
    Own(Server),
    /// RabbitMQ.
    Rabbitmq(rabbitmq::Node),
    /// Tomcat.
    Tomcat(tomcat::Running),
}

impl Running {
    /// Its WebSocket endpoint.
    pub fn url(&self) -> String {
        match self {
            Self::Own(server) => server.url(),
            Self::Rabbitmq(node) => format!("ws://{}/ws", node.address()),
            Self::Tomcat(running) => running.server().url(),
        }
    }

    /// How it has ended, if it is ours and has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Own(server) => server.ended(),
            Self::Rabbitmq(_) | Self::Tomcat(_) => None,
        }
    }

    /// The process that does the work.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Own(server) => server.pid(),
            Self::Rabbitmq(node) => node.pid(),
            Self::Tomcat(running) => running.server().pid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(chosen: &[Contender]) -> Vec<&str> {
        chosen.iter().map(|contender| contender.name).collect()
    }

    #[test]
    fn the_floor_is_always_there_and_others_by_name() {
        assert_eq!(
            names(&chosen(&["axum-lean".to_owned()], false).unwrap()),
            [FLOOR, FLOOR_AGAIN, "axum-lean"]
        );
        assert_eq!(names(&chosen(&[], true).unwrap()), [FLOOR, FLOOR_AGAIN, "tcbchat"]);
        let all = chosen(&[], false).unwrap();
        assert_eq!(names(&all)[..5], [FLOOR, FLOOR_AGAIN, "tcbchat", "axum-lean", "axum-usual"]);
        for server in Installed::ALL {
            assert_eq!(names(&all).contains(&server.name()), server.check().is_ok());
            // By name it is there, or it is an error that says how to get it.
            match (chosen(&[server.name().to_owned()], false), server.check()) {
                (Ok(chosen), Ok(())) => assert_eq!(names(&chosen), [FLOOR, FLOOR_AGAIN, server.name()]),
                (Err(error), Err(reason)) => assert_eq!(error, reason),
                (chosen, installed) => panic!("{chosen:?}, {installed:?}"),
            }
        }
    }

    #[test]
    fn what_takes_long_is_done_once() {
        let workloads = workload::chosen(&[], false).unwrap();
        let count = |contender: &Contender, round| {
            workloads.iter().filter(|workload| contender.does(workload, round)).count()
        };
        let own = Contender { name: "tcbchat", kind: Kind::Tcbchat };
        let slow = Contender { name: "rabbitmq", kind: Kind::Rabbitmq };
        assert_eq!((count(&own, 1), count(&own, 2)), (workloads.len(), workloads.len()));
        let delayed = workloads.iter().filter(|workload| workload.is_delayed).count();
        assert_eq!((count(&slow, 1), count(&slow, 2)), (workloads.len() - delayed, 0));
    }
}
