//! The tables of `docs/PROTOCOL.md`, for the tests that compare them with the catalogues of the code.
//!
//! Reads Markdown tables and knows nothing of what is in them.
//!
//! Invariant: a table is found by its heading line, which is looked for as a whole and must be there once.

const PROTOCOL: &str = include_str!("../../docs/PROTOCOL.md");

/// The rows of the table whose first line is `heading`, as cells without the blanks around them.
pub(crate) fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let mut tables = PROTOCOL.split("\n\n").filter_map(|paragraph| {
        let (before, rows) = paragraph.split_once(heading)?;
        (before.is_empty() || before.ends_with('\n')).then_some(rows)
    });
    let rows = tables.next().unwrap_or_else(|| panic!("docs/PROTOCOL.md has no table {heading}"));
    assert_eq!(tables.next(), None, "docs/PROTOCOL.md has two tables {heading}");
    // The heading's own end, and the line under it.
    rows.lines().skip(2).map(cells).collect()
}

fn cells(row: &str) -> Vec<&str> {
    let row = row.strip_prefix('|').and_then(|row| row.strip_suffix('|'));
    row.expect("a row between bars").split('|').map(str::trim).collect()
}

mod tests {
    use super::rows;
    use crate::limits;
    use crate::wire::http::HttpError;
    use crate::wire::stomp::{Command, SERVER_HEADERS, StompError};
    use crate::wire::ws::WsError;

    #[test]
    fn the_http_answers_are_documented() {
        let mut documented = rows("| status | when | body | header fields |");
        assert_eq!(documented.remove(0)[0], "101");
        let code = HttpError::ALL.iter().map(|error| {
            let headers = error.headers.iter().map(|(name, value)| format!("`{name}: {value}`"));
            (error.status.to_string(), error.reason.to_owned(), headers.collect::<Vec<_>>().join(", "))
        });
        let documented =
            documented.iter().map(|row| (row[0].to_owned(), row[2].to_owned(), row[3].to_owned()));
        assert_eq!(documented.collect::<Vec<_>>(), code.collect::<Vec<_>>());
    }

    #[test]
    fn broken_framing_is_documented() {
        let documented = rows("| close code | reason | RFC 6455 |");
        let documented = documented.iter().map(|row| (row[0].to_owned(), row[1]));
        let code = WsError::ALL.iter().map(|error| (error.close_code().to_string(), error.reason()));
        assert_eq!(documented.collect::<Vec<_>>(), code.collect::<Vec<_>>());
    }

    #[test]
    fn stomp_errors_are_documented() {
        let codec = StompError::all(&limits::Stomp::default());
        let documented = rows("| name | message | close code |");
        let documented = documented.iter().map(|row| (row[0], row[1].to_owned(), row[2]));
        let code = codec.iter().map(|error| {
            (error.short_name(), error.to_string(), if error.is_bound() { "1009" } else { "1002" })
        });
        assert_eq!(documented.collect::<Vec<_>>(), code.collect::<Vec<_>>());
    }

    #[test]
    fn every_command_is_documented() {
        let mut documented: Vec<&str> = Vec::new();
        let client = rows("| command | headers it needs | headers that are read | what follows |");
        let server = rows("| command | headers |");
        for row in client.iter().chain(&server) {
            documented.extend(row[0].split(", ").map(|command| command.trim_matches('`')));
        }
        let all: Vec<&str> = Command::ALL.iter().map(|command| command.as_str()).collect();
        assert_eq!(documented, all);
    }

    #[test]
    fn headers_that_are_not_passed_on_are_documented() {
        let listed: Vec<String> = SERVER_HEADERS.iter().map(|name| format!("`{name}`")).collect();
        let text = super::PROTOCOL.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(&format!("these are not passed on: {}.", listed.join(", "))));
    }
}
