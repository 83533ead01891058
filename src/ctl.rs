//! `tcbchat ctl`: what the HTTP API does, from a shell.
//!
//! Each verb is one request; a list is as many as it has pages, if all of it is asked for. For people it prints lines, for programs
//! the API's own JSON.
//!
//! Invariant: exit code 0 means that the API has said yes; 1 that it has refused; 3 that nobody knows.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tcbchat::config::token;
use ureq::Agent;
use ureq::http::Request;

use crate::cli::{Ctl, EXIT_NOT, EXIT_USAGE, Listing, Verb, Whom};
use crate::output::{fail, print};

/// Exit code where the API cannot be reached, or does not answer in time.
const EXIT_UNREACHED: u8 = 3;

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One request.
struct Asked {
    method: &'static str,
    path: String,
    body: Option<Value>,
    key: Option<String>,
}

/// Why there is no answer.
enum Failure {
    /// The API has said no: its words, and its JSON.
    Refused(String, Value),
    /// It cannot be reached, or what is there is no API.
    Unreached(String),
}

/// Carries out the verb, prints what came of it, and gives the exit code.
pub fn carry_out(ctl: &Ctl) -> ExitCode {
    let token = match ctl.token_file.as_deref().map(token::read) {
        Some(Ok(token)) => token,
        Some(Err(error)) => return fail(&error, EXIT_USAGE),
        None => return fail(&"say --token-file, or set TCBCHAT_API_TOKEN_FILE", EXIT_USAGE),
    };
    let config = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(ctl.timeout.into())))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("tcbchat/", env!("CARGO_PKG_VERSION")))
        .build();
    let api = Api { agent: config.new_agent(), base: ctl.url.trim_end_matches('/').into(), token: token.0 };
    let asked = match asked(&ctl.verb) {
        Ok(asked) => asked,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let answer = if is_all(&ctl.verb) { api.ask_all(asked) } else { api.ask(&asked) };
    match answer {
        Ok(body) if ctl.json => print(&format!("{body}\n")),
        Ok(body) => print(&for_people(&body)),
        Err(Failure::Refused(_, body)) if ctl.json => {
            print(&format!("{body}\n"));
            ExitCode::from(EXIT_NOT)
        }
        Err(Failure::Refused(said, _)) => fail(&said, EXIT_NOT),
        Err(Failure::Unreached(why)) => fail(&why, EXIT_UNREACHED),
    }
}

struct Api {
    agent: Agent,
    base: String,
    token: Box<str>,
}

impl Api {
    fn ask(&self, asked: &Asked) -> Result<Value, Failure> {
        let url = format!("{}{}", self.base, asked.path);
        let unreached = |why: &dyn std::fmt::Display| Failure::Unreached(format!("{}: {why}", self.base));
        let mut request = Request::builder()
            .method(asked.method)
            .uri(url)
            .header("Authorization", format!("Bearer {}", self.token));
        if let Some(key) = &asked.key {
            request = request.header("Idempotency-Key", key);
        }
        let body = asked.body.as_ref().map(Value::to_string).unwrap_or_default();
        let request = request
            .header("Content-Type", "application/json")
            .body(body.into_bytes())
            .map_err(|error| unreached(&error))?;
        let mut response = self.agent.run(request).map_err(|error| unreached(&error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| unreached(&error))?;
        let body: Value = serde_json::from_str(&text)
            .map_err(|_| unreached(&format!("the answer {status} is not that of an API")))?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let word = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Err(Failure::Refused(format!("{status} {}: {}", word("name"), word("detail")), body))
    }

    /// All pages of a list, as one.
    fn ask_all(&self, mut asked: Asked) -> Result<Value, Failure> {
        let path = asked.path.clone();
        let mut whole = self.ask(&asked)?;
        while let Some(next) = whole["next"].as_str().map(str::to_owned) {
            let sign = if path.contains('?') { '&' } else { '?' };
            asked.path = format!("{path}{sign}after={next}");
            let mut page = self.ask(&asked)?;
            whole["next"] = page["next"].take();
            let Some(name) = list_name(&page) else { break };
            if let (Value::Array(entries), Value::Array(all)) = (page[name].take(), &mut whole[name]) {
                all.extend(entries);
            }
        }
        Ok(whole)
    }
}

fn is_all(verb: &Verb) -> bool {
    match verb {
        Verb::Sessions { listing, .. } | Verb::Rooms { listing, .. } | Verb::Queues { listing, .. } => {
            listing.all
        }
        Verb::Bans { listing } => listing.all,
        _ => false,
    }
}

/// A query of the parameters that are said.
fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.into(),
        query => format!("{path}?{query}"),
    }
}

fn list(path: &str, listing: &Listing, more: &[(&str, Option<&str>)]) -> Asked {
    let limit = listing.limit.map(|limit| limit.to_string());
    let part = [("limit", limit.as_deref()), ("after", listing.after.as_deref())];
    Asked { method: "GET", path: query(path, &[&part, more].concat()), body: None, key: None }
}

fn post(path: &str, body: Value) -> Asked {
    Asked { method: "POST", path: path.into(), body: Some(body), key: None }
}

/// An object of what is said.
fn object(members: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let said = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(said.collect::<Map<_, _>>())
}

fn text(value: &Option<String>) -> Option<Value> {
    value.as_deref().map(Value::from)
}

fn asked(verb: &Verb) -> Result<Asked, String> {
    Ok(match verb {
        Verb::Publish { destination, body, header, key } => {
            let body = match body {
                Some(body) => body.clone(),
                None => {
                    let mut text = String::new();
                    io::stdin()
                        .read_to_string(&mut text)
                        .map_err(|error| format!("standard input: {error}"))?;
                    text
                }
            };
            let headers: Map<String, Value> =
                header.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
            let body = json!({ "destination": destination, "body": body, "headers": headers });
            Asked { key: key.clone(), ..post("/v1/publish", body) }
        }
        Verb::Sessions { login, address, destination, state, listing } => {
            let more = [
                ("login", login.as_deref()),
                ("address", address.as_deref()),
                ("destination", destination.as_deref()),
                ("state", state.as_deref()),
            ];
            list("/v1/sessions", listing, &more)
        }
        Verb::Session { id } => {
            let id: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
            Asked { method: "GET", path: format!("/v1/sessions/{id}"), body: None, key: None }
        }
        Verb::Disconnect { login, session, address, reason } => {
            let body = [
                ("login", text(login)),
                ("session", text(session)),
                ("address", text(address)),
                ("reason", text(reason)),
            ];
            post("/v1/disconnect", object(body))
        }
        Verb::Ban { whom: Whom { login, address }, seconds, reason } => {
            let body = [
                ("login", text(login)),
                ("address", text(address)),
                ("seconds", seconds.map(Value::from)),
                ("reason", text(reason)),
            ];
            post("/v1/bans", object(body))
        }
        Verb::Unban { whom: Whom { login, address } } => {
            let parameters = [("login", login.as_deref()), ("address", address.as_deref())];
            Asked { method: "DELETE", path: query("/v1/bans", &parameters), body: None, key: None }
        }
        Verb::Bans { listing } => list("/v1/bans", listing, &[]),
        Verb::Rooms { prefix, listing } => list("/v1/rooms", listing, &[("prefix", prefix.as_deref())]),
        Verb::Queues { prefix, listing } => list("/v1/queues", listing, &[("prefix", prefix.as_deref())]),
        Verb::Drain => post("/v1/drain", json!({})),
        Verb::Reload => post("/v1/reload", json!({})),
    })
}

/// The member of an answer that is a list.
fn list_name(answer: &Value) -> Option<&'static str> {
    ["sessions", "rooms", "queues", "bans"].into_iter().find(|name| answer[*name].is_array())
}

/// A list as lines with tabs between the values, and how many there are; anything else as names and values.
fn for_people(answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |line: &str| writeln!(out, "{line}").expect("a String takes every text");
    match list_name(answer).map(|name| (name, answer[name].as_array())) {
        Some((name, Some(entries))) => {
            let columns: Vec<&str> = match name {
                "sessions" => vec!["id", "login", "address", "state", "subscriptions", "unsent_bytes"],
                "rooms" => vec!["destination", "members", "sequence", "kept"],
                "queues" => vec!["destination", "messages", "waiting", "consumers"],
                _ => vec!["login", "address", "until_s", "reason"],
            };
            line(&columns.join("\t"));
            for entry in entries {
                let values: Vec<String> = columns.iter().map(|column| plain(&entry[*column])).collect();
                line(&values.join("\t"));
            }
            line(&format!("{} of {}", entries.len(), plain(&answer["count"])));
            if let Some(next) = answer["next"].as_str() {
                line(&format!("more: --after {next}, or --all"));
            }
        }
        _ => describe("", answer, &mut line),
    }
    out
}

fn describe(name: &str, value: &Value, line: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                describe(&name, value, line);
            }
        }
        Value::Array(entries) => {
            for (at, value) in entries.iter().enumerate() {
                describe(&format!("{name}[{at}]"), value, line);
            }
        }
        value => line(&format!("{name}\t{}", plain(value))),
    }
}

/// A value for a terminal: what others have chosen cannot move its cursor.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_lines_and_the_rest_names_and_values() {
        let answer = json!({
            "rooms": [{ "destination": "/topic/a\u{1b}[2J", "members": 2, "sequence": 7, "kept": 3, "reactors": 1 }],
            "count": 9, "next": "AAA",
        });
        let expected = "destination\tmembers\tsequence\tkept\n/topic/a\u{fffd}[2J\t2\t7\t3\n1 of 9\nmore: --after AAA, or --all\n";
        assert_eq!(for_people(&answer), expected);
        let answer = json!({ "ban": { "login": "ann", "until_s": null }, "disconnected": 1 });
        assert_eq!(for_people(&answer), "ban.login\tann\nban.until_s\t-\ndisconnected\t1\n");
    }

    #[test]
    fn what_is_said_is_escaped() {
        let asked = asked(&Verb::Sessions {
            login: Some("a&b=c d".into()),
            address: None,
            destination: Some("/topic/é".into()),
            state: None,
            listing: Listing { limit: Some(5), after: None, all: false },
        });
        let path = asked.map(|asked| asked.path).unwrap_or_default();
        assert_eq!(path, "/v1/sessions?limit=5&login=a%26b%3Dc+d&destination=%2Ftopic%2F%C3%A9");
    }
}
