//! One rule, and the rules of one field.

use super::{
    destination::{Destination, Host, Scheme, parse_port, split_port},
    path::segments,
};
use lovage_core::text::one_line;

/// How much of a rule an error shows.
const SHOWN_BYTES: usize = 200;

/// `[METHOD[,METHOD…] ]SCHEME://HOST[:PORT][/PATH]`
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// None: any.
    methods: Vec<String>,
    scheme: Scheme,
    host: Hosts,
    /// None: any.
    port: Option<u16>,
    path: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Only(Host),
    /// Names that end in this; it begins with a dot.
    Below(String),
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let (methods, url) = match text.trim().split_once(' ') {
            Some((methods, url)) => {
                (methods.split(',').map(method).collect::<Result<_, _>>()?, url)
            }
            None => (Vec::new(), text.trim()),
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or("it has no scheme; write `https://HOST`, and methods in front of it")?;
        if rest.contains(['?', '#', ' ']) {
            return Err(
                "it has more than a path; a rule has no query, no fragment, no space".into()
            );
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let scheme = Scheme::parse(scheme)?;
        let (host, port) = split_port(authority)?;
        let host = match host.strip_prefix("*.") {
            None if host == "*" => {
                return Err(
                    "any host is more than a rule grants; `*.` stands for subdomains".into()
                );
            }
            None => Hosts::Only(Host::parse(host)?),
            Some(domain) => match Host::parse(domain)? {
                Host::Name(name) => Hosts::Below(format!(".{name}")),
                Host::Address(_) => return Err("an address has no subdomains".into()),
            },
        };
        let port = match port {
            None => Some(scheme.port()),
            Some("*") => None,
            Some(port) => Some(parse_port(port)?),
        };
        Ok(Self { methods, scheme, host, port, path: prefix(path)? })
    }

    fn allows(&self, method: &str, to: &Destination) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|allowed| allowed == method))
            && self.scheme == to.scheme
            && self.port.is_none_or(|port| port == to.port)
            && match (&self.host, &to.host) {
                (Hosts::Only(host), asked) => host == asked,
                (Hosts::Below(end), Host::Name(name)) => name.ends_with(end.as_str()),
                (Hosts::Below(_), Host::Address(_)) => false,
            }
            && to.path.is_below(&self.path)
    }
}

fn method(text: &str) -> Result<String, String> {
    match text {
        "CONNECT" => Err("`CONNECT` opens tunnels, and is granted to nobody".to_owned()),
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "`{}` is no method; they are written in capitals, with commas and no spaces between \
             them",
            one_line(text, 40)
        )),
    }
}

fn prefix(path: &str) -> Result<Vec<Vec<u8>>, String> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    if path.contains('*') {
        return Err("the path is a prefix as it is; leave out `*`".to_owned());
    }
    let segments: Vec<_> = segments(path).collect();
    let odd = |segment: &Vec<u8>| matches!(segment.as_slice(), b"" | b"." | b"..");
    if path.contains('\\') || segments.iter().any(odd) {
        return Err("the path has empty segments, dots or backslashes".to_owned());
    }
    Ok(segments)
}

/// The rules of one field of the configuration, one of which has to allow a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRules {
    key: String,
    rules: Vec<Rule>,
}

impl HttpRules {
    /// Reads rules. The error names the field, given as `key`, the rule, and what is wrong.
    pub fn parse(texts: &[String], key: &str) -> Result<Self, String> {
        let rules = texts.iter().map(|text| {
            Rule::parse(text).map_err(|why| {
                format!("{key} has the rule `{}`: {why}", one_line(text, SHOWN_BYTES))
            })
        });
        Ok(Self { key: key.to_owned(), rules: rules.collect::<Result<_, _>>()? })
    }

    /// The field of the configuration.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns true if there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns true if a rule allows the request.
    pub fn allow(&self, method: &str, to: &Destination) -> bool {
        !method.eq_ignore_ascii_case("CONNECT")
            && self.rules.iter().any(|rule| rule.allows(method, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> HttpRules {
        HttpRules::parse(&[text.to_owned()], "tasks.x.grants.http").unwrap()
    }

    fn allowed(rule: &str, method: &str, url: &str) -> bool {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        match Destination::parse(scheme, authority, path) {
            Ok(to) => rules(rule).allow(method, &to),
            Err(_) => false,
        }
    }

    #[test]
    fn every_part_of_a_rule_has_to_match() {
        let rule = "GET,HEAD https://api.example.com/v1";
        assert!(allowed(rule, "GET", "https://api.example.com/v1/a"));
        assert!(allowed(rule, "HEAD", "https://API.example.com.:443/v1"));
        for (method, url) in [
            ("POST", "https://api.example.com/v1"),
            ("get", "https://api.example.com/v1"),
            ("GET", "http://api.example.com/v1"),
            ("GET", "https://example.com/v1"),
            ("GET", "https://api.example.com.evil.com/v1"),
            ("GET", "https://evilapi.example.com/v1"),
            ("GET", "https://api.example.com:8443/v1"),
            ("GET", "https://api.example.com/v2"),
            ("GET", "https://api.example.com/v1/../v2"),
            ("GET", "https://api.example.com@evil.com/v1"),
        ] {
            assert!(!allowed(rule, method, url), "{method} {url}");
        }
    }

    #[test]
    fn wildcards_are_for_subdomains_and_ports() {
        let rule = "https://*.example.com:*";
        for url in
            ["https://a.example.com/x", "https://a.b.example.com:8443", "https://A.EXAMPLE.com"]
        {
            assert!(allowed(rule, "PATCH", url), "{url}");
        }
        for url in ["https://example.com/", "https://aexample.com/", "https://.example.com/"] {
            assert!(!allowed(rule, "GET", url), "{url}");
        }
        assert!(!allowed(rule, "CONNECT", "https://a.example.com/"));
        assert!(allowed("http://[::1]:80", "GET", "http://[0::1]/"));
        assert!(!allowed("http://127.0.0.1", "GET", "http://[::ffff:127.0.0.1]/"));
    }

    #[test]
    fn a_wrong_rule_is_named_with_its_field_and_what_is_wrong() {
        for (text, why) in [
            ("api.example.com", "no scheme"),
            ("GET", "no scheme"),
            ("ftp://a", "scheme"),
            ("get https://a", "capitals"),
            ("GET, POST https://a", "no method"),
            ("CONNECT https://a", "tunnels"),
            ("https://", "missing"),
            ("https://*", "any host"),
            ("https://*.", "missing"),
            ("https://a.*.b", "no name"),
            ("https://*.1.2.3.4", "no subdomains"),
            ("https://127.1", "is a number"),
            ("https://u:p@a", "user information"),
            ("https://a:0", "port"),
            ("https://a:http", "port"),
            ("https://a/b?c", "no query"),
            ("https://a/b#c", "no query"),
            ("https://a/b/*", "leave out"),
            ("https://a/../b", "dots"),
            ("https://a/%2e%2e/b", "dots"),
            ("https://a//b", "empty"),
            ("https://[::1", "brackets"),
            ("https://exämple.com", "xn--"),
        ] {
            let said = HttpRules::parse(&[text.to_owned()], "tasks.x.grants.http").unwrap_err();
            let named = said.starts_with(&format!("tasks.x.grants.http has the rule `{text}`: "));
            assert!(named && said.contains(why), "{said}");
        }
    }
}
