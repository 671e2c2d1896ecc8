//! Guests that want secrets which they were not granted, or to take them where they may not go.

use serde_json::{Value, json};

use super::{Fixture, Group, Seen};

/// The secret `key` is for requests to `/only`, and guests have a placeholder for it.
const GRANTED: &str = "
    [defaults.grants]
    http = ['http://GOOD', 'http://*.test:*']
    http_networks = ['127.0.0.1/32']
    config = { greeting = 'hello' }
    secrets = { api_key = 'key' }
    [tenants.acme.grants]
    secrets = { other = 'plain' }
    config = { more = 'not for you' }
";

fn asks(name: &str, does: &'static str, seen: Seen, ask: Value) -> Fixture {
    Fixture::guest(name, does, seen, ("hostile/settings", "settings", ask)).granted(GRANTED)
}

fn reads(name: &str, does: &'static str, key: &str) -> Fixture {
    asks(name, does, Seen::Told("null"), json!({ "get": key }))
}

fn takes(name: &str, does: &'static str, seen: Seen, url: &str) -> Fixture {
    let ask = json!({ "url": url });
    Fixture::guest(name, does, seen, ("hostile/keyholder", "keyholder", ask)).granted(GRANTED)
}

const MAY_NOT: Seen = Seen::Failed("HttpRequestDenied", "secret that may not go there");

pub fn group() -> Group {
    let fixtures = vec![
        reads(
            "reads-a-secret-by-its-own-name",
            "reads the key `plain`, as the operator calls a secret",
            "plain",
        ),
        reads(
            "reads-a-secret-by-its-file",
            "reads the path of a secret's file as a key",
            "DIR/secret",
        ),
        reads("reads-a-secret-by-climbing", "reads the key `../secrets/plain`", "../secrets/plain"),
        reads("reads-a-variable-of-the-host", "reads the key `PATH`", "PATH"),
        reads(
            "reads-a-key-of-a-tenant",
            "reads a key that its task has not, for a tenant that has it",
            "other",
        )
        .job(|job| "acme".clone_into(&mut job.tenant)),
        asks(
            "reads-all-there-is",
            "reads all, and has a placeholder for the secret",
            Seen::Told("\"api_key\":\"lovage-secret-"),
            json!("all"),
        ),
        takes(
            "takes-a-secret-elsewhere",
            "sends a secret to a path that it is not for",
            MAY_NOT,
            "http://GOOD/echo",
        ),
        takes(
            "takes-a-secret-to-a-redirect",
            "sends a secret to where it would be sent on",
            MAY_NOT,
            "http://GOOD/redirect?/echo",
        ),
        takes(
            "takes-a-secret-to-another-name",
            "sends a secret to the same server by another name",
            MAY_NOT,
            "http://good.test:PORT/only",
        ),
        takes(
            "takes-a-secret-by-climbing",
            "sends a secret to `/only/../echo`",
            MAY_NOT,
            "http://GOOD/only/../echo",
        ),
        takes(
            "takes-a-secret-behind-a-slash",
            "sends a secret to `/only%2f..%2fecho`",
            MAY_NOT,
            "http://GOOD/only%2f..%2fecho",
        ),
    ];
    Group {
        promise: "A secret is told to whom it was granted, and sent where it may go alone",
        fixtures,
    }
}
