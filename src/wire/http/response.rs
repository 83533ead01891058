//! Answers that are not an upgrade. Each is the last thing on its connection.
//!
//! Does not know what the pages say.
//!
//! Invariant: every answer has `Connection: close`, and but for a 204 a `Content-Length` and, unless it answers HEAD, a
//! body.

use super::HttpError;

/// Appends the answer to a refused request. `head_only`: it was a HEAD, which wants no body. `retry_after_s`
/// says when to come back, in seconds.
pub fn write_error(error: &HttpError, retry_after_s: Option<u32>, head_only: bool, out: &mut Vec<u8>) {
    write_refusal(error, "", retry_after_s, head_only, out);
}

/// The same with `detail` behind the sentence, for what only this request has.
pub fn write_refusal(
    error: &HttpError,
    detail: &str,
    retry_after_s: Option<u32>,
    head_only: bool,
    out: &mut Vec<u8>,
) {
    let mut headers = error.headers.to_vec();
    let mut digits = itoa::Buffer::new();
    if let Some(seconds) = retry_after_s {
        headers.push(("Retry-After", digits.format(seconds)));
    }
    let gap = if detail.is_empty() { "" } else { " " };
    let body = [error.reason, gap, detail, "\n"].concat();
    write_page(error.status, "text/plain; charset=utf-8", body.as_bytes(), head_only, &headers, out);
}

/// Appends a page. `head_only`: the request was a HEAD, which wants the header fields of the body without it.
/// `extra_headers` are names and values that the caller vouches for; a `Connection` among them is sent
/// before `close`, in one field.
pub fn write_page(
    status: u16,
    content_type: &str,
    body: &[u8],
    head_only: bool,
    extra_headers: &[(&str, &str)],
    out: &mut Vec<u8>,
) {
    let mut digits = itoa::Buffer::new();
    let mut write = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    write(&["HTTP/1.1 ", digits.format(status), " ", phrase(status), "\r\n"]);
    // RFC 9110 section 8.6: no length in a 204, which has no content.
    if status != 204 {
        write(&["Content-Type: ", content_type, "\r\n"]);
        write(&["Content-Length: ", digits.format(body.len()), "\r\n"]);
    }
    let mut options = String::new();
    for (name, value) in extra_headers {
        if name.eq_ignore_ascii_case("connection") {
            options.push_str(value);
            options.push_str(", ");
        } else {
            write(&[name, ": ", value, "\r\n"]);
        }
    }
    write(&["Connection: ", &options, "close\r\n\r\n"]);
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// The reason phrase of a status (RFC 9110 section 15; 429, 431: RFC 6585).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        // RFC 9112 section 4: the phrase may be empty.
        _ => "",
    }
}
