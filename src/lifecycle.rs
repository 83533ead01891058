//! What happens around the serving: readiness is told, the configuration is read anew, the service manager is kept
//! informed.
//!
//! It runs in the main thread, and no reactor waits for it.
//!
//! Invariant: a configuration that is refused, or keys that cannot change, leave the server as it was, and the log says
//! so.

use std::sync::Arc;
use std::time::Duration;

use tcbchat::auth::Secret;
use tcbchat::config::keys::Value;
use tcbchat::config::plan::Plan;
use tcbchat::config::settings::{Setting, Settings};
use tcbchat::config::{self, Config, ConfigError, credentials, token};
use tcbchat::mesh::Mesh;
use tcbchat::net::address::Endpoint;
use tcbchat::net::server::{Lifecycle, Orders};
use tcbchat::ops::metrics::Bounds;
use tcbchat::ops::notify::Notify;
use tcbchat::ops::site::Readiness;
use tcbchat::services::api::{Api, Operator};
use tcbchat::services::auth::Desk;
use tcbchat::shard::ShardLimits;
use tcbchat::shard::reload::RELOADED;

use crate::cli::Options;
use crate::output::{self, Level};
use crate::{claims, shard_limits};

/// See the module.
pub struct Life<'a> {
    options: &'a Options,
    config: &'a Config,
    plan: &'a Plan,
    /// In force.
    settings: Settings,
    level: Level,
    readiness: Arc<Readiness>,
    bounds: Arc<Bounds>,
    notify: Notify,
    /// Who finds out who clients are.
    desk: Option<Arc<Desk>>,
    /// The HTTP API, and what it needs to begin.
    api: Option<Api>,
    mesh: Option<(Arc<Mesh>, Orders)>,
}

/// The supervisor, as the API sees it.
struct Supervisor(Orders);

impl Operator for Supervisor {
    fn drain(&self) {
        self.0.drain();
    }

    fn reload(&self) {
        self.0.reload();
    }
}

impl<'a> Life<'a> {
    /// The life of a server that starts.
    pub fn new(
        options: &'a Options,
        config: &'a Config,
        settings: Settings,
        plan: &'a Plan,
        level: Level,
        desk: Option<Arc<Desk>>,
    ) -> Self {
        let bounds = Arc::new(Bounds::default());
        bounds.set(numbers(&settings));
        let notify = Notify::from_environment();
        Life {
            options,
            config,
            plan,
            settings,
            level,
            readiness: Arc::default(),
            bounds,
            notify,
            desk,
            api: None,
            mesh: None,
        }
    }

    /// For the page.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
    }

    /// The server has this API, which begins when it is ready.
    pub fn set_api(&mut self, api: Api) {
        self.api = Some(api);
    }

    /// Every reactor has ended.
    pub fn end(&mut self) {
        if let Some(api) = &mut self.api {
            api.stop();
        }
    }

    /// For the metrics.
    pub fn bounds(&self) -> Arc<Bounds> {
        Arc::clone(&self.bounds)
    }
}

impl Lifecycle for Life<'_> {
    fn begin(&mut self, mesh: &Arc<Mesh>, orders: Orders) {
        self.mesh = Some((Arc::clone(mesh), orders));
    }

    fn ready(&mut self, endpoints: &[Endpoint]) {
        if let (Some(api), Some((mesh, orders))) = (&mut self.api, self.mesh.take()) {
            let at: Vec<String> = api.addresses().iter().map(|address| format!("http://{address}")).collect();
            match api.start(mesh, Arc::new(Supervisor(orders))) {
                Ok(()) => tracing::info!(at = at.join(" "), "the API listens"),
                Err(error) => tracing::error!(%error, "the thread of the API cannot be started"),
            }
        }
        self.readiness.ready();
        output::announce(self.config, endpoints, self.plan);
        self.notify.ready();
    }

    fn stopping(&mut self) {
        self.readiness.stopping();
        self.notify.stopping();
    }

    fn reload(&mut self) -> Option<Arc<ShardLimits>> {
        self.notify.reloading();
        let limits = self.read_anew();
        self.notify.ready();
        limits
    }

    fn alive_every(&self) -> Option<Duration> {
        // Three times in the manager's time: a reactor that was asked has a third of it to answer.
        self.notify.watchdog().map(|most| most / 3)
    }

    fn alive(&mut self) {
        self.notify.alive();
    }
}

impl Life<'_> {
    fn read_anew(&mut self) -> Option<Arc<ShardLimits>> {
        let settings = match config::load(&self.options.sources()) {
            Ok((_, settings)) => settings,
            Err(error) => {
                for problem in &error.problems {
                    tracing::error!(%problem, "the configuration is not reloaded");
                }
                return None;
            }
        };
        let mut in_force = self.settings.clone();
        let mut reloaded = Vec::new();
        let has_rules =
            !settings.rules().iter().map(|new| &new.rule).eq(in_force.rules().iter().map(|old| &old.rule));
        let mut has_limits = has_rules;
        if has_rules {
            reloaded.push((
                "rules".to_owned(),
                in_force.rules().len().to_string(),
                settings.rules().len().to_string(),
            ));
            if settings.rules().is_empty() {
                tracing::warn!("there are no rules any more: everybody may do everything");
            }
            in_force.set_rules(settings.rules().to_vec());
        }
        let terms = |settings: &Settings| -> Vec<_> {
            settings.destinations().iter().map(|written| written.terms.clone()).collect()
        };
        if terms(&settings) != terms(&in_force) {
            let count = |settings: &Settings| settings.destinations().len().to_string();
            reloaded.push(("destination".to_owned(), count(&in_force), count(&settings)));
            has_limits = true;
            in_force.set_destinations(settings.destinations().to_vec());
        }
        for (old, new) in self.settings.iter().zip(settings.iter()) {
            if old.value == new.value {
                continue;
            }
            let (key, from, to) = (new.key.path(), shown(old), shown(new));
            match Change::of(new) {
                Change::Level | Change::Limit => {
                    reloaded.push((key, from, to));
                    has_limits |= Change::of(new) == Change::Limit;
                    in_force.replace(new);
                }
                Change::Restart => tracing::warn!(key, from, to, "not reloaded: it needs a restart"),
            }
        }
        // What is in force now may be a mixture of both configurations; it must fit, too.
        let config = match config::of(&in_force) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "nothing is reloaded: it does not fit what needs a restart");
                return None;
            }
        };
        let token = match self.new_token(&config) {
            Ok(token) => token,
            Err(error) => {
                tracing::error!(%error, "nothing is reloaded: the token of the API stays as it is");
                return None;
            }
        };
        if !self.reload_checks(&config) {
            return None;
        }
        if let (Some(api), Some(token)) = (&self.api, token) {
            api.replace(token, config.stomp.clone());
        }
        for (key, from, to) in reloaded {
            tracing::info!(key, from, to, "reloaded");
        }
        tracing::info!("the configuration was read");
        self.level.set(config.log.level);
        self.bounds.set(numbers(&in_force));
        self.settings = in_force;
        has_limits.then(|| Arc::new(shard_limits(&config)))
    }
}

impl Life<'_> {
    /// The token that is in the file now, if there is an API.
    fn new_token(&self, config: &Config) -> Result<Option<Secret>, ConfigError> {
        let file = config.api.as_ref().filter(|_| self.api.is_some()).map(|api| &api.token_file);
        file.map(|file| token::read(file)).transpose()
    }

    /// Users and keys of files, which are read anew though no key has changed. `false` if something is wrong with them: those
    /// in force stay.
    fn reload_checks(&self, config: &Config) -> bool {
        let Some(desk) = &self.desk else { return true };
        match credentials::load(&config.auth, &claims(config)) {
            Ok(checks) => {
                desk.replace(checks);
                true
            }
            Err(error) => {
                for problem in &error.problems {
                    tracing::error!(%problem, "nothing is reloaded: users and keys stay as they are");
                }
                false
            }
        }
    }
}

/// What a changed key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Level,
    Limit,
    Restart,
}

impl Change {
    fn of(setting: &Setting) -> Change {
        let key = setting.key;
        let is_number = matches!(setting.value, Some(Value::Number(_)));
        match (key.section, key.name) {
            ("log", "level") => Change::Level,
            // All reactors' handshakes are counted in one table, which was made with it; pages and listening sockets have
            // what they were made with.
            ("handshake", "pending_per_address_max" | "retry_after_s")
            | ("outbound", "kernel_unsent_bytes_max") => Change::Restart,
            ("http", "origins") | ("stomp", "refusals") => Change::Limit,
            (section, _) if is_number && RELOADED.contains(&section) => Change::Limit,
            _ => Change::Restart,
        }
    }
}

fn shown(setting: &Setting) -> String {
    setting.value.as_ref().map_or("unset".into(), |value| value.without_secrets().to_string())
}

/// The bounds in force, for the metrics.
fn numbers(settings: &Settings) -> Vec<(String, u64)> {
    let number =
        |value: &Option<Value>| if let Some(Value::Number(number)) = value { Some(*number) } else { None };
    settings.iter().filter_map(|setting| Some((setting.key.path(), number(&setting.value)?))).collect()
}
