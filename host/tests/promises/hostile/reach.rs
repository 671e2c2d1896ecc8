//! Guests that ask where they may not, by all ways of writing it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Fixture, Group, Seen};

/// The rules allow more than the networks do: so each name and each address is looked at twice.
const GRANTED: &str = "
    [defaults.grants]
    http = [
        'http://GOOD', 'http://*.test:*', 'http://169.254.169.254:*', 'http://0.0.0.0:*',
        'http://[::ffff:169.254.169.254]:*', 'http://[::169.254.169.254]:*',
        'http://[64:ff9b::a9fe:a9fe]:*', 'http://[2002:a9fe:a9fe::]:*', 'http://[fd00:ec2::254]:*',
    ]
    http_networks = ['127.0.0.1/32']
";

const BELOW: &str = "
    [defaults.grants]
    http = ['GET http://GOOD/v1']
    http_networks = ['127.0.0.1/32']
";

const PROHIBITED: &str = "DestinationIpProhibited";
const DENIED: &str = "HttpRequestDenied";
const METADATA: Seen = Seen::Failed(PROHIBITED, "is a cloud's metadata service, and no range of");
const NUMBER: Seen = Seen::Failed(DENIED, "the host is a number");
const UNRULED: Seen = Seen::Failed(DENIED, "is allowed by no rule of `defaults.grants.http`");
const USER: Seen = Seen::Failed(DENIED, "it has user information");

fn asks(name: &str, does: &'static str, seen: Seen, payload: Value) -> Fixture {
    Fixture::guest(name, does, seen, ("fetch", "fetch", payload)).granted(GRANTED)
}

fn gets(name: &str, does: &'static str, seen: Seen, url: &str) -> Fixture {
    asks(name, does, seen, json!({ "url": url }))
}

fn follows(name: &str, does: &'static str, seen: Seen, to: &str) -> Fixture {
    let url = format!("http://GOOD/redirect?{to}");
    asks(name, does, seen, json!({ "url": url, "follow": 1000 }))
}

fn sends(name: &str, does: &'static str, seen: Seen, header: (&str, &str)) -> Fixture {
    let (header, value) = header;
    asks(name, does, seen, json!({ "url": "http://GOOD/echo", "headers": { header: value } }))
}

pub fn group() -> Group {
    let mut fixtures = addresses();
    fixtures.extend(names());
    fixtures.extend(redirects());
    fixtures.extend(requests());
    Group {
        promise: "A request goes only to where it may go, however that place is written",
        fixtures,
    }
}

fn addresses() -> Vec<Fixture> {
    let mapped = Seen::Failed(PROHIBITED, "is an IPv4 address in the form of IPv6");
    vec![
        gets(
            "asks-the-metadata-service",
            "asks `169.254.169.254`, which a rule allows and no network",
            METADATA,
            "http://169.254.169.254/latest/meta-data/",
        ),
        gets(
            "asks-it-in-ipv6",
            "asks the metadata service by its address of IPv6",
            METADATA,
            "http://[fd00:ec2::254]/latest/meta-data/",
        ),
        gets(
            "asks-it-mapped",
            "asks `[::ffff:169.254.169.254]`",
            mapped,
            "http://[::ffff:169.254.169.254]/",
        ),
        gets(
            "asks-it-mapped-in-hex",
            "asks `[::FFFF:A9FE:A9FE]`",
            mapped,
            "http://[::FFFF:A9FE:A9FE]/",
        ),
        gets(
            "asks-it-as-compatible",
            "asks `[::169.254.169.254]`",
            mapped,
            "http://[::a9fe:a9fe]/",
        ),
        gets(
            "asks-it-by-nat64",
            "asks `[64:ff9b::169.254.169.254]`",
            METADATA,
            "http://[64:ff9b::169.254.169.254]/",
        ),
        gets(
            "asks-it-by-6to4",
            "asks `[2002:a9fe:a9fe::]`",
            Seen::Failed(PROHIBITED, "is an IPv4 address in a 6to4 tunnel"),
            "http://[2002:a9fe:a9fe::]/",
        ),
        gets("asks-it-with-a-dot", "asks `169.254.169.254.`", METADATA, "http://169.254.169.254./"),
        gets("asks-it-in-decimal", "asks `2852039166`", NUMBER, "http://2852039166/"),
        gets("asks-it-in-hex", "asks `0xA9FEA9FE`", NUMBER, "http://0xA9FEA9FE/"),
        gets(
            "asks-it-in-octal",
            "asks `0251.0376.0251.0376`",
            NUMBER,
            "http://0251.0376.0251.0376/",
        ),
        gets("asks-it-in-three-parts", "asks `169.254.43518`", NUMBER, "http://169.254.43518/"),
        gets(
            "asks-it-in-wide-digits",
            "asks `１６９.254.169.254`, which some take for digits",
            Seen::Rejected("the host is none that can be sent"),
            "http://１６９.254.169.254/",
        ),
        gets(
            "asks-it-percent-encoded",
            "asks `%31%36%39.254.169.254`",
            Seen::Rejected("the host is none that can be sent"),
            "http://%31%36%39.254.169.254/",
        ),
        gets("asks-itself-in-short", "asks `127.1`", NUMBER, "http://127.1:PORT/"),
        gets(
            "asks-itself-as-zero",
            "asks `0.0.0.0`, which a rule allows and no network",
            Seen::Failed(PROHIBITED, "is unspecified, or of this network"),
            "http://0.0.0.0:PORT/",
        ),
        gets("asks-the-neighbouring-address", "asks `127.0.0.2`", UNRULED, "http://BAD/"),
        gets(
            "asks-another-port",
            "asks a port that it was not granted",
            UNRULED,
            "http://127.0.0.1:1/",
        ),
    ]
}

fn names() -> Vec<Fixture> {
    let slow = |plan: &mut lovage::sandbox::Plan| {
        plan.limits.http_connect_timeout = Duration::from_millis(500);
    };
    vec![
        gets(
            "asks-it-by-name",
            "asks a name that leads to the metadata service",
            METADATA,
            "http://metadata.test/",
        ),
        gets(
            "asks-it-by-a-mapped-name",
            "asks a name that leads to it in the form of IPv6",
            Seen::Failed(PROHIBITED, "is an IPv4 address in the form of IPv6"),
            "http://mapped.test/",
        ),
        gets(
            "asks-by-a-tunnel",
            "asks a name that leads into a tunnel to this machine",
            Seen::Failed(PROHIBITED, "is an IPv4 address in a 6to4 tunnel"),
            "http://tunnel.test:PORT/",
        ),
        Fixture::guest(
            "asks-a-name-that-turns",
            "asks a name twice that leads elsewhere the second time",
            METADATA,
            (
                "hostile/dials-out",
                "many_requests",
                json!({ "url": "http://turns.test:PORT/", "amount": 2 }),
            ),
        )
        .granted(GRANTED),
        gets(
            "asks-a-name-that-is-many-places",
            "asks a name that leads to three addresses, one of which it may ask",
            Seen::Told("good"),
            "http://both.test:PORT/",
        ),
        gets(
            "asks-a-name-with-a-crowd-behind-it",
            "asks a name that leads to 100,000 private addresses",
            Seen::Failed(PROHIBITED, "is private"),
            "http://many.test/",
        ),
        gets(
            "asks-a-name-without-an-address",
            "asks a name that leads nowhere",
            Seen::Retried("the name has no address"),
            "http://none.test/",
        ),
        gets(
            "asks-a-name-that-takes-its-time",
            "asks a name whose server never answers",
            Seen::Retried("resolving the name took too long"),
            "http://slow.test/",
        )
        .planned(slow),
        gets(
            "asks-a-name-with-an-odd-answer",
            "asks a name whose server answers with control characters",
            Seen::Retried("the name could not be resolved"),
            "http://odd.test/",
        ),
    ]
}

fn redirects() -> Vec<Fixture> {
    vec![
        follows(
            "is-led-to-the-metadata-service",
            "follows a redirect to it",
            METADATA,
            "http://169.254.169.254/latest/meta-data/",
        ),
        follows(
            "is-led-there-by-name",
            "follows a redirect to a name that leads to it",
            METADATA,
            "http://metadata.test/",
        ),
        follows(
            "is-led-there-in-decimal",
            "follows a redirect to `2852039166`",
            NUMBER,
            "http://2852039166/",
        ),
        follows(
            "is-led-elsewhere",
            "follows a redirect to whom it may not ask",
            UNRULED,
            "http://BAD/",
        ),
        follows(
            "is-led-elsewhere-without-a-scheme",
            "follows a redirect to `//127.0.0.2`",
            UNRULED,
            "//BAD/",
        ),
        follows(
            "is-led-elsewhere-behind-a-user",
            "follows a redirect with user information",
            USER,
            "http://GOOD@BAD/",
        ),
        follows(
            "is-led-to-a-file",
            "follows a redirect to `file:///etc/passwd`",
            Seen::Rejected("the host is none that can be sent"),
            "file:///etc/passwd",
        ),
        follows(
            "is-led-in-circles",
            "follows redirects that never end",
            Seen::Failed(
                "ConnectionLimitReached",
                "more than 100 requests (`http_requests` raises it)",
            ),
            "/circle",
        ),
    ]
}

fn requests() -> Vec<Fixture> {
    let below = |name: &str, does, path: &str| {
        gets(name, does, UNRULED, &format!("http://GOOD{path}")).granted(BELOW)
    };
    vec![
        gets(
            "hides-behind-a-user",
            "asks `http://good.test@169.254.169.254`",
            USER,
            "http://good.test@169.254.169.254/",
        ),
        gets(
            "hides-behind-a-port",
            "asks `http://127.0.0.1:80@127.0.0.2`",
            USER,
            "http://GOOD@BAD/",
        ),
        gets(
            "hides-behind-a-backslash",
            "asks `http://127.0.0.2\\@good.test`",
            Seen::Rejected("the host is none that can be sent"),
            "http://BAD\\@good.test/",
        ),
        gets(
            "has-two-ports",
            "asks `http://127.0.0.1:80:80`",
            Seen::Rejected("the host is none that can be sent"),
            "http://GOOD:PORT/",
        ),
        gets(
            "names-a-zone",
            "asks `http://[fe80::1%25eth0]`",
            Seen::Failed(DENIED, "what is in brackets is no IPv6 address"),
            "http://[fe80::1%25eth0]/",
        ),
        gets(
            "speaks-another-protocol",
            "asks `gopher://127.0.0.1`",
            Seen::Failed(DENIED, "the scheme is neither `http` nor `https`"),
            "gopher://GOOD/",
        ),
        asks(
            "opens-a-tunnel",
            "asks with the method `CONNECT`",
            UNRULED,
            json!({ "url": "http://GOOD/", "method": "CONNECT" }),
        ),
        asks(
            "smuggles-a-line-in-its-method",
            "asks with line ends in the method",
            Seen::Rejected("the method is none that can be sent"),
            json!({ "url": "http://GOOD/", "method": "GET / HTTP/1.1\r\nx: y\r\n\r\nGET" }),
        ),
        below("climbs-out-of-its-path", "asks `/v1/../admin`, granted `/v1`", "/v1/../admin"),
        below("climbs-out-encoded-twice", "asks `/v1/%252e%252e/admin`", "/v1/%252e%252e/admin"),
        below("climbs-out-by-a-parameter", "asks `/v1/..;/admin`", "/v1/..;/admin"),
        gets(
            "splits-a-request",
            "asks for a path with line ends and a second request in it",
            Seen::Rejected("the path is none that can be sent"),
            "http://GOOD/ HTTP/1.1\r\nhost: x\r\n\r\nGET /admin",
        ),
        sends(
            "splits-a-header",
            "sends a header with a line end in it",
            Seen::Rejected("the header x-mine"),
            ("x-mine", "a\r\nx-other: b"),
        ),
        sends(
            "names-another-host",
            "sends a header `host` of its own",
            Seen::Rejected("the header host"),
            ("host", "metadata.internal"),
        ),
        sends(
            "smuggles-a-request",
            "sends a header `transfer-encoding` of its own",
            Seen::Rejected("the header transfer-encoding"),
            ("transfer-encoding", "chunked"),
        ),
        sends(
            "forges-a-placeholder",
            "sends a header that looks like the placeholder of a secret",
            Seen::Told("lovage-secret-00000000000000000000000000000000"),
            ("x-api-key", "lovage-secret-00000000000000000000000000000000"),
        ),
    ]
}
