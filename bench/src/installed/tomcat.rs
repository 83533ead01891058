//! A STOMP broker for rooms on Debian's Tomcat, of our own source in `bench/peers/tomcat`.
//!
//! It is compiled once for all runs. The virtual machine has its defaults, which on one core are one thread that
//! collects garbage, and at most a quarter of the memory.
//!
//! Invariant: nothing is written outside of temporary directories.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::Server;

/// Where Debian's packages put Java libraries.
const LIBRARIES: &str = "/usr/share/java";
/// Those that an embedded Tomcat with WebSocket needs.
const TOMCAT: [&str; 13] = [
    "annotations-api",
    "api",
    "catalina",
    "coyote",
    "jaspic-api",
    "jni",
    "juli",
    "servlet-api",
    "util",
    "util-scan",
    "websocket",
    "websocket-api",
    "websocket-client-api",
];
const COMPILER: &str = "/usr/bin/javac";
const MACHINE: &str = "/usr/bin/java";
/// The class that serves.
const CLASS: &str = "StompServer";
const SOURCE: &str = include_str!("../../peers/tomcat/StompServer.java");

/// All that has to be there.
pub fn files() -> impl Iterator<Item = String> {
    [COMPILER, MACHINE].map(str::to_owned).into_iter().chain(libraries())
}

fn libraries() -> impl Iterator<Item = String> {
    TOMCAT.iter().map(|name| format!("{LIBRARIES}/tomcat10-{name}.jar"))
}

/// The broker, ready to be started.
#[derive(Debug)]
pub struct Program {
    classes: TempDir,
}

impl Program {
    /// Compiles it.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile() -> Result<Self, String> {
        let problem = |error: std::io::Error| format!("tomcat: {error}");
        let classes = tempfile::tempdir().map_err(problem)?;
        let source = classes.path().join(format!("{CLASS}.java"));
        std::fs::write(&source, SOURCE).map_err(problem)?;
        let output = Command::new(COMPILER)
            .args(["-Xlint:all", "-Werror", "-classpath", &class_path(None), "-d"])
            .arg(classes.path())
            .arg(&source)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{COMPILER}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{COMPILER}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Self { classes })
    }

    /// Starts it on a free port.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, connections_max: u32) -> Result<Running, String> {
        let directory = tempfile::tempdir().map_err(|error| format!("tomcat: {error}"))?;
        let server = Server::launch(
            Command::new(MACHINE)
                .args(["-classpath", &class_path(Some(self.classes.path())), CLASS, "0"])
                .arg(connections_max.to_string())
                .arg(directory.path()),
        )?;
        Ok(Running { server, _directory: directory })
    }
}

fn class_path(classes: Option<&Path>) -> String {
    let own = classes.map(|path| path.display().to_string());
    own.into_iter().chain(libraries()).collect::<Vec<_>>().join(":")
}

/// One that serves.
#[derive(Debug)]
pub struct Running {
    server: Server,
    /// Tomcat's own; it outlives the process.
    _directory: TempDir,
}

impl Running {
    /// Its process.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
