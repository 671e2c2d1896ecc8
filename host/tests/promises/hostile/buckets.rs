//! Guests that want the buckets of others, or more of their own than they may have.

use lovage::sandbox::Plan;
use serde_json::{Value, json};

use super::{Fixture, Group, Seen};

const GRANTED: &str = "
    [defaults.grants]
    keyvalue = ['cache', 'more']
    [tenants.acme.grants]
    keyvalue = ['cache']
";

const DENIED: Seen = Seen::Told(r#"[{"error":"access-denied"}"#);
const HOARDS: Seen = Seen::Crashed("handle_limit", "held more than 4096 handles at once");

/// For the tenant `acme`; that of others is `umbrella`.
fn does(name: &str, does: &'static str, seen: Seen, steps: Value) -> Fixture {
    Fixture::guest(name, does, seen, ("hostile/buckets", "buckets", steps))
        .granted(GRANTED)
        .job(|job| "acme".clone_into(&mut job.tenant))
}

fn opens(name: &str, what: &'static str, bucket: &str) -> Fixture {
    does(name, what, DENIED, json!([{ "open": bucket }, { "get": "secret" }]))
}

fn reads(name: &str, what: &'static str, key: &str) -> Fixture {
    let steps = json!([{ "open": "cache" }, { "get": key }, { "exists": key }]);
    does(name, what, Seen::Told(r#"["opened",null,false]"#), steps)
}

fn often(plan: &mut Plan) {
    plan.limits.keyvalue_operations = 1_000_000;
}

pub fn group() -> Group {
    let mut fixtures = names();
    fixtures.extend(quotas());
    Group { promise: "A guest has the buckets that it was granted, of its tenant alone", fixtures }
}

fn names() -> Vec<Fixture> {
    vec![
        opens("opens-a-bucket-of-a-tenant", "opens `umbrella:cache`", "umbrella:cache"),
        opens("opens-a-bucket-by-climbing", "opens `../umbrella/cache`", "../umbrella/cache"),
        opens("opens-a-bucket-encoded", "opens `umbrella%3acache`", "umbrella%3acache"),
        opens("opens-a-bucket-with-a-nul", "opens `cache\\0`", "cache\0"),
        opens("opens-a-bucket-by-a-pattern", "opens `*`", "*"),
        opens(
            "opens-a-bucket-that-its-tenant-has-not",
            "opens the bucket `more`, which its task has and its tenant has not",
            "more",
        ),
        Fixture::guest(
            "opens-a-bucket-by-the-first-draft",
            "opens `umbrella:cache` by the first draft of the interfaces",
            Seen::Failed("keyvalue", "AccessDenied"),
            ("hostile/buckets-draft", "buckets_draft", json!("umbrella:cache")),
        )
        .granted(GRANTED),
        reads(
            "reads-a-key-of-others",
            "reads the key `secret`, which another tenant has",
            "secret",
        ),
        reads(
            "reads-a-key-by-climbing",
            "reads `../umbrella:cache/secret`",
            "../umbrella:cache/secret",
        ),
        reads("reads-a-key-with-a-nul", "reads `secret\\0`", "secret\0"),
        reads("reads-a-key-by-a-pattern", "reads `%`, `*` and `_` in one", "%*_"),
        reads("reads-a-key-as-sql", "reads `' OR '1'='1`", "' OR '1'='1' --"),
        does(
            "lists-the-keys-of-others",
            "lists all keys, and those after a cursor of its own making",
            Seen::Told(r#"["opened",[],{"error":"#),
            json!([{ "open": "cache" }, { "list_keys": null }, { "list_keys": "umbrella:cache" }]),
        ),
        does(
            "is-named-like-two-tenants",
            "is run for a tenant `umbrella:cache`, and opens `cache`",
            Seen::Told(r#"["opened",null,[]]"#),
            json!([{ "open": "cache" }, { "get": "secret" }, { "list_keys": null }]),
        )
        .job(|job| "umbrella:cache".clone_into(&mut job.tenant)),
        does(
            "is-named-by-climbing",
            "is run for a tenant `acme/../umbrella`, and opens `cache`",
            Seen::Told(r#"["opened",null,[]]"#),
            json!([{ "open": "cache" }, { "get": "secret" }, { "list_keys": null }]),
        )
        .job(|job| "acme/../umbrella".clone_into(&mut job.tenant)),
    ]
}

fn quotas() -> Vec<Fixture> {
    let full = |name: &str, what, seen, steps| {
        // A tenant each, since what they wrote stays.
        does(name, what, seen, steps)
            .planned(often)
            .granted("[defaults.grants]\nkeyvalue = ['full', 'large', 'long', 'many', 'count']")
    };
    vec![
        full(
            "fills-a-bucket-with-keys",
            "sets ten thousand keys",
            Seen::Told("would hold 101 keys, and 100 are allowed (`keyvalue.max_keys` raises it)"),
            json!([{ "open": "full" }, { "fill": [10_000, 1] }]),
        ),
        full(
            "fills-a-bucket-with-bytes",
            "sets values of 40 kB without end",
            Seen::Told("and 97.7 KiB are allowed (`keyvalue.max_bytes` raises it)"),
            json!([{ "open": "large" }, { "fill": [10_000, 40_000] }]),
        ),
        full(
            "sets-a-large-value",
            "sets a value of 100 kB",
            Seen::Told("and 48.8 KiB are allowed (`keyvalue.max_value_bytes` raises it)"),
            json!([{ "open": "large" }, { "set_bytes": ["v", 100_000] }]),
        ),
        full(
            "sets-a-huge-value",
            "sets a value of 10 MB",
            Seen::Crashed("host_call_too_large", "gave a host call more than"),
            json!([{ "open": "large" }, { "set_bytes": ["v", 10_000_000] }]),
        ),
        full(
            "sets-a-long-key",
            "sets a key of 100 kB",
            Seen::Told("the key has 100000 bytes, and 1024 are allowed"),
            json!([{ "open": "long" }, { "set": ["k".repeat(100_000), "" ] }]),
        ),
        full(
            "asks-for-too-many-keys",
            "asks for ten thousand keys in one call",
            Seen::Told("the call has 10000 keys, and 1000 are allowed in one"),
            json!([{ "open": "many" }, { "get_many": vec!["k"; 10_000] }]),
        ),
        full(
            "counts-beyond-numbers",
            "adds 2⁶³ − 1 to a number, twice",
            Seen::Told(r#"{"error":"#),
            json!([
                { "open": "count" },
                { "increment": ["n", i64::MAX] },
                { "increment": ["n", i64::MAX] },
            ]),
        ),
        does(
            "asks-buckets-too-often",
            "reads a key a million times",
            Seen::Told("and 50 are allowed (`keyvalue_operations` raises it)"),
            json!([{ "open": "cache" }, { "get_times": ["k", 1_000_000] }]),
        )
        .planned(|plan| plan.limits.keyvalue_operations = 50),
        does(
            "hoards-buckets",
            "opens its bucket a hundred thousand times, and keeps all handles",
            HOARDS,
            json!([{ "hoard": ["cache", 100_000] }]),
        ),
        does(
            "hoards-swaps",
            "begins ten thousand swaps, and keeps all handles",
            Seen::Crashed("handle_limit", "held more than 200 handles at once"),
            json!([{ "open": "cache" }, { "hoard_cas": ["k", 10_000] }]),
        )
        .planned(|plan| {
            often(plan);
            // Each is an operation, too.
            plan.limits.handles = 200;
        }),
    ]
}
