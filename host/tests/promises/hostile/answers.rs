//! Guests whose servers attack, and guests that ask more than they may.

use std::time::Duration;

use lovage::sandbox::Plan;
use serde_json::json;

use super::{Fixture, Group, Seen};

const GRANTED: &str = "
    [defaults.grants]
    http = ['http://GOOD']
    http_networks = ['127.0.0.1/32']
";

const LATE: Seen =
    Seen::Failed("HttpResponseTimeout", "within 700ms (`http_timeout_ms` raises it)");
const LARGE: Seen =
    Seen::Failed("HttpResponseBodySize", "more than 1 MiB together (`http_bytes` raises it)");
const LARGE_CHUNKS: Seen =
    Seen::Failed("HttpResponseBodySize", "more than 32 KiB together (`http_bytes` raises it)");
const LARGE_HEAD: Seen =
    Seen::Failed("HttpResponseHeaderSectionSize", "the header of the response has more than");
const PROTOCOL: Seen = Seen::Failed("HttpProtocolError", "the exchange failed");
const CUT: Seen = Seen::Retried("the request failed: HttpResponseIncomplete");
const TOO_MANY: Seen =
    Seen::Failed("ConnectionLimitReached", "more than 100 requests (`http_requests` raises it)");
const HOARDS: Seen = Seen::Crashed("handle_limit", "held more than 4096 handles at once");

fn short(plan: &mut Plan) {
    plan.limits.http_timeout = Duration::from_millis(700);
}

fn small(plan: &mut Plan) {
    plan.limits.http_bytes = 1 << 20;
}

/// A byte at a time takes its time.
fn tiny(plan: &mut Plan) {
    plan.limits.http_bytes = 32 << 10;
}

fn gets(name: &str, does: &'static str, seen: Seen, path: &str) -> Fixture {
    let payload = json!({ "url": format!("http://GOOD{path}") });
    Fixture::guest(name, does, seen, ("fetch", "fetch", payload)).granted(GRANTED)
}

fn dials(
    name: &str,
    does: &'static str,
    seen: Seen,
    task: &'static str,
    path: &str,
    amount: u32,
) -> Fixture {
    let payload = json!({ "url": format!("http://GOOD{path}"), "amount": amount });
    Fixture::guest(name, does, seen, ("hostile/dials-out", task, payload)).granted(GRANTED)
}

pub fn group() -> Group {
    let fixtures = vec![
        gets(
            "is-answered-drop-by-drop",
            "reads a body of which a byte comes now and then",
            LATE,
            "/drip",
        )
        .planned(short),
        gets(
            "is-answered-with-a-dripping-header",
            "waits for a header of which a byte comes now and then",
            LATE,
            "/drip-a-head",
        )
        .planned(short),
        gets(
            "is-promised-a-body",
            "waits for a body of which the length comes, and nothing else",
            LATE,
            "/drip-a-length",
        )
        .planned(short),
        gets("is-never-answered", "waits for an answer that does not come", LATE, "/never")
            .planned(short),
        gets("is-answered-for-ever", "reads a body without end", LARGE, "/endless").planned(small),
        gets(
            "is-answered-in-tiny-chunks",
            "reads a body without end, in chunks of a byte",
            LARGE_CHUNKS,
            "/endless-chunks",
        )
        .planned(tiny),
        gets(
            "is-answered-with-a-chunk-size-without-end",
            "reads a chunk whose size never ends",
            PROTOCOL,
            "/endless-chunk-size",
        )
        .planned(small),
        gets(
            "is-answered-with-a-header-without-end",
            "waits for the end of one header",
            LARGE_HEAD,
            "/endless-header",
        )
        .planned(small),
        gets(
            "is-answered-with-headers-without-end",
            "waits for the last of the headers",
            LARGE_HEAD,
            "/endless-headers",
        )
        .planned(small),
        gets(
            "is-answered-with-trailers-without-end",
            "waits for the last of the trailers",
            PROTOCOL,
            "/endless-trailers",
        )
        .planned(small),
        gets(
            "is-told-to-continue-for-ever",
            "waits behind answers `100 Continue` without end",
            LARGE,
            "/endless-continues",
        )
        .planned(small),
        gets("is-answered-in-part", "reads a body that is shorter than its length", CUT, "/short"),
        gets(
            "is-answered-with-a-length-beyond-numbers",
            "reads a body with a length of forty digits",
            PROTOCOL,
            "/wide-length",
        ),
        gets(
            "is-answered-with-a-chunk-beyond-numbers",
            "reads a chunk of 2⁶⁸ bytes",
            PROTOCOL,
            "/wide-chunk",
        ),
        gets(
            "is-answered-with-two-lengths",
            "reads a body with two lengths",
            PROTOCOL,
            "/both-lengths",
        ),
        gets(
            "is-switched-to-another-protocol",
            "is answered `101 Switching Protocols`",
            Seen::Any,
            "/switches",
        )
        .planned(small),
        gets(
            "is-answered-in-another-protocol",
            "is answered with control characters, and no HTTP",
            PROTOCOL,
            "/no-http",
        ),
        gets(
            "is-answered-with-control-characters",
            "is answered with control characters everywhere",
            PROTOCOL,
            "/steers",
        ),
        gets("is-hung-up-on", "is answered by the end of the connection", CUT, "/closes"),
        dials("asks-too-often", "makes a thousand requests", TOO_MANY, "many_requests", "/", 1000),
        dials(
            "asks-too-often-at-once",
            "makes a thousand requests at once, and copes with what is refused",
            Seen::Told("100"),
            "at_once",
            "/",
            1000,
        ),
        dials(
            "hoards-requests",
            "makes a hundred thousand requests, and keeps all of them",
            HOARDS,
            "at_once",
            "/",
            100_000,
        ),
        dials(
            "sends-too-much",
            "sends 32 MiB, where 1 MiB is allowed",
            Seen::Failed(
                "HttpRequestBodySize",
                "more than 1 MiB together (`http_bytes` raises it)",
            ),
            "uploads",
            "/never",
            32 << 20,
        )
        .planned(small),
        dials(
            "reads-late",
            "reads an answer when its time is over",
            LATE,
            "reads_late",
            "/endless",
            1500,
        )
        .planned(short),
        dials(
            "holds-on-to-a-request",
            "never reads the answer, and waits for ever",
            Seen::TimedOut,
            "holds_on",
            "/drip",
            1,
        )
        .planned(|plan| plan.limits.timeout = Duration::from_millis(700)),
    ];
    Group {
        promise: "A server that is asked can do no more to the worker than to give a bad answer",
        fixtures,
    }
}
