//! The matcher of HTTP rules, against readers of the same texts that know nothing of it.
//!
//! Rules, the parts of a request and an address come as texts. Whatever is allowed has to be what a
//! rule says when it is read here: by splitting texts and comparing bits, with none of the policy's
//! own types. That reading is wider than the policy's on purpose: what the policy refuses may be
//! right all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Input;
use crate::policy::{Destination, Host, HttpPolicy, HttpRules, Reach};

/// Rules for HTTP requests.
pub fn policy_http(data: &[u8]) {
    let mut input = Input(data);
    let (rules, networks, narrower) = (input.texts(), input.texts(), input.texts());
    let (method, scheme) = (input.text(), input.text());
    let (authority, path) = (input.text(), input.text());
    let (written, ranges) = (input.text(), input.texts());

    let to = Destination::parse(&scheme, &authority, &path);
    match &to {
        Ok(to) => read(&scheme, &authority, to),
        Err(why) => shown(why),
    }
    as_wasmtime_has_it(&scheme, &authority, &path);

    let Ok(policy) = HttpPolicy::new(&rules, "http", &networks, "http_networks") else { return };
    let mut narrowed = policy.clone();
    if narrowed.narrow(Some(&narrower), "http", Some(&ranges), "http_networks").is_err() {
        return;
    }
    assert!(narrowed.is_empty() || !policy.is_empty(), "a tenant's rules widen a task's");
    for address in addresses(&written, to.as_ref().ok()) {
        let reach = policy.check_address(address);
        reached(address, reach.as_ref().ok(), &[networks.as_slice()]);
        let reach_of_tenant = narrowed.check_address(address);
        reached(address, reach_of_tenant.as_ref().ok(), &[&*networks, &*ranges]);
        assert!(reach_of_tenant.is_err() || reach.is_ok(), "{address}: a tenant's ranges widen");
    }
    let Ok(to) = to else { return };
    let allowed = policy.check(&method, &to);
    match &allowed {
        Ok(()) => assert!(
            rules.iter().any(|rule| allows(rule, &method, &scheme, &authority, &path)),
            "`{method} {scheme}://{authority}{path}` is allowed, and by none of {rules:?}"
        ),
        Err(why) => shown(why),
    }
    let tenants = HttpRules::parse(&narrower, "http").is_ok_and(|it| it.allow(&method, &to));
    assert_eq!(narrowed.check(&method, &to).is_ok(), allowed.is_ok() && tenants);
    assert!(!policy.is_empty() || allowed.is_err());
}

/// A reason is one line of a bounded length.
fn shown(why: &str) {
    assert!(why.len() < 2000 && !why.contains(char::is_control), "{why:?}");
}

/// What was read is what is written, and written again it is read as the same.
fn read(scheme: &str, authority: &str, to: &Destination) {
    let (host, port) = split(authority);
    match (&to.host, lenient(host)) {
        // No resolver could take it for an address.
        (Host::Name(name), number) => {
            assert!(number.is_none() && lenient(name).is_none(), "{authority} is a name");
            assert!(name.parse::<IpAddr>().is_err(), "{authority} is a name");
            assert_eq!(*name, spelled(host), "{authority}");
        }
        // One that is written for people, and means the same to everybody.
        (Host::Address(IpAddr::V4(address)), number) => {
            assert_eq!(number, Some(*address), "{authority}");
            assert_eq!(address.to_string(), spelled(host), "{authority}");
        }
        (Host::Address(IpAddr::V6(address)), _) => {
            assert_eq!(bracketed(host), Some(*address), "{authority}");
        }
    }
    assert_eq!(Some(to.port), port.map_or(Some(usual(scheme)), number), "{authority}");
    let again = Destination::parse(scheme, &to.authority(), "/");
    assert!(
        again.is_ok_and(|it| it.host == to.host && it.port == to.port && it.scheme == to.scheme),
        "{authority} is {to:?}"
    );
    assert!(!to.to_string().contains(char::is_control), "{:?}", to.to_string());
}

/// A guest's parts come as a URI, which is put together and taken apart again: that must not make
/// another place of them.
fn as_wasmtime_has_it(scheme: &str, authority: &str, path: &str) {
    let built = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
    let Ok(uri) = built.build() else { return };
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    let scheme_of = text(uri.scheme_str());
    let authority_of = text(uri.authority().map(http::uri::Authority::as_str));
    if let (Ok(given), Ok(taken)) = (
        Destination::parse(scheme, authority, "/"),
        Destination::parse(&scheme_of, &authority_of, uri.path()),
    ) {
        assert_eq!(
            (given.scheme, given.host, given.port),
            (taken.scheme, taken.host, taken.port),
            "{uri}"
        );
    }
}

/// Whether a rule allows a request, read with a text editor's means.
fn allows(rule: &str, method: &str, scheme: &str, authority: &str, path: &str) -> bool {
    let rule = rule.trim();
    let (methods, url) = rule.split_once(' ').unwrap_or(("", rule));
    let Some((rule_scheme, rest)) = url.split_once("://") else { return false };
    let (rule_authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (rule_host, rule_port) = split(rule_authority);
    let (host, port) = split(authority);
    let usual = usual(scheme);
    let port = port.map_or(Some(usual), number);
    let hosts = match rule_host.strip_prefix("*.") {
        Some(domain) => spelled(host).ends_with(&format!(".{}", spelled(domain))),
        None if rule_host.starts_with('[') => {
            bracketed(rule_host).is_some() && bracketed(rule_host) == bracketed(host)
        }
        None => spelled(rule_host) == spelled(host),
    };
    !method.eq_ignore_ascii_case("CONNECT")
        && (methods.is_empty() || methods.split(',').any(|one| one == method))
        && rule_scheme.eq_ignore_ascii_case(scheme)
        && !authority.contains(['@', '/', '\\', '?', '#', '%'])
        && !authority.contains(|c: char| c.is_whitespace() || c.is_control())
        && hosts
        && (rule_port == Some("*") || port == rule_port.map_or(Some(usual), number))
        && stays_below(path, prefix.trim_end_matches('/'))
}

/// Whether a path is below a prefix for who decodes it once or more often, takes `\` for `/`, drops
/// what follows a `;`, and resolves dots.
fn stays_below(path: &str, prefix: &str) -> bool {
    if prefix.is_empty() {
        return true;
    }
    let (mut path, mut prefix) = (path.as_bytes().to_vec(), prefix.as_bytes().to_vec());
    (0..4).all(|_| {
        (path, prefix) = (decoded(&path), decoded(&prefix));
        let (path, prefix) = (resolved(&path), resolved(&prefix));
        path.starts_with(&prefix)
    })
}

fn resolved(path: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment.split(|byte| *byte == b';').next() {
            Some(b"..") => drop(all.pop()),
            Some(b".") => {}
            _ => all.push(segment),
        }
    }
    all
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let text: Vec<char> = text.iter().map(|byte| char::from(*byte)).collect();
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Some(&character) = text.get(at) {
        let digit = |at: usize| text.get(at).and_then(|digit| digit.to_digit(16));
        at += 1;
        let byte = match (character, digit(at), digit(at + 1)) {
            ('%', Some(high), Some(low)) => {
                at += 2;
                high * 16 + low
            }
            _ => u32::from(character),
        };
        bytes.push(u8::try_from(byte).unwrap_or_default());
    }
    bytes
}

/// Host and port; the colon before a port is the last one, and in no brackets.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// The port where none is named.
fn usual(scheme: &str) -> u16 {
    if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 }
}

fn number(port: &str) -> Option<u16> {
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()
}

/// A name as it is compared.
fn spelled(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn bracketed(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// An address of IPv4 as the oldest of resolvers reads it (`inet_aton`): one to four numbers, each
/// decimal, octal or hexadecimal, the last of which fills what is left.
fn lenient(host: &str) -> Option<Ipv4Addr> {
    let parts = host.strip_suffix('.').unwrap_or(host).split('.').map(|part| {
        let lower = part.to_ascii_lowercase();
        let (digits, base) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(digits), _) => (digits, 16),
            (_, Some(digits)) if !digits.is_empty() => (digits, 8),
            _ => (&*lower, 10),
        };
        let all = digits.chars().all(|digit| digit.is_digit(base));
        all.then(|| u64::from_str_radix(digits, base).ok()).flatten()
    });
    let parts: Vec<u64> = parts.collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - first.len());
    let high = first.iter().fold(0, |bits, part| bits << 8 | part) << room;
    (*last < 1 << room).then(|| u32::try_from(high | last).ok().map(Ipv4Addr::from_bits))?
}

/// The addresses that a text is, and all forms that hide them in IPv6.
fn addresses(written: &str, to: Option<&Destination>) -> Vec<IpAddr> {
    let mut all = Vec::new();
    if let Some(Destination { host: Host::Address(address), .. }) = to {
        all.push(*address);
    }
    all.extend(bracketed(written).map(IpAddr::V6));
    all.extend(written.parse::<IpAddr>());
    if let Some(address) = lenient(written) {
        let [a, b] = [address.to_bits() >> 16, address.to_bits() & 0xffff]
            .map(|half| u16::try_from(half).unwrap_or_default());
        all.push(address.into());
        all.extend(
            [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, a, b),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, a, b),
            ]
            .map(IpAddr::V6),
        );
    }
    all
}

/// Whether an address may be reached as the policy says.
fn reached(address: IpAddr, reach: Option<&Reach>, lists: &[&[String]]) {
    match reach {
        None => {}
        Some(Reach::Public) => assert!(is_public(address), "{address} is reached as public"),
        Some(Reach::Granted) => {
            for ranges in lists {
                assert!(
                    ranges.iter().any(|range| has(range, address)),
                    "{address} is in none of {ranges:?}"
                );
            }
        }
    }
}

/// Whether a range in CIDR notation has an address, compared bit by bit; and means it, where that
/// address has another one in it: its form is narrower than the range of all IPv6.
fn has(range: &str, address: IpAddr) -> bool {
    let Some((network, length)) = range.split_once('/') else { return false };
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    let (mine, other, bits) = match (network, address) {
        (IpAddr::V4(mine), IpAddr::V4(other)) => {
            (u128::from(mine.to_bits()), u128::from(other.to_bits()), 32)
        }
        (IpAddr::V6(mine), IpAddr::V6(other)) => (mine.to_bits(), other.to_bits(), 128),
        _ => return false,
    };
    let same = (mine ^ other).checked_shr(bits - length.min(bits)).unwrap_or(0) == 0;
    let carries = match address {
        IpAddr::V6(six) if six.is_loopback() => 0,
        IpAddr::V6(six) => match six.segments() {
            [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => 96,
            [0x2002, ..] => 16,
            [0x2001, 0, ..] => 32,
            _ => 0,
        },
        IpAddr::V4(_) => 0,
    };
    same && length <= bits && length >= carries
}

/// Whether an address is of the public internet, by the standard library and by bits.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            let metadata = [[169, 254, 169, 254], [168, 63, 129, 16], [100, 100, 100, 200]];
            !(four.is_private()
                || four.is_loopback()
                || four.is_link_local()
                || four.is_broadcast()
                || four.is_documentation()
                || four.is_multicast()
                || four.is_unspecified()
                || metadata.contains(&[a, b, c, d])
                || matches!((a, b, c), (0 | 240.., ..) | (100, 64..=127, _) | (198, 18 | 19, _))
                || matches!((a, b, c), (192, 0, 0) | (192, 88, 99)))
        }
        IpAddr::V6(six) => {
            let embedded = |a: u16, b: u16| {
                is_public(Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b)).into())
            };
            match six.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] => embedded(a, b),
                [_, _, _, _, 0 | 0x200, 0x5efe, a, b] if !embedded(a, b) => false,
                [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
                [first, ..] => first >> 13 == 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An oracle that allowed all, or saw nothing, would find nothing.
    #[test]
    fn the_reading_that_the_policy_is_held_to_tells_right_from_wrong() {
        let rule = "GET,POST https://*.example.com:8443/v1";
        let allows =
            |method, scheme, authority, path| allows(rule, method, scheme, authority, path);
        assert!(allows("GET", "HTTPS", "a.Example.com.:8443", "/v1/x"));
        for (method, scheme, authority, path) in [
            ("PUT", "https", "a.example.com:8443", "/v1"),
            ("GET", "http", "a.example.com:8443", "/v1"),
            ("GET", "https", "a.example.com", "/v1"),
            ("GET", "https", "example.com:8443", "/v1"),
            ("GET", "https", "aexample.com:8443", "/v1"),
            ("GET", "https", "u@a.example.com:8443", "/v1"),
            ("GET", "https", "a.example.com:8443", "/v11"),
            ("GET", "https", "a.example.com:8443", "/v1/%252e%252e/x"),
            ("GET", "https", "a.example.com:8443", "/v1/..;/x"),
        ] {
            assert!(!allows(method, scheme, authority, path), "{method} {authority} {path}");
        }
        for text in ["127.1", "0x7f.1", "2130706433", "017700000001", "127.0.0.1.", "0x7F000001"] {
            assert_eq!(lenient(text), Some(Ipv4Addr::LOCALHOST), "{text}");
        }
        for text in ["", "a", "1.2.3.4.5", "256.1.1.1", "08", "127..1", "4294967296"] {
            assert_eq!(lenient(text), None, "{text}");
        }
        for text in ["10.0.0.1", "::1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002::1", "fd00::1"] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        let all = |address: &str| has("::/0", address.parse().unwrap());
        assert!(all("fd00::1") && !all("::ffff:10.0.0.1") && !all("64:ff9b::a00:1"));
        assert!(has("10.0.0.0/8", "10.1.2.3".parse().unwrap()));
        assert!(!has("10.0.0.0/8", "11.1.2.3".parse().unwrap()));
    }
}
