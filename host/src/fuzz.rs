//! What is fuzzed: every decoder of what strangers send, and everything that shows it.
//!
//! Each target takes any bytes, and panics only where the host broke a promise. The tests below run
//! them over mutated seeds for a bounded time, which is what CI does; `host/fuzz` has the same
//! targets for libFuzzer (`make fuzz`). Not part of the library: only tests and fuzzers see it.

#![allow(
    clippy::missing_panics_doc,
    clippy::items_after_statements,
    reason = "to panic where a promise is broken is what a target is for"
)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::IgnoredAny;

use crate::{
    broker::{
        DeadLetter, Message, Outgoing, attribute,
        sqs::{
            self,
            attributes::TypedAttribute,
            message::{Parts, from_parts},
        },
    },
    config::Config,
    format::Format,
    job::MAX_NAME_BYTES,
    lambda::batch::Event,
    message::{Defaults, decode},
    outcome::{Failure, Output, Status},
    policy::Names,
    registry::precompiled::Manifest,
    result::JobResult,
    sqs_charset::{escape_json, first_refused},
    text::{nearest, one_line, printable, shorten, without_values},
};

mod policy;

pub use policy::policy_http;

/// A target: its name, and what it does with some bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("native", native),
    ("raw", raw),
    ("sqs_message", sqs_message),
    ("sqs_send", sqs_send),
    ("dead_letter", dead_letter),
    ("lambda_event", lambda_event),
    ("celery", celery),
    ("config", config),
    ("manifest", manifest),
    ("text", text),
    ("result", result),
    ("policy_names", policy_names),
    ("policy_http", policy_http),
    #[cfg(feature = "compiler")]
    ("shape", shape),
];

/// Bytes that are taken apart piece by piece.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Up to the next byte 255, which no UTF-8 has.
    fn bytes(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|&byte| byte == 0xff).unwrap_or(self.0.len());
        let (piece, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        piece
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.byte() % 8).map(|_| self.text()).collect()
    }
}

/// A job that was decoded has names that can be shown; a message that is none has a reason that
/// can be.
fn decoded(message: &Message, defaults: &Defaults) {
    let names = |names: [&str; 3]| {
        for name in names {
            assert!(name.len() <= MAX_NAME_BYTES && !name.contains(char::is_control), "{name:?}");
        }
    };
    match decode(message, defaults) {
        Ok(job) => names([&job.id, &job.task, &job.tenant]),
        Err(malformed) => {
            assert!(!malformed.reason.contains(char::is_control), "{:?}", malformed.reason);
            assert!(malformed.reason.len() < 4096, "{:?}", malformed.reason);
        }
    }
}

fn message(input: &mut Input<'_>) -> Message {
    let names = [
        attribute::ID,
        attribute::TASK,
        attribute::TENANT,
        attribute::CONTENT_TYPE,
        attribute::CONTENT_ENCODING,
        attribute::FORMAT,
        attribute::DEFERRED,
    ];
    let mut attributes = BTreeMap::new();
    for text in input.texts() {
        let name =
            names.get(usize::from(input.byte())).map_or_else(|| text.clone(), |&name| name.into());
        attributes.insert(name, TypedAttribute { data_type: input.text(), value: text });
    }
    let system = ["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader"];
    let system = system.iter().map(|&name| (name.to_owned(), input.text())).collect();
    from_parts(Parts {
        message_id: "m-1".to_owned(),
        receipt_handle: "r-1".to_owned(),
        body: input.text(),
        attributes,
        system,
    })
}

/// The native format's body.
pub fn native(data: &[u8]) {
    let mut message = message(&mut Input(&[]));
    message.body = data.to_vec().into();
    decoded(&message, &Defaults { task: Some("t".to_owned()), ..Defaults::default() });
}

/// A raw body with its media type.
pub fn raw(data: &[u8]) {
    let mut input = Input(data);
    let mut message = message(&mut Input(&[]));
    message.attributes.insert(attribute::CONTENT_TYPE.to_owned(), input.text());
    message.attributes.insert(attribute::CONTENT_ENCODING.to_owned(), input.text());
    message.body = input.0.to_vec().into();
    let task = Some("t".to_owned());
    decoded(&message, &Defaults { format: Format::Raw, task, ..Defaults::default() });
}

/// A message of SQS: body, attributes, and what SQS says of it.
pub fn sqs_message(data: &[u8]) {
    let mut input = Input(data);
    let format = if input.byte().is_multiple_of(2) { Format::Native } else { Format::Raw };
    let message = message(&mut input);
    assert!(message.attempt >= 1);
    decoded(&message, &Defaults { format, ..Defaults::default() });
}

/// A message on its way to SQS: whatever is refused is refused here, and not there.
pub fn sqs_send(data: &[u8]) {
    let mut input = Input(data);
    let delay = std::time::Duration::from_secs(u64::from(input.byte()) * 1000);
    let mut message = Outgoing { delay, ..Outgoing::default() };
    for text in input.texts() {
        message.attributes.insert(text, input.text());
    }
    message.group = Some(input.text());
    message.deduplication_id = Some(input.text());
    message.trace_header = Some(input.text());
    message.body = input.0.to_vec().into();
    for fifo in [false, true] {
        if let Ok(bytes) = sqs::check(&message, fifo) {
            assert!(bytes >= message.body.len());
            assert!(std::str::from_utf8(&message.body).is_ok_and(|it| first_refused(it).is_none()));
        }
    }
}

/// What a dead letter says of itself.
pub fn dead_letter(data: &[u8]) {
    let _ = serde_json::from_slice::<DeadLetter>(data);
}

/// A message of Celery's, and all that can follow from it.
pub fn celery(data: &[u8]) {
    use crate::celery::{
        Builtin, Exception, Ids, Json, Mapping, Publisher, Request, RichTypes,
        arguments::{Shape, payload},
        workflow::{self, Storing},
    };

    let request = match Request::parse(data, 1 << 16) {
        Ok(request) => request,
        Err(refused) => {
            assert!(!refused.reason.contains(char::is_control), "{:?}", refused.reason);
            assert!(refused.reason.len() < 4096, "{:?}", refused.reason);
            return;
        }
    };
    let routes = BTreeMap::new();
    let mut publisher = Publisher {
        default_queue: "celery",
        routes: &routes,
        origin: "fuzz",
        now: Timestamp::UNIX_EPOCH,
        inherit_priority: true,
        reply_to: None,
        ids: Ids::of("fuzz"),
    };
    let again = request.again(1, None, &mut publisher);
    let read = Request::parse(&again.body, 1 << 20).map(|it| (it.args, it.kwargs, it.chain));
    let was = (request.args.clone(), request.kwargs.clone(), request.chain.clone());
    assert_eq!(read, Ok(was));
    let storing = Storing { ignore_result: false, extended_by: Some("fuzz") };
    let _ = workflow::succeeded(&request, &Json::number(1), storing, &mut publisher);
    let failure = Exception::of_failure("ValueError", "no");
    workflow::failed(&request, &failure, storing, &mut publisher);
    workflow::revoked(&request, "revoked", storing, Timestamp::UNIX_EPOCH);
    let _ = Builtin::of(&request, &mut publisher);
    let shape = Shape::of(request.kwargs.get("schema").map(Json::text));
    for mapping in [Mapping::Auto, Mapping::Object] {
        if let Ok(json) = payload(&request.args, &request.kwargs, &shape, mapping, RichTypes::Plain)
        {
            assert!(serde_json::from_str::<IgnoredAny>(&json).is_ok(), "{json:?}");
        }
    }
}

/// An event of Lambda.
pub fn lambda_event(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(Ok(event)) = Event::parse(text)
    {
        for message in event.messages() {
            decoded(&message, &Defaults::default());
        }
    }
}

/// `lovage.toml`.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(error) = Config::parse(text, "fuzz")
    {
        assert!(!error.to_string().is_empty());
    }
}

/// The manifest of precompiled code.
pub fn manifest(data: &[u8]) {
    let _ = serde_json::from_slice::<Manifest>(data);
}

/// Everything that makes a text fit to be shown.
pub fn text(data: &[u8]) {
    let mut input = Input(data);
    let most = usize::from(input.byte()) * 4;
    let (one, other) = (input.text(), input.text());
    assert!(shorten(&one, most).len() <= most);
    let shown = one_line(&one, most);
    assert!(shown.len() <= most && !shown.contains(char::is_control), "{shown:?}");
    let shown = printable(&one, most);
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(shown.len() <= most && !shown.contains(steers), "{shown:?}");
    without_values(&one);
    nearest(&one, [other.as_str(), "process_data"]);
    // What is escaped for SQS is the same JSON, in characters that SQS takes.
    let json = serde_json::to_string(&one).unwrap_or_default();
    let escaped = escape_json(&json);
    assert!(first_refused(&escaped).is_none(), "{escaped:?}");
    assert_eq!(serde_json::from_str::<String>(&escaped).ok(), Some(one));
}

/// A result of any bytes, in both formats.
pub fn result(data: &[u8]) {
    let mut input = Input(data);
    let failed = input.byte().is_multiple_of(4);
    let content_type = match input.byte() % 3 {
        0 => "application/json".to_owned(),
        1 => "text/plain".to_owned(),
        _ => input.text(),
    };
    let names: [String; 3] = std::array::from_fn(|_| input.text());
    let failure = Failure::new(input.text(), input.text()).with_detail(input.text());
    let output = Output { content_type, data: input.0.to_vec().into() };
    let [id, task, tenant] = names;
    let result = JobResult {
        id: id.clone(),
        task,
        tenant,
        status: if failed { Status::Failed } else { Status::Done },
        value: if failed { Err(failure) } else { Ok(output) },
        attempt: 1,
        queued_at: None,
        started_at: None,
        finished_at: Timestamp::UNIX_EPOCH,
        component: None,
        usage: None,
    };
    let envelope = result.envelope();
    assert!(serde_json::from_slice::<IgnoredAny>(&envelope).is_ok(), "{envelope:?}");
    #[derive(serde::Deserialize)]
    struct Id {
        id: String,
    }
    let read: Option<Id> = serde_json::from_slice(&envelope).ok();
    assert_eq!(read.map(|it| it.id), Some(id));
    result.bare_message();
    result.too_large(1, 0).envelope();
}

/// Lists of names: what one list forbids is forbidden, whatever the others say.
pub fn policy_names(data: &[u8]) {
    let mut input = Input(data);
    let (first, second, name) = (input.texts(), input.texts(), input.text());
    let one = Names::new(Some(&first));
    let mut both = one.clone();
    both.narrow(&second);
    let other = Names::new(Some(&second));
    assert_eq!(both.allow(&name), one.allow(&name) && other.allow(&name));
    assert!(!both.is_empty() || !both.allow(&name));
}

/// A component, before it is compiled.
#[cfg(feature = "compiler")]
pub fn shape(data: &[u8]) {
    if let Err(problem) = crate::sandbox::check_shape(data) {
        assert!(problem.to_string().len() < 8192);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::*;

    /// How long each target is fuzzed, unless `LOVAGE_FUZZ_MS` says otherwise.
    const USUAL: Duration = Duration::from_millis(1500);

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", dir.display());
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    fn mutated(rng: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = rng.choice(seeds).cloned().unwrap();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..=bytes.len());
            let end = (at + rng.usize(..16)).min(bytes.len());
            match rng.u8(..7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
                1 => bytes.insert(at, rng.u8(..)),
                2 => {
                    bytes.drain(at..end);
                }
                3 => {
                    let piece = bytes[at..end].repeat(rng.usize(1..9));
                    bytes.splice(at..at, piece);
                }
                4 => {
                    let other = rng.choice(seeds).unwrap();
                    let from = rng.usize(..=other.len());
                    let piece = &other[from..(from + 32).min(other.len())];
                    bytes.splice(at..end, piece.iter().copied());
                }
                5 => {
                    let odd: [&[u8]; 10] = [
                        b"\xff",
                        b"\0",
                        b"\"",
                        b"\\u0000",
                        b"18446744073709551616",
                        b"-1",
                        b"1e999",
                        "\u{202e}".as_bytes(),
                        b"[[[[[[[[",
                        b"\x1b[2J",
                    ];
                    bytes.splice(at..end, odd[rng.usize(..odd.len())].iter().copied());
                }
                _ => {
                    bytes.splice(
                        at..at,
                        std::iter::repeat_with(|| rng.u8(..)).take(4).collect::<Vec<_>>(),
                    );
                }
            }
        }
        bytes.truncate(1 << 20);
        bytes
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let time = std::env::var("LOVAGE_FUZZ_MS").ok().and_then(|text| text.parse().ok());
        let time = time.map_or(USUAL, Duration::from_millis);
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            let mut rng = fastrand::Rng::with_seed(seed);
            let until = Instant::now() + time;
            let mut fed = 0;
            let mut inputs = seeds.iter().cloned();
            while Instant::now() < until {
                let input = inputs.next().unwrap_or_else(|| mutated(&mut rng, &seeds));
                let withstood = catch_unwind(AssertUnwindSafe(|| target(&input))).is_ok();
                assert!(withstood, "{name}: {:?}", String::from_utf8_lossy(&input));
                fed += 1;
            }
            eprintln!("{name}: {fed} inputs");
        }
    }

    /// Every target has its file for libFuzzer, and there is none too many.
    #[test]
    fn every_target_is_there_for_libfuzzer_too() {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        assert_eq!(files, names);
    }
}
