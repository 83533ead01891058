//! Counting the instructions of one function of a process, with valgrind's callgrind.
//!
//! Counting is switched on where [`counted`] begins and off where it ends, by the name of that function; set-up and
//! warm-up are walked and not counted. Each path has a process of its own, so that no count depends on what
//! another path has left in the allocator.
//!
//! What makes a count the same everywhere: valgrind shows a program the same processor on every machine that has
//! AVX2, so the C library and `memchr` choose the same code, and the environment is empty. Invariant: a count of
//! nothing is an error.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::paths::Path;
use super::version;

/// Rounds of the work. Its name is what callgrind looks for, so it must be a function of its own.
#[inline(never)]
pub fn counted(rounds: u32, work: &mut dyn FnMut()) {
    for _ in 0..rounds {
        work();
    }
}

/// How callgrind finds [`counted`], whatever the mangling puts around its name.
const COUNTED: &str = "--toggle-collect=*guard::callgrind::counted*";

/// valgrind, and this program as what it runs.
#[derive(Debug)]
pub struct Callgrind {
    version: String,
    own: PathBuf,
}

impl Callgrind {
    /// The installed one.
    ///
    /// # Errors
    /// Why nothing can be counted here.
    pub fn find() -> Result<Callgrind, String> {
        if cfg!(debug_assertions) {
            return Err("instructions are counted in optimised builds only (cargo run --release)".to_owned());
        }
        let version = version("valgrind").ok_or("valgrind is not installed; .ci/setup installs it")?;
        let own = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
        Ok(Callgrind { version, own })
    }

    /// What valgrind says of its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The instructions of all rounds of each path; as many paths at once as there are processors.
    ///
    /// # Errors
    /// One cannot be counted.
    pub fn count(&self, paths: &[&Path]) -> Result<Vec<u64>, String> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut counts = Vec::new();
            while let Some((number, path)) =
                Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, paths.get(n)?)))
            {
                counts.push((number, self.count_one(path)?));
            }
            Ok(counts)
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let counts: Result<Vec<Vec<(usize, u64)>>, String> = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().expect("counting does not panic")).collect()
        });
        let mut counts = counts?.concat();
        counts.sort_unstable();
        Ok(counts.into_iter().map(|(_, count)| count).collect())
    }

    fn count_one(&self, path: &Path) -> Result<u64, String> {
        let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
        let profile = directory.path().join("profile");
        let mut out = OsString::from("--callgrind-out-file=");
        out.push(&profile);
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", COUNTED])
            .arg(out)
            .arg(&self.own)
            .args(["guard-path", path.name])
            .env_clear()
            // valgrind itself is looked for in it.
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} under valgrind: {}\n{said}", path.name, output.status));
        }
        let profile =
            std::fs::read_to_string(&profile).map_err(|error| format!("{}: {error}", profile.display()))?;
        total(&profile).filter(|count| *count > 0).ok_or_else(|| {
            format!("{}: callgrind counted nothing; has the executable lost its symbols?", path.name)
        })
    }
}

/// The instructions in a profile of callgrind, whose one event they are.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_says_its_total() {
        let profile = "# callgrind format\nversion: 1\nevents: Ir\nfn=(1) main\n7 3\n\ntotals: 4711\n";
        assert_eq!(total(profile), Some(4711));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn work_is_done_as_often_as_it_is_asked_for() {
        let mut rounds = 0;
        counted(7, &mut || rounds += 1);
        assert_eq!(rounds, 7);
    }
}
