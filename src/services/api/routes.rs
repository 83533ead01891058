//! Which method and path is which operation.
//!
//! `docs/openapi.json` describes each of [`ROUTES`]; a test compares the two.
//!
//! Invariant: no two routes have one method and path.

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Publish one message.
    Publish,
    /// Publish several.
    PublishBatch,
    /// List and count sessions.
    Sessions,
    /// All that is known of one.
    Session,
    /// End sessions.
    Disconnect,
    /// List bans.
    Bans,
    /// Ban a login or an address.
    Ban,
    /// End a ban.
    Unban,
    /// List and count rooms.
    Rooms,
    /// List and count queues.
    Queues,
    /// What SIGTERM does.
    Drain,
    /// What SIGHUP does.
    Reload,
    /// The description of all this.
    Description,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path; `{id}` stands for one segment.
    pub path: &'static str,
    /// What it asks for.
    pub operation: Operation,
}

const fn route(method: &'static str, path: &'static str, operation: Operation) -> Route {
    Route { method, path, operation }
}

/// All routes.
pub const ROUTES: &[Route] = &[
    route("POST", "/v1/publish", Operation::Publish),
    route("POST", "/v1/publish/batch", Operation::PublishBatch),
    route("GET", "/v1/sessions", Operation::Sessions),
    route("GET", "/v1/sessions/{id}", Operation::Session),
    route("POST", "/v1/disconnect", Operation::Disconnect),
    route("GET", "/v1/bans", Operation::Bans),
    route("POST", "/v1/bans", Operation::Ban),
    route("DELETE", "/v1/bans", Operation::Unban),
    route("GET", "/v1/rooms", Operation::Rooms),
    route("GET", "/v1/queues", Operation::Queues),
    route("POST", "/v1/drain", Operation::Drain),
    route("POST", "/v1/reload", Operation::Reload),
    route("GET", "/v1/openapi.json", Operation::Description),
];

/// Why there is no operation.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// There is nothing at this path.
    Path,
    /// The path has these methods only.
    Method(String),
}

/// What stands for `{id}` in a path that a route has; empty if it has none.
fn id_in<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    match route.strip_suffix("{id}") {
        Some(before) => path.strip_prefix(before).filter(|id| !id.is_empty() && !id.contains('/')),
        None => (route == path).then_some(""),
    }
}

/// The operation of a request, and what stands for `{id}` in its path.
///
/// # Errors
/// There is none.
pub fn find<'a>(method: &str, path: &'a str) -> Result<(Operation, &'a str), NoRoute> {
    let here: Vec<(&Route, &str)> =
        ROUTES.iter().filter_map(|route| Some((route, id_in(route.path, path)?))).collect();
    if let Some((route, id)) = here.iter().find(|(route, _)| route.method == method) {
        return Ok((route.operation, id));
    }
    if here.is_empty() {
        return Err(NoRoute::Path);
    }
    let methods: Vec<&str> = here.iter().map(|(route, _)| route.method).collect();
    Err(NoRoute::Method(methods.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_methods() {
        assert_eq!(find("POST", "/v1/publish"), Ok((Operation::Publish, "")));
        assert_eq!(find("GET", "/v1/publish"), Err(NoRoute::Method("POST".into())));
        assert_eq!(find("PUT", "/v1/bans"), Err(NoRoute::Method("GET, POST, DELETE".into())));
        assert_eq!(find("GET", "/v1/sessions/0-1-2"), Ok((Operation::Session, "0-1-2")));
        for path in [
            "",
            "/",
            "/v1",
            "/v1/publish/",
            "/v1/publish/batch/a",
            "/v1/sessions/",
            "/v1/sessions/a/b",
            "/V1/publish",
            "/v1/other",
        ] {
            assert_eq!(find("POST", path), Err(NoRoute::Path), "{path}");
        }
        let mut seen = std::collections::HashSet::new();
        assert!(ROUTES.iter().all(|route| seen.insert((route.method, route.path))));
    }
}
