//! `docs/openapi.json` and the HTTP API say the same: routes, parameters, answers; and no request is too odd to be answered.
//!
//! Requests are generated from the document's own schemas, and from what is near them. A failing seed is printed;
//! `API_SEED=<seed>` plays it again: a variable that the server does not take for one of its keys.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use jsonschema::Validator;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tcbchat::services::api::routes::ROUTES;

use support::api::{Answer, Api, configured};
use support::{Client, Server};

/// Requests that are generated.
const REQUESTS: usize = 1_500;

fn description() -> Value {
    serde_json::from_str(include_str!("../docs/openapi.json")).expect("the description is JSON")
}

fn operation<'a>(description: &'a Value, method: &str, path: &str) -> &'a Value {
    &description["paths"][path][method.to_ascii_lowercase()]
}

#[test]
fn each_route_is_described_and_nothing_else() {
    let description = description();
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.path.to_owned(), route.method.to_ascii_lowercase())).collect();
    let mut described = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.insert((path.clone(), method.clone()));
            assert!(
                operation["operationId"].is_string() && operation["summary"].is_string(),
                "{path} {method}"
            );
        }
    }
    assert_eq!(described, routes);
    assert_eq!(description["openapi"], "3.1.0");
}

/// A validator of what this schema says, which may refer to others of the document.
fn validator(description: &Value, schema: &Value) -> Validator {
    let whole = json!({ "allOf": [schema], "components": description["components"] });
    jsonschema::draft202012::new(&whole).unwrap_or_else(|error| panic!("{schema}: {error}"))
}

/// An answer is one that the description has for its operation.
#[track_caller]
fn is_described(description: &Value, method: &str, path: &str, answer: &Answer) {
    let responses = &operation(description, method, path)["responses"];
    let response = &responses[answer.status.to_string()];
    assert!(response.is_object(), "{method} {path}: {} is not described: {answer:?}", answer.status);
    let schema = &response["content"][&answer.content_type]["schema"];
    assert!(schema.is_object(), "{method} {path}: {:?} is not described", answer.content_type);
    let errors: Vec<String> =
        validator(description, schema).iter_errors(&answer.body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{method} {path}: {errors:?}\n{}", answer.body);
}

fn server(folder: &std::path::Path) -> (Server, Api) {
    let file = folder.join("tcbchat.toml");
    let bans = folder.join("bans.json");
    std::fs::write(&file, format!("{}bans_file = \"{}\"\n", configured(folder), bans.display())).unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--reactors", "2"]);
    let api = Api::of(&server);
    (server, api)
}

#[test]
fn answers_are_as_they_are_described() {
    let description = description();
    let folder = tempfile::tempdir().unwrap();
    let (server, api) = server(folder.path());
    let mut client = Client::login(&server, "ann");
    client.subscribe("a", "/topic/a");
    client.subscribe_ack("q", "/queue/q", "client-individual");
    let session = api.get("/v1/sessions").body["sessions"][0]["id"].as_str().unwrap().to_owned();
    let message = json!({ "destination": "/topic/a", "body": "b", "headers": { "x": "y" } });
    let wrong = json!({ "destination": "/exchange/a", "body": "b" });
    let requests = [
        ("POST", "/v1/publish", String::new(), message.clone(), 200),
        ("POST", "/v1/publish", String::new(), wrong.clone(), 422),
        ("POST", "/v1/publish/batch", String::new(), json!([message, wrong]), 200),
        ("POST", "/v1/publish/batch", String::new(), json!({ "messages": [] }), 200),
        ("GET", "/v1/sessions", "?limit=1".into(), Value::Null, 200),
        ("GET", "/v1/sessions", "?limit=x".into(), Value::Null, 422),
        ("GET", "/v1/sessions/{id}", session, Value::Null, 200),
        ("GET", "/v1/sessions/{id}", "0-0-9".into(), Value::Null, 404),
        ("GET", "/v1/rooms", String::new(), Value::Null, 200),
        ("GET", "/v1/queues", "?prefix=/queue/".into(), Value::Null, 200),
        ("POST", "/v1/bans", String::new(), json!({ "login": "bob", "seconds": 60, "reason": "spam" }), 200),
        ("POST", "/v1/bans", String::new(), json!({ "address": "2001:db8::1" }), 200),
        ("POST", "/v1/bans", String::new(), json!({}), 422),
        ("GET", "/v1/bans", "?limit=1".into(), Value::Null, 200),
        ("DELETE", "/v1/bans", "?login=bob".into(), Value::Null, 200),
        ("DELETE", "/v1/bans", "?login=bob".into(), Value::Null, 404),
        ("POST", "/v1/disconnect", String::new(), json!({ "login": "ann", "reason": "bye" }), 200),
        ("POST", "/v1/reload", String::new(), Value::Null, 202),
        ("GET", "/v1/openapi.json", String::new(), Value::Null, 200),
    ];
    let mut met = BTreeSet::new();
    for (method, path, rest, body, status) in requests {
        met.insert((method, path));
        let target = match path.strip_suffix("{id}") {
            Some(before) => format!("{before}{rest}"),
            None => format!("{path}{rest}"),
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = api.ask(method, &target, &[], &body);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        is_described(&description, method, path, &answer);
        is_described(&description, method, path, &api.with_token("wrong").ask(method, &target, &[], &body));
    }
    assert_eq!(api.get("/v1/openapi.json").body, description);
    let answer = api.ask("POST", "/v1/drain", &[], "");
    is_described(&description, "POST", "/v1/drain", &answer);
    met.insert(("POST", "/v1/drain"));
    assert_eq!(met, ROUTES.iter().map(|route| (route.method, route.path)).collect());
}

/// A value that a schema of the document allows, or one that is near it.
fn value_of(description: &Value, schema: &Value, rng: &mut StdRng, depth: u32) -> Value {
    if rng.random_bool(0.06) || depth > 5 {
        return odd(rng);
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return value_of(description, &description["components"]["schemas"][name], rng, depth);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return value_of(description, choices.choose(rng).unwrap(), rng, depth);
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.choose(rng).unwrap().clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let mut object = serde_json::Map::new();
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                let is_there = if required.contains(&name.as_str()) { 0.97 } else { 0.5 };
                if rng.random_bool(is_there) {
                    object.insert(name.clone(), value_of(description, schema, rng, depth + 1));
                }
            }
            if schema["additionalProperties"].is_object() {
                for _ in 0..rng.random_range(0..4) {
                    let value = value_of(description, &schema["additionalProperties"], rng, depth + 1);
                    object.insert(text(rng), value);
                }
            }
            if rng.random_bool(0.03) {
                object.insert(text(rng), odd(rng));
            }
            Value::Object(object)
        }
        Some("array") => {
            let count = rng.random_range(0..5);
            (0..count).map(|_| value_of(description, &schema["items"], rng, depth + 1)).collect()
        }
        Some("integer") => json!(rng.random_range(0..200u32)),
        _ => text(rng).into(),
    }
}

/// A text: a word of the API's, or one that nobody expects.
fn text(rng: &mut StdRng) -> String {
    const WORDS: [&str; 22] = [
        "/topic/a",
        "/queue/q",
        "/user/ann/queue/m",
        "/user/%2F/queue/%",
        "/app/x",
        "/topic/",
        "ann",
        "bob",
        "127.9.9.9",
        "2001:db8::/64",
        "192.0.2.1:80",
        "0-0-0",
        "0-4294967295-4294967295",
        "sender",
        "content-type",
        "a:b\\c\r\n",
        "\u{0}",
        "\u{202e}x\u{1f600}",
        "",
        " ",
        "..",
        "connected",
    ];
    match rng.random_range(0..40) {
        0 => "x".repeat(rng.random_range(0..70_000)),
        1..4 => (0..rng.random_range(0..20)).map(|_| rng.random::<char>()).collect(),
        _ => WORDS.choose(rng).unwrap().to_string(),
    }
}

/// A value of any type, and of any size.
fn odd(rng: &mut StdRng) -> Value {
    match rng.random_range(0..9) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e308),
        5 => json!([[[[[]]]]]),
        6 => json!({ "a": { "b": [] } }),
        7 => json!(0.5),
        _ => text(rng).into(),
    }
}

/// A query of the operation's parameters, and of others.
fn query_of(operation: &Value, rng: &mut StdRng) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] == "query" && rng.random_bool(0.5) {
            let value =
                if rng.random_bool(0.5) { rng.random_range(0..2000u32).to_string() } else { text(rng) };
            // A target has its bound.
            query.append_pair(
                parameter["name"].as_str().unwrap(),
                &value.chars().take(500).collect::<String>(),
            );
        }
    }
    if rng.random_bool(0.05) {
        query.append_pair("other", "1");
    }
    query.finish()
}

#[test]
fn no_request_is_too_odd_to_be_answered() {
    let description = description();
    let folder = tempfile::tempdir().unwrap();
    let (server, api) = server(folder.path());
    let _client = Client::login(&server, "carol");
    let seed = match std::env::var("API_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => rand::random(),
    };
    println!("API_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut statuses = BTreeSet::new();
    for _ in 0..REQUESTS {
        let route = ROUTES.choose(&mut rng).unwrap();
        // It would end the server, and each reload is a line.
        if route.path == "/v1/drain" || (route.path == "/v1/reload" && rng.random_bool(0.9)) {
            continue;
        }
        let operation = operation(&description, route.method, route.path);
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = match rng.random_range(0..20) {
            _ if !schema.is_object() => String::new(),
            0 => text(&mut rng),
            1 => format!("{}{}", "[".repeat(500), "]".repeat(500)),
            _ => value_of(&description, schema, &mut rng, 0).to_string(),
        };
        // A target has its bound.
        let id: String = text(&mut rng).chars().take(100).collect();
        let id: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
        let path = route.path.replace("{id}", if id.is_empty() { "-" } else { &id });
        let query = query_of(operation, &mut rng);
        let target = if query.is_empty() { path } else { format!("{path}?{query}") };
        let key = format!("key-{}", rng.random_range(0..50));
        let headers: &[(&str, &str)] =
            if rng.random_bool(0.1) { &[("Idempotency-Key", key.as_str())] } else { &[] };
        let answer = api.ask(route.method, &target, headers, &body);
        assert!(answer.status < 500, "{} {target} {body}: {answer:?}", route.method);
        is_described(&description, route.method, route.path, &answer);
        statuses.insert(answer.status);
    }
    for status in [200, 400, 404, 422] {
        assert!(statuses.contains(&status), "{status} was never met: {statuses:?}");
    }
    assert_eq!(api.get("/v1/rooms?limit=0").status, 200);
    server.stop();
}
