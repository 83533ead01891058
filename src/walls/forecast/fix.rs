//! What moves a wall: the exact command, and what makes it stay.
//!
//! Invariant: the value in a command is one with which the wall is no longer in the way; a test carries the
//! commands out on recorded trees.

use crate::config::plan::DoesNotFit;
use crate::config::procfs::{Controller, Version};

/// What moves a wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// Commands that move it at once.
    pub now: Vec<String>,
    /// Where it is written so that it stays moved.
    pub stay: Vec<Stay>,
}

/// Lines of a file that make a value stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// The file, and what has to be done for it to be read where that is not obvious.
    pub file: String,
    /// What to write into it.
    pub lines: Vec<String>,
}

/// Rounded up, so that what else needs a little of it does not make the wall the next one.
pub(super) fn roomy(value: u64) -> u64 {
    value.checked_next_multiple_of(1024).unwrap_or(value)
}

impl Fix {
    /// A kernel setting.
    pub(super) fn sysctl(name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        let word = if value.contains(' ') { format!("\"{value}\"") } else { value.clone() };
        Self {
            now: vec![format!("sysctl -w {name}={word}")],
            stay: vec![Stay {
                file: "/etc/sysctl.d/60-tcbchat.conf".into(),
                lines: vec![format!("{name} = {value}")],
            }],
        }
    }

    /// A limit of processes: descriptors or threads.
    pub(super) fn process_limit(resource: &str, property: &str, value: u64) -> Self {
        Self {
            now: vec![format!("prlimit --pid $$ --{resource}={value}:{value}")],
            stay: vec![unit_lines("tcbchat.service", &[format!("{property}={value}")])],
        }
    }

    /// A procfs that is not hidden.
    pub(super) fn visible_proc() -> Self {
        Self {
            now: vec!["mount -t proc proc /proc".into()],
            stay: vec![Stay {
                file: "the definition of the container or sandbox that hides it".into(),
                lines: vec![
                    "docker: --security-opt systempaths=unconfined".into(),
                    "systemd: ProcSubset=all".into(),
                ],
            }],
        }
    }

    /// A key of this server's configuration; `flag` is what can be typed for it, if there is something.
    pub(super) fn key(section: &str, name: &str, value: u64, flag: Option<&str>) -> Self {
        let now = match flag {
            Some(flag) => format!("tcbchat serve {flag} {value}"),
            None => {
                let variable = format!("TCBCHAT_{section}_{name}").to_uppercase();
                format!("{variable}={value} tcbchat serve")
            }
        };
        Self {
            now: vec![now],
            stay: vec![Stay {
                file: "/etc/tcbchat/tcbchat.toml".into(),
                lines: vec![format!("[{section}]"), format!("{name} = {value}")],
            }],
        }
    }

    /// A limit of a control group.
    pub(super) fn group(directory: &str, version: Version, controller: Controller, value: u64) -> Self {
        let (property, docker, compose) = match controller {
            Controller::Memory => {
                ("MemoryMax", format!("--memory={value} --memory-swap={value}"), "mem_limit")
            }
            Controller::Pids => ("TasksMax", format!("--pids-limit={value}"), "pids_limit"),
        };
        let unit = directory.rsplit('/').next().unwrap_or_default();
        let is_unit = [".service", ".scope", ".slice"].iter().any(|suffix| unit.ends_with(suffix));
        let root = match version {
            Version::V1 => 4,
            Version::V2 => 3,
        };
        if is_unit {
            Self {
                now: vec![format!("systemctl set-property --runtime {unit} {property}={value}")],
                stay: vec![unit_lines(unit, &[format!("{property}={value}")])],
            }
        } else if directory.split('/').filter(|part| !part.is_empty()).count() <= root {
            // The root of what can be seen has a limit: this is the inside of a container.
            Self {
                now: vec![format!("docker update {docker} CONTAINER    # on the host")],
                stay: vec![Stay {
                    file: "compose.yaml (in Kubernetes: resources.limits of the pod)".into(),
                    lines: vec![format!("{compose}: {value}")],
                }],
            }
        } else {
            let [file, _] = controller.files(version);
            Self {
                now: vec![format!("echo {value} > {directory}/{file}")],
                stay: vec![Stay {
                    file: format!("the configuration of whatever made {directory}"),
                    lines: vec![format!("{file} = {value}")],
                }],
            }
        }
    }

    /// Both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.now.extend(other.now);
        self.stay.extend(other.stay);
        self
    }
}

/// What makes descriptors hold a capacity that they do not.
pub(super) fn descriptors(error: &DoesNotFit, nr_open: Option<u64>) -> Fix {
    match (error.reactors_needed, nr_open) {
        (Some(reactors), _) => Fix::key("reactors", "count", u64::from(reactors), Some("--reactors")),
        (None, nr_open) => {
            let limit = Fix::process_limit("nofile", "LimitNOFILE", error.fd_limit_needed);
            match nr_open {
                Some(most) if most < error.fd_limit_needed => {
                    Fix::sysctl("fs.nr_open", error.fd_limit_needed).and(limit)
                }
                _ => limit,
            }
        }
    }
}

fn unit_lines(unit: &str, lines: &[String]) -> Stay {
    let kind = match unit.rsplit('.').next() {
        Some("slice") => "[Slice]",
        Some("scope") => "[Scope]",
        _ => "[Service]",
    };
    Stay {
        file: format!("/etc/systemd/system/{unit}.d/60-tcbchat.conf (then systemctl daemon-reload)"),
        lines: [&[kind.to_owned()], lines].concat(),
    }
}
