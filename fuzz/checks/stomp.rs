//! What must hold of the STOMP decoder and encoder for every input. Shared by the fuzz target, the replay of
//! its corpus and the property tests.
//!
//! Invariant: these functions panic exactly when the codec is wrong.

use tcbchat::limits;
use tcbchat::wire::stomp::{
    Command, Decoder, Encoder, Step, StompError, StompFrame, Version, is_server_header, transcode_lines,
    user_header_lines,
};

/// A frame with nothing borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub command: Command,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// All that came out of a stream of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub items: Vec<Item>,
    /// Bytes of EOLs between frames.
    pub beat_bytes: usize,
    pub error: Option<StompError>,
}

/// Small enough for small inputs to go past.
pub fn small_limits() -> limits::Stomp {
    limits::Stomp {
        head_bytes_max: 120,
        header_bytes_max: 60,
        headers_max: 6,
        body_bytes_max: 50,
        ..limits::Stomp::default()
    }
}

/// One input of the fuzzer: the first byte chooses version, bounds and cuts.
pub fn run(data: &[u8]) {
    if let Some((&options, bytes)) = data.split_first() {
        let version = Version::ALL[usize::from(options) % 3];
        let limits = if options & 4 == 0 { limits::Stomp::default() } else { small_limits() };
        check(version, bytes, &[1 + usize::from(options >> 3), 1 + usize::from(options >> 6)], &limits);
    }
}

/// Everything that must hold when `bytes` come in, cut into chunks of these lengths, over and over.
pub fn check(version: Version, bytes: &[u8], chunks: &[usize], limits: &limits::Stomp) {
    let whole = read(version, bytes, &[usize::MAX], limits);
    assert_eq!(read(version, bytes, &[1], limits), whole, "byte by byte");
    assert_eq!(read(version, bytes, chunks, limits), whole, "by {chunks:?}");
}

/// Reads `bytes`, cut into chunks of these lengths, over and over.
pub fn read(version: Version, bytes: &[u8], chunks: &[usize], limits: &limits::Stomp) -> Outcome {
    let mut outcome = Outcome::default();
    let mut decoder = Decoder::default();
    let mut chunks = chunks.iter().cycle();
    // The buffer is `bytes[start..end]`.
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        let left = bytes.len() - end;
        end += chunks.next().map_or(left, |&bytes| bytes.clamp(1, left));
        loop {
            let buf = &bytes[start..end];
            let consumed = match decoder.decode(buf, version, limits) {
                Ok(Step::Need) => {
                    decoder.check(buf);
                    break;
                }
                Ok(Step::HeartBeat { consumed }) => {
                    outcome.beat_bytes += consumed;
                    consumed
                }
                Ok(Step::Frame { stomp_frame, consumed }) => {
                    check_frame(&stomp_frame, version, consumed, limits);
                    outcome.items.push(Item::of(&stomp_frame));
                    consumed
                }
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            };
            assert!(consumed > 0 && consumed <= buf.len());
            assert_eq!(decoder, Decoder::default());
            start += consumed;
        }
    }
    outcome
}

impl Item {
    fn of(stomp_frame: &StompFrame<'_>) -> Item {
        let headers = stomp_frame.headers().map(|(name, value)| (name.into_owned(), value.into_owned()));
        Item { command: stomp_frame.command, headers: headers.collect(), body: stomp_frame.body.to_vec() }
    }
}

/// What must hold of one frame: its bounds, its way through the encoder, and what is passed on of it.
fn check_frame(stomp_frame: &StompFrame<'_>, version: Version, consumed: usize, limits: &limits::Stomp) {
    let item = Item::of(stomp_frame);
    assert!(item.headers.len() <= limits.headers_max as usize);
    assert!(item.body.len() <= limits.body_bytes_max as usize);
    assert!(consumed > item.command.as_str().len() + item.body.len());
    for (name, value) in &item.headers {
        assert!(!name.is_empty());
        assert!(name.len() + value.len() < limits.header_bytes_max as usize);
        let first = item.headers.iter().find(|(other, _)| other == name);
        assert_eq!(stomp_frame.header(name).as_deref(), first.map(|(_, value)| &value[..]), "the first wins");
    }

    // Escapes make lines longer, by their double at most.
    let wide = limits::Stomp {
        head_bytes_max: 2 * limits.head_bytes_max + 64,
        header_bytes_max: 2 * limits.header_bytes_max,
        headers_max: limits.headers_max + 1,
        ..limits.clone()
    };
    for to in Version::ALL {
        let again = read_one(&encode(&item, to), to, &wide);
        assert_eq!(again.command, item.command);
        assert_eq!(again.body, item.body);
        assert_eq!(without_length(&again), without_length(&written(&item, to)), "from {version} to {to}");
    }
    if item.command == Command::Send {
        check_passing(stomp_frame, &item, &wide);
    }
}

/// User headers survive the way from the SEND to a MESSAGE of any version.
fn check_passing(stomp_frame: &StompFrame<'_>, item: &Item, limits: &limits::Stomp) {
    let mut lines = Vec::new();
    user_header_lines(stomp_frame, false, &mut lines);
    let mut expected = Item { command: Command::Message, headers: Vec::new(), body: Vec::new() };
    for (name, value) in &item.headers {
        let is_known = expected.headers.iter().any(|(earlier, _)| earlier == name);
        if !is_server_header(name) && !is_known {
            expected.headers.push((name.clone(), value.clone()));
        }
    }
    for to in Version::ALL {
        let (mut passed, mut out) = (Vec::new(), Vec::new());
        transcode_lines(&lines, to, &mut passed);
        Encoder::new(&mut out, Command::Message, to).raw_lines(&passed).finish();
        assert_eq!(read_one(&out, to, limits).headers, written(&expected, to).headers, "to {to}");
        assert_eq!(out, encode(&expected, to), "to {to}");
    }
}

/// The item as this side writes it, its length aside.
pub fn encode(item: &Item, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, item.command, version);
    for (name, value) in &item.headers {
        if name != "content-length" {
            encoder = encoder.header(name, value);
        }
    }
    if item.body.is_empty() {
        encoder.finish()
    } else {
        encoder.body(&item.body)
    }
    out
}

/// The item as a peer of that version reads it: what the version has no way to write is a space.
pub fn written(item: &Item, version: Version) -> Item {
    let is_open = |command| matches!(command, Command::Connect | Command::Stomp | Command::Connected);
    let plain = version == Version::V10 || is_open(item.command);
    let has_versions = item.headers.iter().any(|(name, _)| name == "accept-version");
    let trims = match item.command {
        Command::Connect | Command::Stomp => !has_versions,
        _ => version == Version::V10,
    };
    let clean = |text: &str, lost: &[char]| text.replace(lost, " ");
    let headers = item.headers.iter().map(|(name, value)| match version {
        _ if plain => {
            let value = clean(value, &['\r', '\n']);
            let value = if trims { value.trim_matches([' ', '\t']) } else { &value };
            (clean(name, &['\r', '\n', ':']), value.to_owned())
        }
        Version::V11 => (clean(name, &['\r']), clean(value, &['\r'])),
        _ => (name.clone(), value.clone()),
    });
    Item { headers: headers.collect(), ..item.clone() }
}

/// Reads exactly one frame.
pub fn read_one(bytes: &[u8], version: Version, limits: &limits::Stomp) -> Item {
    match Decoder::default().decode(bytes, version, limits) {
        Ok(Step::Frame { stomp_frame, consumed }) if consumed == bytes.len() => Item::of(&stomp_frame),
        other => panic!("not one frame of {version}: {other:?} of {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn without_length(item: &Item) -> Vec<&(String, String)> {
    item.headers.iter().filter(|(name, _)| name != "content-length").collect()
}
