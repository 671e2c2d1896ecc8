//! Secrets that guests use and never see: what they hold is a placeholder, and the host puts the
//! value in its place when a request goes where the secret may go.
//!
//! Looked for in the values of headers and of query parameters, nowhere else: what a body means the
//! host does not know. A request with the placeholder of a secret that may not go there is not sent
//! at all.

use std::fmt::{self, Write as _};

use http::{HeaderMap, HeaderValue};

use super::fault::{Code, Fault};
use lovage_policy::{Destination, HttpRules, Reach, Scheme};

/// The placeholders of one attempt.
#[derive(Default)]
pub(crate) struct Placeholders(Vec<Placeholder>);

struct Placeholder {
    found: Found,
    rules: HttpRules,
}

/// A placeholder, and what stands for it. Never shown.
#[derive(Clone)]
pub(super) struct Found {
    text: String,
    value: String,
}

impl fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Placeholders").field(&self.0.len()).finish()
    }
}

impl Placeholders {
    /// The guest holds `text` in place of a secret's value, which may go where the rules allow.
    /// The text has to be one that nobody can guess, of `A-Z a-z 0-9 . _ ~ -`; an empty one is
    /// ignored.
    #[allow(dead_code, reason = "filled by who gives secrets to guests")]
    pub fn insert(&mut self, text: String, value: String, rules: HttpRules) {
        self.0.retain(|known| known.found.text != text);
        if !text.is_empty() {
            self.0.push(Placeholder { found: Found { text, value }, rules });
        }
    }

    /// Those that a request has. It is refused where one of them may not go.
    pub(super) fn find(
        &self,
        method: &str,
        to: &Destination,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Vec<Found>, Fault> {
        let parameters = || query.into_iter().flat_map(|query| query.split('&')).map(value_of);
        let mut all = Vec::new();
        for Placeholder { found, rules } in &self.0 {
            let only = std::slice::from_ref(found);
            let used = headers.values().any(|value| fill(value.as_bytes(), only, |v| v).is_some())
                || parameters().any(|value| fill_parameter(value, only).is_some());
            if !used {
                continue;
            }
            if !rules.allow(method, to) {
                let why = format!(
                    "it has the placeholder of a secret that may not go there: no rule of `{}` \
                     allows it",
                    rules.key()
                );
                return Err(Fault::new(Code::Denied, why));
            }
            all.push(found.clone());
        }
        Ok(all)
    }
}

/// Returns true if secrets may be sent over a connection: nobody else can read them there.
pub(super) fn may_pass(to: &Destination, reach: Reach) -> bool {
    to.scheme == Scheme::Https || reach == Reach::Granted
}

/// Puts values in the place of placeholders.
pub(super) fn fill_in(
    secrets: &[Found],
    headers: &mut HeaderMap,
    target: &mut String,
) -> Result<(), Fault> {
    for value in headers.values_mut() {
        let Some(filled) = fill(value.as_bytes(), secrets, |value| value) else { continue };
        *value = HeaderValue::from_bytes(&filled).map_err(|_| {
            let why = "a secret for a header has characters that no header can have";
            Fault::new(Code::Configuration, why)
        })?;
        value.set_sensitive(true);
    }
    let Some((path, query)) = target.split_once('?') else { return Ok(()) };
    let parameters = query.split('&').map(|parameter| {
        let value = value_of(parameter);
        let name = parameter.strip_suffix(value).unwrap_or_default();
        match fill_parameter(value, secrets) {
            Some(filled) => format!("{name}{filled}"),
            None => parameter.to_owned(),
        }
    });
    *target = format!("{path}?{}", parameters.collect::<Vec<_>>().join("&"));
    Ok(())
}

/// What comes after the name of a parameter; all of it, where there is no name.
fn value_of(parameter: &str) -> &str {
    parameter.split_once('=').map_or(parameter, |(_, value)| value)
}

/// The text with values in it; `None` where it has no placeholder. What was put in is not looked
/// at again.
fn fill(text: &[u8], secrets: &[Found], written: impl Fn(String) -> String) -> Option<Vec<u8>> {
    let mut filled = Vec::new();
    let mut rest = text;
    let mut any = false;
    while let Some((&first, after)) = rest.split_first() {
        let longest = secrets
            .iter()
            .filter(|secret| rest.starts_with(secret.text.as_bytes()))
            .max_by_key(|secret| secret.text.len());
        if let Some(secret) = longest {
            any = true;
            filled.extend(written(secret.value.clone()).as_bytes());
            rest = rest.get(secret.text.len()..).unwrap_or_default();
        } else {
            filled.push(first);
            rest = after;
        }
    }
    any.then_some(filled)
}

/// The same in a query, where the placeholder may be written with escapes, and the value has to be.
fn fill_parameter(text: &str, secrets: &[Found]) -> Option<String> {
    let plain = fill(text.as_bytes(), secrets, |value| escape(value.as_bytes()));
    let filled = plain.or_else(|| {
        let decoded = lovage_policy::percent_decode(text.as_bytes());
        fill(&decoded, secrets, |value| value).map(|filled| escape(&filled).into_bytes())
    })?;
    String::from_utf8(filled).ok()
}

/// Percent-encodes all that RFC 3986 does not call unreserved.
fn escape(bytes: &[u8]) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> HttpRules {
        HttpRules::parse(&[text.to_owned()], "secrets.s.only_for").unwrap()
    }

    fn placeholders() -> Placeholders {
        let mut all = Placeholders::default();
        all.insert("ph-1".into(), "s3cr&t/ü".into(), rules("https://api.example.com/v1"));
        all.insert("ph-12".into(), "ph-1".into(), rules("https://api.example.com"));
        all
    }

    fn to(url: &str) -> Destination {
        let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        Destination::parse("https", authority, path).unwrap()
    }

    fn headers(value: &str) -> HeaderMap {
        [(http::header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    fn filled(header: &str, target: &str) -> (HeaderValue, String) {
        let (mut headers, mut target) = (headers(header), target.to_owned());
        let query = target.split_once('?').map(|(_, query)| query.to_owned());
        let place = to("api.example.com/v1/x");
        let found = placeholders().find("GET", &place, query.as_deref(), &headers).unwrap();
        fill_in(&found, &mut headers, &mut target).unwrap();
        (headers.remove("authorization").unwrap(), target)
    }

    #[test]
    fn values_are_put_into_headers_and_query_parameters_and_nowhere_else() {
        let (header, target) = filled("Bearer ph-1.", "/v1/ph-1?ph-1=a&b=xph-1y&c=p%68-1%20&ph-1");
        assert_eq!(header.as_bytes(), "Bearer s3cr&t/ü.".as_bytes());
        assert!(header.is_sensitive());
        let value = "s3cr%26t%2F%C3%BC";
        let expected = format!("/v1/ph-1?ph-1=a&b=x{value}y&c={value}%20&{value}");
        assert_eq!(target, expected);
        // The longest counts, and what was put in is not looked at again.
        assert_eq!(filled("ph-12ph-1", "/v1").0.as_bytes(), "ph-1s3cr&t/ü".as_bytes());
        let (header, target) = filled("ph", "/v1?a+b=c%20d&&e=");
        assert_eq!((header.as_bytes(), target.as_str()), (&b"ph"[..], "/v1?a+b=c%20d&&e="));
    }

    #[test]
    fn a_request_with_a_placeholder_that_may_not_go_there_is_refused() {
        let all = placeholders();
        let none = HeaderMap::new();
        for place in ["api.example.com/v2", "evil.com/v1", "api.example.com:8443/v1"] {
            for (query, headers) in [
                (None, headers("x ph-1")),
                (Some("a=ph-1"), none.clone()),
                (Some("p%68-1"), none.clone()),
            ] {
                let fault = all.find("GET", &to(place), query, &headers).err().unwrap();
                assert_eq!(fault.code, Code::Denied);
                assert!(fault.why.contains("secrets.s.only_for"), "{}", fault.why);
                assert!(!fault.why.contains("s3cr"), "{}", fault.why);
            }
            assert!(all.find("GET", &to(place), Some("a=1"), &headers("x")).unwrap().is_empty());
        }
        assert!(!format!("{all:?}").contains("s3cr"));
    }

    #[test]
    fn a_secret_that_fits_no_header_is_not_sent() {
        let mut all = Placeholders::default();
        all.insert("ph".into(), "a\r\nb: c".into(), rules("https://a"));
        let mut headers = headers("ph");
        let found = all.find("GET", &to("a"), None, &headers).unwrap();
        let fault = fill_in(&found, &mut headers, &mut "/".to_owned()).unwrap_err();
        assert_eq!(fault.code, Code::Configuration);
        // In a query it is escaped.
        let mut target = "/?q=ph".to_owned();
        fill_in(&found, &mut HeaderMap::new(), &mut target).unwrap();
        assert_eq!(target, "/?q=a%0D%0Ab%3A%20c");
    }

    #[test]
    fn without_tls_secrets_go_to_granted_networks_only() {
        let plain = Destination::parse("http", "a", "/").unwrap();
        assert!(!may_pass(&plain, Reach::Public) && may_pass(&plain, Reach::Granted));
        assert!(may_pass(&to("a"), Reach::Public));
    }
}
