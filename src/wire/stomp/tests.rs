//! The decoder and the encoder, rule by rule. What holds for all inputs is in `tests/wire`.

use super::*;
use crate::limits::Stomp as Limits;

/// One frame or error, with nothing borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    command: Command,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Feeds `bytes` in chunks into a growing buffer. Returns frames, the bytes of heart-beats, and the error.
fn read_all(
    bytes: &[u8],
    version: Version,
    limits: &Limits,
    chunk: usize,
) -> (Vec<Seen>, usize, Option<StompError>) {
    let mut decoder = Decoder::default();
    let mut buf = Vec::new();
    let (mut frames, mut beats) = (Vec::new(), 0);
    for piece in bytes.chunks(chunk.max(1)) {
        buf.extend_from_slice(piece);
        loop {
            let consumed = match decoder.decode(&buf, version, limits) {
                Ok(Step::Need) => break,
                Ok(Step::HeartBeat { consumed }) => {
                    beats += consumed;
                    consumed
                }
                Ok(Step::Frame { stomp_frame, consumed }) => {
                    let headers = stomp_frame.headers();
                    frames.push(Seen {
                        command: stomp_frame.command,
                        headers: headers.map(|(n, v)| (n.into_owned(), v.into_owned())).collect(),
                        body: stomp_frame.body.to_vec(),
                    });
                    consumed
                }
                Err(error) => return (frames, beats, Some(error)),
            };
            buf.drain(..consumed);
        }
    }
    (frames, beats, None)
}

/// Reads whole and byte by byte.
fn read(bytes: &[u8], version: Version) -> (Vec<Seen>, usize, Option<StompError>) {
    let limits = Limits::default();
    let whole = read_all(bytes, version, &limits, bytes.len());
    assert_eq!(read_all(bytes, version, &limits, 1), whole, "{:?}", String::from_utf8_lossy(bytes));
    whole
}

fn seen(command: Command, headers: &[(&str, &str)], body: &[u8]) -> Seen {
    let headers = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    Seen { command, headers, body: body.to_vec() }
}

#[test]
fn the_newest_common_version_is_chosen() {
    for (offered, chosen) in [
        (None, Some(Version::V10)),
        (Some("1.0"), Some(Version::V10)),
        (Some("1.2,1.1,1.0"), Some(Version::V12)),
        (Some("1.0, 1.1"), Some(Version::V11)),
        (Some("1.3,1.1"), Some(Version::V11)),
        (Some("2.0"), None),
        (Some(""), None),
    ] {
        assert_eq!(Version::negotiate(offered), chosen, "{offered:?}");
    }
}

#[test]
fn a_send_of_each_version() {
    let bytes = b"SEND\ndestination:/topic/a\\cb\nx: y \n\nhello\0";
    for (version, destination, x) in [
        (Version::V10, "/topic/a\\cb", "y"),
        (Version::V11, "/topic/a:b", " y "),
        (Version::V12, "/topic/a:b", " y "),
    ] {
        let expected = seen(Command::Send, &[("destination", destination), ("x", x)], b"hello");
        assert_eq!(read(bytes, version), (vec![expected], 0, None), "{version}");
    }
}

#[test]
fn frames_and_heart_beats_follow_each_other_in_both_line_ends() {
    let bytes = b"\n\r\n\nSUBSCRIBE\r\nid:0\r\ndestination:/topic/a\r\n\r\n\0\r\n\nDISCONNECT\n\n\0\n";
    let subscribe = seen(Command::Subscribe, &[("id", "0"), ("destination", "/topic/a")], b"");
    let disconnect = seen(Command::Disconnect, &[], b"");
    assert_eq!(read(bytes, Version::V12), (vec![subscribe, disconnect], 8, None));
}

#[test]
fn a_body_with_a_length_may_hold_anything() {
    let bytes = b"SEND\ncontent-length:5\ncontent-length:99\n\na\0b\n\0\0\nBEGIN\ncontent-length:0\n\n\0";
    let send = seen(Command::Send, &[("content-length", "5"), ("content-length", "99")], b"a\0b\n\0");
    let begin = seen(Command::Begin, &[("content-length", "0")], b"");
    assert_eq!(read(bytes, Version::V12), (vec![send, begin], 1, None));
}

#[test]
fn the_first_of_repeated_headers_wins() {
    let bytes = b"MESSAGE\nfoo:World\nfoo:Hello\nf\\coo:x\n\n\0";
    let limits = Limits::default();
    let Ok(Step::Frame { stomp_frame, consumed }) = Decoder::default().decode(bytes, Version::V12, &limits)
    else {
        panic!("one frame");
    };
    assert_eq!(consumed, bytes.len());
    assert_eq!(stomp_frame.header("foo").as_deref(), Some("World"));
    assert_eq!(stomp_frame.header("f:oo").as_deref(), Some("x"));
    assert_eq!(stomp_frame.header("f\\coo"), None);
    assert_eq!(stomp_frame.header("FOO"), None);
}

#[test]
fn connect_is_not_escaped_and_trimmed_only_if_of_version_1_0() {
    for version in Version::ALL {
        let bytes = b"CONNECT\naccept-version:1.2\nlogin: a\\b\\c \n\n\0";
        let connect = seen(Command::Connect, &[("accept-version", "1.2"), ("login", " a\\b\\c ")], b"");
        assert_eq!(read(bytes, version), (vec![connect], 0, None));
        let bytes = b"CONNECT\nlogin: a\\b\\c \n\n\0";
        let connect = seen(Command::Connect, &[("login", "a\\b\\c")], b"");
        assert_eq!(read(bytes, version), (vec![connect], 0, None));
    }
}

#[test]
fn every_rule_has_its_refusal() {
    for (bytes, error) in [
        (&b"HELLO\n\n\0"[..], StompError::UnknownCommand),
        (b"send\n\n\0", StompError::UnknownCommand),
        (b"GET / HTTP/1.1\r\n", StompError::UnknownCommand),
        (b"\r\rSEND\n", StompError::UnknownCommand),
        (b"\0", StompError::NulInHead),
        (b"SEND\na:b\0", StompError::NulInHead),
        (b"SEND\ndestination\n", StompError::HeaderMalformed),
        (b"SEND\n:a\n", StompError::HeaderMalformed),
        (b"SEND\na:\\x\n", StompError::UndefinedEscape),
        (b"SEND\na:b\rc\n", StompError::CarriageReturn),
        (b"SEND\na:\xFF\n\n", StompError::HeadNotUtf8),
        (b"SEND\ncontent-length:x\n", StompError::ContentLength),
        (b"SEND\ncontent-length: 1\n", StompError::ContentLength),
        (b"SEND\ncontent-length:\n", StompError::ContentLength),
        (b"SEND\ncontent-length:-1\n", StompError::ContentLength),
        (b"SEND\ncontent-length:2\n\nabc\0", StompError::NulMissing),
        (b"SUBSCRIBE\ncontent-length:1\n", StompError::BodyNotAllowed),
        (b"SUBSCRIBE\nid:0\n\nx", StompError::BodyNotAllowed),
    ] {
        let (frames, _, refusal) = read(bytes, Version::V12);
        assert_eq!((frames, refusal), (vec![], Some(error)), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn bounds_are_named_and_what_fills_them_passes() {
    let limits = Limits {
        head_bytes_max: 40,
        header_bytes_max: 16,
        headers_max: 3,
        body_bytes_max: 5,
        ..Limits::default()
    };
    let cases: [(&[u8], Option<StompError>); 10] = [
        (b"SEND\naaaaaaaaaaaaaa:b\n\n12345\0", None),
        (b"SEND\naaaaaaaaaaaaaa:bc\n\n\0", Some(StompError::HeaderTooLong { max: 16 })),
        (b"SEND\na:b\na:b\na:b\n\n\0", None),
        (b"SEND\na:b\na:b\na:b\na:b\n\n\0", Some(StompError::TooManyHeaders { max: 3 })),
        (b"SEND\naaaaaaaaaaaaaa:b\r\naaaaaaaaaaaaaa:\r\n\r\n\0", None),
        (b"SEND\naaaaaaaaaaaaaa:b\naaaaaaaaaaaaaa:b\na:b\n", Some(StompError::HeadTooLong { max: 40 })),
        (b"SEND\n\n123456\0", Some(StompError::BodyTooLong { max: 5 })),
        (b"SEND\ncontent-length:5\n\n\0\0\0\0\0\0", None),
        (b"SEND\ncontent-length:6\n\n\0\0\0\0\0\0\0", Some(StompError::BodyTooLong { max: 5 })),
        (b"SEND\ncontent-length:99999999999999999999999\n", Some(StompError::HeaderTooLong { max: 16 })),
    ];
    for (bytes, error) in cases {
        for chunk in 1..=bytes.len() {
            let (frames, _, refusal) = read_all(bytes, Version::V12, &limits, chunk);
            assert_eq!(refusal, error, "{:?} by {chunk}", String::from_utf8_lossy(bytes));
            assert_eq!(frames.len(), usize::from(error.is_none()));
        }
    }
    let huge = b"SEND\ncontent-length:99999999999999999999999\n";
    assert_eq!(read(huge, Version::V12).2, Some(StompError::BodyTooLong { max: 1_114_112 }));
}

#[test]
fn needs_tells_the_length_of_a_frame_once_it_is_known() {
    let bytes = b"SEND\ncontent-length:5\n\nhello\0";
    let mut decoder = Decoder::default();
    let limits = Limits::default();
    for end in 0..bytes.len() {
        assert_eq!(decoder.decode(&bytes[..end], Version::V12, &limits), Ok(Step::Need));
        assert_eq!(decoder.needs(), (end >= 23).then_some(bytes.len()), "{end}");
    }
    assert!(matches!(decoder.decode(bytes, Version::V12, &limits), Ok(Step::Frame { .. })));
    assert_eq!(decoder, Decoder::default());
}

#[test]
fn frames_as_they_are_written() {
    let mut out = Vec::new();
    Encoder::new(&mut out, Command::Connected, Version::V12)
        .header("version", "1.2")
        .header("server", "a:\\b\n")
        .plain("n", "7")
        .finish();
    assert_eq!(out, b"CONNECTED\nversion:1.2\nserver:a:\\b \nn:7\n\n\0");
    out.clear();
    Encoder::new(&mut out, Command::Message, Version::V12)
        .raw_lines(b"a:\\c\n")
        .header("b", "\\:\n\r")
        .body(b"x");
    assert_eq!(out, b"MESSAGE\na:\\c\nb:\\\\\\c\\n\\r\ncontent-length:1\n\nx\0");
    out.clear();
    Encoder::new(&mut out, Command::Message, Version::V10).body(b"a\0b");
    assert_eq!(out, b"MESSAGE\ncontent-length:3\n\na\0b\0");
}

#[test]
fn user_headers_pass_through() {
    let bytes = b"SEND\r\ndestination:/topic/a\r\nreceipt:1\r\nx:a:b\\\\\r\ntransaction:t\r\nX:2\r\nx:3\r\ncontent-type:text/plain\r\npasscode:p\r\nk\\cy:v\r\n\r\nhi\0";
    let limits = Limits::default();
    let Ok(Step::Frame { stomp_frame, .. }) = Decoder::default().decode(bytes, Version::V12, &limits) else {
        panic!("one frame");
    };
    let mut lines = Vec::new();
    user_header_lines(&stomp_frame, false, &mut lines);
    assert_eq!(lines, b"x:a\\cb\\\\\nX:2\ncontent-type:text/plain\nk\\cy:v\n");
    for (version, expected) in [
        (Version::V12, &lines[..]),
        (Version::V11, b"x:a\\cb\\\\\nX:2\ncontent-type:text/plain\nk\\cy:v\n"),
        (Version::V10, b"x:a:b\\\nX:2\ncontent-type:text/plain\nk y:v\n"),
    ] {
        let mut out = Vec::new();
        transcode_lines(&lines, version, &mut out);
        assert_eq!(out, expected, "{version}");
    }
}

#[test]
fn where_an_answer_goes_is_no_senders_word_to_the_application() {
    let limits = Limits::default();
    let lines = |command: &str, is_for_app: bool| {
        let bytes = format!("{command}\nid:1\nreply-to:/topic/a\nreply-to :/topic/b\nx:y\n\n\0");
        let Ok(Step::Frame { stomp_frame, .. }) =
            Decoder::default().decode(bytes.as_bytes(), Version::V12, &limits)
        else {
            panic!("one frame");
        };
        let mut lines = Vec::new();
        user_header_lines(&stomp_frame, is_for_app, &mut lines);
        String::from_utf8(lines).unwrap()
    };
    assert_eq!(lines("SEND", false), "id:1\nreply-to:/topic/a\nreply-to :/topic/b\nx:y\n");
    assert_eq!(lines("SEND", true), "id:1\nx:y\n");
    assert_eq!(lines("SUBSCRIBE", true), "x:y\n");
}

#[test]
fn blanks_around_a_name_of_the_servers_make_no_other_name() {
    for (name, is_servers) in [
        ("sender", true),
        ("sender ", true),
        ("\t\u{a0}timestamp\u{feff}", true),
        ("\nsender", true),
        ("sender:", true),
        ("sender\0", true),
        (" content-length", true),
        ("sende r", false),
        ("my-sender", false),
        ("", false),
    ] {
        assert_eq!(is_server_header(name), is_servers, "{name:?}");
    }
}

#[test]
fn all_errors_are_listed_once_and_name_their_bound() {
    let all = StompError::all(&Limits::default());
    let mut names: Vec<&str> = all.iter().map(|error| error.short_name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
    for error in all {
        let text = error.to_string();
        assert_eq!(text.contains("stomp.") && text.contains("_max = "), error.is_bound(), "{text}");
    }
}
