//! The rules of the configuration file: `[[rules]]` tables, each with the lines that it stands on.
//!
//! Rules are no keys: there are any number of them, and their order counts. So they are in the file only, and neither
//! flags nor environment variables add to them. What they mean is [`crate::policy`]'s to say.
//!
//! Invariant: each item of a list has its origin.

use toml::Spanned;
use toml::de::DeValue;

use super::Problem;
use super::settings::Origin;
use crate::policy::{Field, Rule, Rules};

/// The name of the tables.
pub const TABLE: &str = "rules";

/// A rule as the file has it.
#[derive(Debug, Clone)]
pub struct WrittenRule {
    /// Its lists.
    pub rule: Rule,
    /// Where its table begins.
    pub origin: Origin,
    /// Of each list that is there, by [`Field`]: where its key is, and each of its items.
    lists: [Option<(Origin, Vec<Origin>)>; Field::ALL.len()],
}

impl WrittenRule {
    /// Where an item is, or the list, or the rule.
    fn origin_of(&self, field: Field, item: Option<usize>) -> &Origin {
        match (&self.lists[field as usize], item) {
            (Some((_, items)), Some(item)) => &items[item],
            (Some((list, _)), None) => list,
            (None, _) => &self.origin,
        }
    }
}

/// Reads what the file has below the name of the tables. `origin` tells where a byte of the file is.
pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    origin: &impl Fn(usize) -> Origin,
    problems: &mut Vec<Problem>,
) -> Vec<WrittenRule> {
    let mut rules = Vec::new();
    let items = value.get_ref().as_array();
    if items.is_none() {
        let text = format!("{TABLE}: each rule is a table of its own, [[{TABLE}]]");
        problems.push(Problem::new(origin(value.span().start), text));
    }
    for item in items.into_iter().flatten() {
        let begin = origin(item.span().start);
        let Some(table) = item.get_ref().as_table() else {
            let text = format!("{TABLE}: a rule is a table with {}", names());
            problems.push(Problem::new(begin, text));
            continue;
        };
        let mut written = WrittenRule { rule: Rule::default(), origin: begin, lists: Default::default() };
        for (name, list) in table {
            let place = origin(name.span().start);
            let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name.get_ref()) else {
                let text =
                    format!("{TABLE}.{}: there is no such key; a rule has {}", name.get_ref(), names());
                problems.push(Problem::new(place, text));
                continue;
            };
            let mut origins = Vec::new();
            for item in items_of(list) {
                let Some(text) = item.get_ref().as_str() else {
                    let text = format!("{TABLE}.{}: allowed are texts, and lists of texts", field.name());
                    problems.push(Problem::new(origin(item.span().start), text));
                    continue;
                };
                written.rule.list_mut(field).push(text.to_owned());
                origins.push(origin(item.span().start));
            }
            written.lists[field as usize] = Some((place, origins));
        }
        rules.push(written);
    }
    rules
}

/// The items of a list; a list of one may be written without brackets.
fn items_of<'a, 'b>(list: &'a Spanned<DeValue<'b>>) -> Vec<&'a Spanned<DeValue<'b>>> {
    match list.get_ref().as_array() {
        Some(items) => items.iter().collect(),
        None => vec![list],
    }
}

fn names() -> String {
    Field::ALL.map(Field::name).join(", ")
}

/// The rules that are written, compiled.
///
/// # Errors
/// Everything that is wrong with them, each with its line.
pub(super) fn compile(written: &[WrittenRule]) -> Result<Rules, Vec<Problem>> {
    let rules = written.iter().map(|written| written.rule.clone()).collect();
    Rules::compile(rules).map_err(|problems| {
        let placed = |problem: crate::policy::Problem| {
            let origin = written[problem.rule].origin_of(problem.field, problem.item);
            Problem::new(origin.clone(), problem.text)
        };
        problems.into_iter().map(placed).collect()
    })
}

/// A list of a rule as TOML. Rules that compile have no control characters.
pub(super) fn toml_list(items: &[String]) -> String {
    let items: Vec<_> =
        items.iter().map(|item| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::config::settings::{Settings, Sources};
    use crate::config::{Config, ConfigError, load, render};
    use crate::policy::{Action, Who};

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tcbchat.toml");
        std::fs::write(&file, text).unwrap();
        (directory, file)
    }

    fn read_all(text: &str) -> Result<(Config, Settings), ConfigError> {
        let (_directory, file) = file(text);
        load(&Sources { file: Some(file), ..Sources::default() })
    }

    const RULES: &str = r#"
[[rules]]
who = "role:admin"
may = ["send", "manage"]
where = ["/topic/announcements"]

[stomp]
headers_max = 9

[[rules]]
who = ["anyone", 'login:a"b\c']
may = "subscribe"
deny = "send"
where = [
    "/topic/*",
    "/queue/jobs",
]
"#;

    #[test]
    fn rules_are_read_in_their_order_and_printed_as_they_were() {
        let (config, settings) = read_all(RULES).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.rules.len(), 2);
        assert_eq!(config.stomp.headers_max, 9);
        let written = settings.rules();
        assert_eq!(written[0].rule.who, ["role:admin"]);
        assert_eq!(written[1].rule.who, ["anyone", "login:a\"b\\c"]);
        assert_eq!(written[1].rule.destinations, ["/topic/*", "/queue/jobs"]);
        let anyone = Who::default();
        assert!(config.rules.may(anyone, Action::Subscribe, "/topic/announcements"));
        assert!(!config.rules.may(anyone, Action::Send, "/topic/announcements"));

        let printed = render::toml(&settings);
        assert!(printed.contains("tcbchat.toml:2.\n[[rules]]\nwho = [\"role:admin\"]\nmay = "), "{printed}");
        let (again, _) = read_all(&printed).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again, config);
    }

    #[test]
    fn inline_tables_are_rules_too_and_none_are_none() {
        let (config, _) = read_all("rules = [{ who = 'anyone', may = 'send', where = '**' }]\n").unwrap();
        assert_eq!(config.rules.len(), 1);
        let (config, settings) = read_all("rules = []\n").unwrap();
        assert!(config.rules.is_empty() && settings.rules().is_empty());
        let printed = render::toml(&settings);
        assert!(printed.contains("everything is allowed"), "{printed}");
    }

    #[test]
    fn every_mistake_has_its_line() {
        let error = read_all(
            "[[rules]]\n\
             who = [\"anyone\", \"everyone\"]\n\
             may = [\"send\"]\n\
             where = [\n\
             \"/topic/a\",\n\
             \"/topics/b\",\n\
             ]\n\
             [[rules]]\n\
             who = []\n\
             may = \"read\"\n\
             when = \"now\"\n\
             [stomp]\n\
             headers_max = 1\n\
             [[rules]]\n\
             who = [\"anyone\", 7]\n\
             deny = [\"send\"]\n\
             where = \"/topic/{login}\"\n",
        )
        .unwrap_err();
        let texts: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        // What is wrong with the file as such, and then what is wrong with what it says.
        let expected = [
            "11: rules.when: there is no such key; a rule has who, may, deny, where",
            "13: stomp.headers_max = 1: allowed are 8 to 1024",
            "15: rules.who: allowed are texts, and lists of texts",
            "2: rules.who = \"everyone\": allowed are \"anyone\"",
            "6: rules.where = \"/topics/b\": destinations begin with",
            "9: rules.who: a rule is for somebody",
            "10: rules.may = \"read\": allowed are \"subscribe\"",
            "8: rules.where: a rule is about a destination",
            "17: rules.where = \"/topic/{login}\": what is refused must not depend on a value",
        ];
        assert_eq!(texts.len(), expected.len(), "{texts:#?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.contains(&format!("tcbchat.toml:{expected}")), "{text} / {expected}");
        }
    }

    #[test]
    fn what_is_no_list_of_tables_is_told() {
        for (text, expected) in [
            (
                "[rules]\nwho = \"anyone\"\n",
                "tcbchat.toml:1: rules: each rule is a table of its own, [[rules]]",
            ),
            ("rules = 1\n", "tcbchat.toml:1: rules: each rule is a table of its own, [[rules]]"),
            ("rules = [\n1]\n", "tcbchat.toml:2: rules: a rule is a table with who, may, deny, where"),
        ] {
            let error = read_all(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn rules_are_in_the_file_only() {
        let environment = vec![("TCBCHAT_RULES_WHO".into(), "anyone".into())];
        let error = load(&Sources { environment, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.contains("no key has this name"), "{error}");
    }
}
