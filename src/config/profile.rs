//! Profiles: named sets of values that stand between the configuration file and the defaults.
//!
//! Each is a TOML file in `profiles/`, embedded in the binary, whose head says what it stands for. A profile is
//! nothing but values of ordinary keys: whatever it sets can be set otherwise in every source above it. Those
//! of Windows and Tomcat are reconstructions from documents.
//!
//! Invariant: the names here are the words of `profile.name`, and each file can be read without a problem.

use super::settings::{Origin, Settings};
use super::{Problem, file};

/// Name of the profile that is in force if none is named.
pub const DEFAULT: &str = "linux";

macro_rules! profiles {
    ( $( $name:literal ),+ $(,)? ) => {
        /// The names of all profiles.
        pub const NAMES: &[&str] = &[ $( $name, )+ ];

        /// The text of a profile's file; `None` if there is none of this name.
        pub fn text(name: &str) -> Option<&'static str> {
            match name {
                $( $name => Some(include_str!(concat!("profiles/", $name, ".toml"))), )+
                _ => None,
            }
        }
    };
}

profiles!(
    "linux",
    "windows-xp",
    "windows-2000",
    "windows-2003",
    "windows-2003-sp1",
    "windows-2008",
    "tomcat-bio",
);

/// Gives the values of the profile that the settings name to all keys of which nothing else was said.
pub(super) fn lay_under(settings: &mut Settings, problems: &mut Vec<Problem>) {
    let Some(name) = settings.word("profile.name") else { return };
    let mut profile = Settings::new();
    file::read_text(&format!("profile {name}"), text(name).unwrap_or_default(), &mut profile, problems);
    for setting in profile.iter() {
        let key = setting.key;
        if setting.origin != Origin::Default
            && settings.get(&key.path()).origin == Origin::Default
            && let Some(value) = &setting.value
        {
            settings.put(key, value.clone(), Origin::Profile(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::machine::Machine;
    use crate::config::plan::plan;
    use crate::config::settings::{Flag, Sources};
    use crate::config::{Config, keys, load};
    use crate::tcb::time_wait::Reuse;
    use crate::tcb::{Closer, FourTuple, Refused, TcbTable};
    use crate::time::Tick;

    fn sources(name: &str) -> Sources {
        let flag = Flag { flag: "--profile", key: "profile.name".into(), value: name.into() };
        Sources { flags: vec![flag], ..Sources::default() }
    }

    fn config(name: &str) -> (Config, Settings) {
        load(&sources(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    #[test]
    fn every_profile_is_valid_and_sets_exactly_what_its_file_says() {
        assert_eq!(keys::find("profile", "name").unwrap().default().unwrap().to_string(), "\"linux\"");
        for name in NAMES {
            let text = text(name).expect("a file");
            assert!(text.starts_with(&format!("# {name}: ")), "{name} does not say what it is");
            if *name != DEFAULT {
                assert!(text.contains("a reconstruction"), "{name} does not say that it is one");
            }
            // Read here by another way than in the program.
            let document: toml::Table = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            let said: usize = document.values().map(|section| section.as_table().unwrap().len()).sum();
            let (_, settings) = config(name);
            let from_profile = settings.iter().filter(|setting| setting.origin == Origin::Profile(name));
            assert_eq!(from_profile.count(), said, "{name}");
            for (section, keys) in &document {
                for (key, value) in keys.as_table().unwrap() {
                    let setting = settings.get(&format!("{section}.{key}"));
                    let in_force = setting.value.as_ref().unwrap().to_string();
                    assert_eq!(in_force, value.to_string(), "{name}: {section}.{key}");
                }
            }
        }
    }

    #[test]
    fn the_default_profile_sets_nothing() {
        assert_eq!(config(DEFAULT).0, load(&Sources::default()).unwrap().0);
    }

    #[test]
    fn every_other_source_is_above_the_profile() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tcbchat.toml");
        std::fs::write(&file, "[profile]\nname = \"windows-2003\"\n[tcb]\ncapacity = 3000\n").unwrap();
        let from_file = Sources { file: Some(file), ..Sources::default() };
        let (config, settings) = load(&from_file).unwrap();
        assert_eq!((config.tcb.limits.capacity, config.tcb.limits.hash_buckets), (3000, 512));
        assert_eq!(settings.get("tcb.hash_buckets").origin.to_string(), "profile windows-2003");

        let environment = vec![("TCBCHAT_PROFILE_NAME".into(), "windows-xp".into())];
        let (config, _) = load(&Sources { environment: environment.clone(), ..from_file.clone() }).unwrap();
        assert_eq!((config.tcb.limits.capacity, config.listen.limits.backlog), (3000, 5));
        let flags = sources("tomcat-bio").flags;
        let (config, _) = load(&Sources { environment, flags, ..from_file }).unwrap();
        assert_eq!((config.tcb.limits.capacity, config.listen.limits.backlog), (3000, 100));

        let error = load(&sources("windows-95")).unwrap_err().to_string();
        assert!(
            error.starts_with("--profile: profile.name = \"windows-95\": allowed are \"linux\" or"),
            "{error}"
        );
    }

    #[test]
    fn the_registry_keys_of_windows() {
        let row = |name: &str| {
            let (config, settings) = config(name);
            let time_wait = config.tcb.time_wait;
            (
                config.tcb.limits.capacity,
                settings.number("tcb.hash_buckets"),
                time_wait.delay_ms,
                time_wait.reuse,
                time_wait.counts_against_capacity,
                config.listen.limits.backlog,
                config.keepalive.tcp_idle_s,
            )
        };
        assert_eq!(row("windows-xp"), (1000, 512, 240_000, Reuse::OlderThan60s, true, 5, 7200));
        assert_eq!(row("windows-2000"), (2000, 512, 240_000, Reuse::OlderThan60s, true, 200, 7200));
        assert_eq!(row("windows-2003"), (2000, 512, 240_000, Reuse::OlderThan60s, true, 200, 7200));
        assert_eq!(row("windows-2003-sp1"), (2000, 512, 240_000, Reuse::PeerDiffers, true, 200, 7200));
        assert_eq!(row("windows-2008"), (0, 0, 120_000, Reuse::PeerDiffers, false, 200, 7200));
        assert_eq!(config("windows-xp").0.handshake.pending_max, 10);
    }

    /// How many of 2,001 users a profile's table admits when 500 have just been disconnected by the server.
    fn admitted_beside_500_closed(name: &str) -> (u16, Option<Refused>) {
        let machine = Machine::new(2, 20_000, 8 << 30);
        let table = TcbTable::new(plan(&config(name).0, &machine).unwrap().tcb);
        let user = |n: u16| FourTuple::new(([192, 0, 2, 1], 80).into(), ([198, 51, 100, 7], 1024 + n).into());
        for n in 0..500 {
            let key = table.admit(user(n), Tick(0)).unwrap();
            table.release(key, Closer::Local, Tick(0));
        }
        for n in 0..2001 {
            if let Err(refused) = table.admit(user(500 + n), Tick(1)) {
                return (n, Some(refused));
            }
        }
        (2001, None)
    }

    #[test]
    fn the_1500_wall() {
        assert_eq!(admitted_beside_500_closed("windows-2003"), (1500, Some(Refused::Full)));
        assert_eq!(admitted_beside_500_closed("windows-2000"), (1500, Some(Refused::Full)));
        // All users are of one address, but of other ports, so SP1's policy frees their places.
        assert_eq!(admitted_beside_500_closed("windows-2003-sp1"), (2000, Some(Refused::Full)));
        assert_eq!(admitted_beside_500_closed("windows-2008"), (2001, None));
    }
}
