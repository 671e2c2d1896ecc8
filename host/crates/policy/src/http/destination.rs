//! Where one request goes, read in one way only.
//!
//! Rules are checked against what is read here, and the connection is made from it, too. So what
//! two readers could take for two places is refused, and not interpreted: user information, numbers
//! that resolvers take for addresses, characters that no host has.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::path::Path;

/// How a request is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => Err("the scheme is neither `http` nor `https`".to_owned()),
        }
    }

    /// The port where none is named.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A host, in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name: in lower case, without a dot at its end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// RFC 1035, section 2.3.4, in the form that names are written in.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

impl Host {
    /// Reads a host. The error is what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner
                .strip_suffix(']')
                .and_then(|inner| inner.parse::<Ipv6Addr>().ok())
                .map(|address| Self::Address(address.into()))
                .ok_or_else(|| "what is in brackets is no IPv6 address".to_owned());
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err("the host is missing".to_owned());
        }
        if !name.is_ascii() {
            return Err("the host has other letters than a-z; write it as `xn--…`".to_owned());
        }
        let fits = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() > MAX_HOST || !name.split('.').all(fits) {
            return Err("the host is no name that a host can have".to_owned());
        }
        // Resolvers take `127.1`, `0x7f.1` and `2130706433` for addresses.
        if name.rsplit('.').next().is_some_and(is_number) {
            return name.parse::<Ipv4Addr>().map(|address| Self::Address(address.into())).map_err(
                |_| "the host is a number; an IPv4 address is written as `192.0.2.1`".to_owned(),
            );
        }
        Ok(Self::Name(name))
    }
}

fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x");
    label.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Splits `HOST[:PORT]`; refuses user information.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if authority.contains('@') {
        return Err("it has user information (`…@`) in front of the host".to_owned());
    }
    // The colons of an IPv6 address are in brackets.
    let end = authority.find(']').map_or(0, |at| at + 1);
    match authority.get(end..).and_then(|rest| rest.rfind(':')) {
        None => Ok((authority, None)),
        Some(at) => {
            let host = authority.get(..end + at).unwrap_or_default();
            Ok((host, Some(authority.get(end + at + 1..).unwrap_or_default())))
        }
    }
}

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    // `parse` takes a plus sign, too.
    text.parse()
        .ok()
        .filter(|port| *port != 0 && text.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| "the port is no number from 1 to 65535".to_owned())
}

/// Where a request goes. Its display leaves out the query, which may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// How it is carried.
    pub scheme: Scheme,
    /// To whom.
    pub host: Host,
    /// To which port.
    pub port: u16,
    pub(super) path: Path,
}

impl Destination {
    /// Reads where a request goes; the path is without a query. The error is what is wrong.
    pub fn parse(scheme: &str, authority: &str, path: &str) -> Result<Self, String> {
        let scheme = Scheme::parse(scheme)?;
        let (host, port) = split_port(authority)?;
        Ok(Self {
            scheme,
            host: Host::parse(host)?,
            port: port.map_or(Ok(scheme.port()), parse_port)?,
            path: Path::new(path),
        })
    }

    /// `HOST[:PORT]` as it is written for the scheme: for the header `host`.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.name(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(authority: &str) -> Result<(String, u16), String> {
        Destination::parse("https", authority, "/").map(|to| (to.host.to_string(), to.port))
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (text, host, port) in [
            ("Example.COM", "example.com", 443),
            ("example.com.", "example.com", 443),
            ("example.com:8080", "example.com", 8080),
            ("127.0.0.1.:1", "127.0.0.1", 1),
            ("[::1]", "[::1]", 443),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]", 80),
            ("a_b-c", "a_b-c", 443),
        ] {
            assert_eq!(read(text), Ok((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "-:x",
            "a:",
            "a:0",
            "a:+80",
            "a:65536",
            "a:b:80",
            "user@a",
            "a@b@c",
            "127.1",
            "127.0.1",
            "0x7f000001",
            "0x7f.0.0.1",
            "2130706433",
            "017700000001",
            "127.0.0.01",
            "127.0.0.1..",
            "1.2.3.4.5",
            "256.1.1.1",
            "a.0x",
            "::1",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[127.0.0.1]",
            "[]",
            "ex%61mple.com",
            "exämple.com",
            "a b",
            "a/b",
            "a\\b",
            "a#b",
            "a?b",
            "*.a",
            "*",
        ] {
            assert!(read(text).is_err(), "{text} is {:?}", read(text));
        }
        assert!(read(&format!("{}.com", "a".repeat(64))).is_err());
        assert!(read(&"a.".repeat(200)).is_err());
        assert!(Destination::parse("ftp", "a", "/").is_err());
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_is_a_number_in_disguise(text in "[0-9a-fA-FxX.:\\[\\]%@-]{0,24}") {
            if let Ok(to) = Destination::parse("http", &text, "/") {
                if let Host::Name(name) = &to.host {
                    let last = name.rsplit('.').next().unwrap();
                    prop_assert!(!last.bytes().all(|b| b.is_ascii_digit()), "{text}");
                }
                // What is shown is read as the same again.
                let again = Destination::parse("http", &to.authority(), "/");
                prop_assert_eq!(again, Ok(to));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}", path in ".{0,80}") {
            let _ = Destination::parse("https", &text, &path);
        }
    }
}
