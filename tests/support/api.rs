//! A client of the HTTP API of a server that was started for a test.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;

use super::Server;

/// The token of the API in tests.
pub const TOKEN: &str = "a-token-for-tests-0123456789";

/// See the module.
#[derive(Debug, Clone)]
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
}

/// An answer of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Value,
}

impl Answer {
    /// The name of a problem.
    pub fn name(&self) -> &str {
        self.body["name"].as_str().unwrap_or_else(|| panic!("it is no problem: {self:?}"))
    }
}

/// The lines of a configuration that has an API, whose files are in this folder.
pub fn configured(folder: &Path) -> String {
    let file = folder.join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    format!("[api]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n", file.display())
}

impl Api {
    /// The API of a server that has one.
    pub fn of(server: &Server) -> Api {
        let line = server.await_output("the API listens");
        let at = line.find("http://").unwrap_or_else(|| panic!("no address in {line:?}"));
        let base = line[at..].split(['"', ' ']).next().unwrap().to_owned();
        Api::at(&base, TOKEN)
    }

    /// The one at this URL, with this token.
    pub fn at(base: &str, token: &str) -> Api {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Api { agent: config.new_agent(), base: base.into(), token: token.into() }
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same, with this token.
    pub fn with_token(&self, token: &str) -> Api {
        Api { token: token.into(), ..self.clone() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], &body.to_string())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], "")
    }

    /// The same, with a key that makes it one, however often it is said.
    pub fn post_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("Idempotency-Key", key)], &body.to_string())
    }

    /// Any request.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match body {
            "" => self.agent.run(request.body(()).unwrap()),
            body if method == "DELETE" => {
                // One with a body must be meant.
                let delete = self.agent.delete(format!("{}{path}", self.base)).force_send_body();
                delete.header("Authorization", format!("Bearer {}", self.token)).send(body)
            }
            body => self.agent.run(request.body(body.as_bytes().to_vec()).unwrap()),
        };
        let mut response = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let content_type = response
            .headers()
            .get("content-type")
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Answer { status: response.status().as_u16(), content_type, body }
    }
}
