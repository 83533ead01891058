//! `tcbchat passwd`: changes a file of users.
//!
//! The new file is written beside the old one and takes its place by a rename, so a server that reads it meets the one or
//! the other. What the lines mean is for [`tcbchat::auth::users`] to say.
//!
//! Invariant: a new file is its owner's only from the moment at which it has a name; one that was there keeps its owner,
//! group and mode, because the server may read it by its group; and whatever fails leaves the old one as it was.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FlockOperation, flock};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tcbchat::auth::{Mistake, users};

use crate::cli::{EXIT_NOT, EXIT_USAGE, Passwd};
use crate::output::{fail, print};

/// Bytes of a password. It must fit into a header of CONNECT.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Who may read a file that was not there before: its owner.
const NEW_MODE: u32 = 0o600;
/// The bits of a mode that say who may read, write and run.
const ACCESS_BITS: u32 = 0o777;

/// Changes the file, says what was done, and gives the exit code.
pub fn change(options: &Passwd) -> ExitCode {
    let login = &options.login;
    if let Err(why) = users::check_login(login) {
        return fail(&why, EXIT_USAGE);
    }
    // Before anything is locked: people are slow.
    let password = if options.delete { Ok(String::new()) } else { read_password(login) };
    let password = match password {
        Ok(password) => password,
        Err(error) => return fail(&format!("the password: {error}"), EXIT_USAGE),
    };
    match edit(options, &password) {
        Ok(done) => print(&format!("{login}: {done}\n")),
        Err(error) => fail(&format!("{}: {error}", options.file.display()), EXIT_NOT),
    }
}

fn edit(options: &Passwd, password: &str) -> io::Result<&'static str> {
    let file = Replaced::lock(&options.file)?;
    let refused = |mistakes: Vec<Mistake>| {
        let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        io::Error::new(io::ErrorKind::InvalidData, all.join("; "))
    };
    let login = &options.login;
    let is_there = users::remove(&file.text, login).map_err(refused)?;
    if options.delete {
        let text = is_there.ok_or_else(|| io::Error::other(format!("{login:?} is not in it")))?;
        file.replace(&text)?;
        return Ok("removed");
    }
    let roles = (!options.role.is_empty()).then_some(options.role.as_slice());
    file.replace(&users::set(&file.text, login, password, roles).map_err(refused)?)?;
    Ok(if is_there.is_some() { "changed" } else { "added" })
}

/// Whose a file is, and who else may use it.
#[derive(Clone, Copy)]
struct Access {
    user: u32,
    group: u32,
    mode: u32,
}

/// A file that is to be replaced.
struct Replaced {
    /// Where it is, links followed.
    path: PathBuf,
    directory: File,
    /// What is in it; nothing if it is not there yet.
    text: String,
    /// Whose the file is that is there.
    access: Option<Access>,
}

impl Replaced {
    /// Reads the file, and keeps others who change files of its directory waiting.
    fn lock(path: &Path) -> io::Result<Replaced> {
        // A link stays one: what it leads to is replaced.
        let path = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            found => found?,
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = File::open(parent)?;
        flock(&directory, FlockOperation::LockExclusive)?;
        let mut replaced = Replaced { text: String::new(), access: None, directory, path };
        match File::open(&replaced.path) {
            Ok(mut file) => {
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::other("it is no file"));
                }
                let (user, group) = (metadata.uid(), metadata.gid());
                replaced.access = Some(Access { user, group, mode: metadata.mode() & ACCESS_BITS });
                file.read_to_string(&mut replaced.text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(replaced)
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let name = self.path.file_name().ok_or_else(|| io::Error::other("it has no name"))?.to_string_lossy();
        let beside = self.path.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = self.write(&beside, text).and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = written {
            // What is there is not in use; that it stays is the lesser evil.
            drop(fs::remove_file(&beside));
            return Err(error);
        }
        self.directory.sync_all()
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(path)?;
        if let Some(Access { user, group, mode }) = self.access {
            let metadata = file.metadata()?;
            if (metadata.uid(), metadata.gid()) != (user, group) {
                fchown(&file, Some(user), Some(group))?;
            }
            // Behind the owner: nobody else's group gets to read it in between.
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

/// The password from a terminal, twice, or from standard input.
fn read_password(login: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let _hidden = Hidden::begin()?;
        let password = ask(&format!("Password of {login}: "))?;
        if ask("Once more: ")? != password {
            return Err(io::Error::other("the two differ"));
        }
        password
    } else {
        let mut text = String::new();
        stdin.lock().take(2 * PASSWORD_BYTES_MAX as u64).read_to_string(&mut text)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        line.strip_suffix('\r').unwrap_or(line).to_owned()
    };
    if password.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {PASSWORD_BYTES_MAX} bytes")));
    }
    if password.contains(char::is_control) {
        return Err(io::Error::other("one line without control characters is needed"));
    }
    Ok(password)
}

/// One line from the terminal.
fn ask(prompt: &str) -> io::Result<String> {
    let mut stderr = io::stderr();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Hidden> {
        let shown = tcgetattr(io::stdin())?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        // The end of the line is shown, so that the next prompt begins one.
        hidden.local_modes.insert(LocalModes::ECHONL);
        // What was typed ahead is dropped: it was shown.
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Hidden(shown))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Fails only if the terminal is gone, which needs no mode then.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).unwrap_or_default();
    }
}
