//! Who is banned, until when and why: the list that the API keeps, and its file.
//!
//! Shards have only who is banned and why ([`Bans`]); what is over is taken out here, and they get another list. The file is JSON
//! and is replaced as a whole, so that it is whole after a crash.
//!
//! Invariant: what is in the list is in the file, if there is one; nothing in it is over when shards are given it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::policy::bans::{Bans, Host};

/// Bytes of the file that are read: some million bans.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Who is banned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Login(Box<str>),
    Host(Host),
}

impl Who {
    /// As the cursor of a list.
    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(match self {
            Who::Login(login) => format!("l{login}"),
            Who::Host(host) => format!("h{host}"),
        })
    }

    /// The one that a cursor stands for.
    pub(super) fn decode(text: &str) -> Option<Who> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        match text.strip_prefix('l') {
            Some(login) => Some(Who::Login(login.into())),
            None => text.strip_prefix('h')?.parse().ok().map(Who::Host),
        }
    }
}

/// A ban, as it is written and shown. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ban {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub login: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// When it began.
    pub since_s: u64,
    /// When it ends; `None` if it does not end by itself.
    pub until_s: Option<u64>,
    pub reason: Box<str>,
}

impl Ban {
    fn who(&self) -> Option<Who> {
        match (&self.login, &self.address) {
            (Some(login), None) => Some(Who::Login(login.clone())),
            (None, Some(address)) => address.parse().ok().map(Who::Host),
            _ => None,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    bans: Vec<Ban>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Register {
    bans: BTreeMap<Who, Ban>,
    file: Option<PathBuf>,
}

impl Register {
    /// The bans in a file, which need not be there yet; or none, kept nowhere.
    ///
    /// # Errors
    /// The file cannot be read, or is none of ours.
    pub fn read(file: Option<&Path>, now_s: u64) -> io::Result<Register> {
        let Some(path) = file else { return Ok(Register::default()) };
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => drop(file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let written: Written =
            if bytes.is_empty() { Written::default() } else { serde_json::from_slice(&bytes)? };
        let mut register = Register { bans: BTreeMap::new(), file: Some(path.to_owned()) };
        for ban in written.bans {
            let who = ban.who().ok_or_else(|| io::Error::other("a ban is of a login or of an address"))?;
            register.bans.insert(who, ban);
        }
        register.bans.retain(|_, ban| ban.until_s.is_none_or(|until| until > now_s));
        Ok(register)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.bans.len()
    }

    /// For the shards.
    pub fn snapshot(&self) -> Arc<Bans> {
        let (mut logins, mut hosts) = (Vec::new(), Vec::new());
        for (who, ban) in &self.bans {
            match who {
                Who::Login(login) => logins.push((login.clone(), ban.reason.clone())),
                Who::Host(host) => hosts.push((*host, ban.reason.clone())),
            }
        }
        Arc::new(Bans::new(logins, hosts))
    }

    /// Adds a ban, in place of another of the same.
    ///
    /// # Errors
    /// The file cannot be written. Nothing has changed.
    pub(super) fn add(&mut self, who: Who, ban: Ban) -> io::Result<()> {
        let before = self.bans.insert(who.clone(), ban);
        self.write().inspect_err(|_| match before {
            Some(before) => drop(self.bans.insert(who, before)),
            None => drop(self.bans.remove(&who)),
        })
    }

    /// Takes a ban out. Returns whether there was one.
    ///
    /// # Errors
    /// The file cannot be written. Nothing has changed.
    pub(super) fn remove(&mut self, who: &Who) -> io::Result<bool> {
        let Some(ban) = self.bans.remove(who) else { return Ok(false) };
        self.write().inspect_err(|_| drop(self.bans.insert(who.clone(), ban)))?;
        Ok(true)
    }

    /// Whether this one is banned.
    pub(super) fn has(&self, who: &Who) -> bool {
        self.bans.contains_key(who)
    }

    /// Takes out what is over. Returns whether there was any. The file may have it still, and is read so.
    pub(super) fn expire(&mut self, now_s: u64) -> bool {
        let before = self.bans.len();
        self.bans.retain(|_, ban| ban.until_s.is_none_or(|until| until > now_s));
        before > self.bans.len()
    }

    /// When the next one is over.
    pub(super) fn next_end_s(&self) -> Option<u64> {
        self.bans.values().filter_map(|ban| ban.until_s).min()
    }

    /// Those behind this one, in order.
    pub(super) fn behind(&self, after: Option<&Who>) -> impl Iterator<Item = (&Who, &Ban)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.bans.range((from, Bound::Unbounded))
    }

    fn write(&self) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let written = Written { bans: self.bans.values().cloned().collect() };
        let mut bytes = serde_json::to_vec_pretty(&written)?;
        bytes.push(b'\n');
        replace(path, &bytes)
    }
}

/// Replaces a file as a whole: whoever reads it finds the old one or the new one, also after a crash.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let written = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    if let Err(error) = written() {
        // What is there is not in use; that it stays is the lesser evil.
        drop(fs::remove_file(&beside));
        return Err(error);
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(login: &str, until_s: Option<u64>) -> (Who, Ban) {
        let ban =
            Ban { login: Some(login.into()), address: None, since_s: 1, until_s, reason: "spam".into() };
        (Who::Login(login.into()), ban)
    }

    #[test]
    fn bans_are_kept_in_their_file_and_end() {
        let folder = tempfile::tempdir().expect("there is a folder");
        let file = folder.path().join("bans");
        let read = |now_s| Register::read(Some(&file), now_s).expect("it is right");
        let mut register = read(0);
        assert!(register.snapshot().is_empty() && !file.exists());
        for (who, ban) in [ban("ann", Some(10)), ban("bob", None)] {
            register.add(who, ban).expect("it is written");
        }
        let host: Host = "2001:db8::1".parse().expect("it is an address");
        let address = Some(host.to_string());
        let of_host = Ban { login: None, address, since_s: 1, until_s: Some(20), reason: "".into() };
        register.add(Who::Host(host), of_host).expect("it is written");
        assert_eq!((register.len(), read(0).len(), read(10).len(), read(20).len()), (3, 3, 2, 1));
        let snapshot = read(0).snapshot();
        assert_eq!(snapshot.of_login("ann"), Some("spam"));
        assert!(snapshot.of_address("2001:db8::9".parse().expect("it is one")).is_some());

        assert_eq!(register.next_end_s(), Some(10));
        assert!(register.expire(10) && !register.expire(10) && register.next_end_s() == Some(20));
        let bob = Who::Login("bob".into());
        assert_eq!(Who::decode(&bob.encode()), Some(bob.clone()));
        assert_eq!(Who::decode(&Who::Host(host).encode()), Some(Who::Host(host)));
        assert_eq!(register.behind(Some(&bob)).map(|(who, _)| who).collect::<Vec<_>>(), [&Who::Host(host)]);
        assert!(register.has(&bob) && register.remove(&bob).expect("it is written"));
        assert!(!register.remove(&bob).expect("nothing is to be written"));
        assert_eq!((read(0).len(), fs::read_dir(folder.path()).expect("it is listed").count()), (1, 1));
    }

    #[test]
    fn what_cannot_be_written_is_not_in_force() {
        let folder = tempfile::tempdir().expect("there is a folder");
        let file = folder.path().join("absent/bans");
        let mut register = Register::read(Some(&file), 0).expect("it need not be there");
        let (who, ban) = ban("ann", None);
        assert!(register.add(who.clone(), ban).is_err());
        assert!(!register.has(&who) && register.snapshot().is_empty());
        for wrong in ["no", "{}", r#"{"bans":[{"since_s":1,"until_s":null,"reason":""}]}"#] {
            let file = folder.path().join("wrong");
            fs::write(&file, wrong).expect("it is written");
            assert!(Register::read(Some(&file), 0).is_err(), "{wrong}");
        }
    }
}
