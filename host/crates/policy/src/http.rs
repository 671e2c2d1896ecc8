//! Where HTTP requests may go.

mod destination;
mod path;
mod rule;

use std::net::IpAddr;

pub use self::destination::{Destination, Host, Scheme};
pub use self::path::decode as percent_decode;
pub use self::rule::HttpRules;
use super::network::{Networks, not_public};
use lovage_core::text::one_line;

/// Rules for requests: every list must have a rule that allows a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    rules: Vec<HttpRules>,
    networks: Vec<Networks>,
}

impl HttpPolicy {
    /// The rules of a task. Errors name the field, given as `rules_key` and `networks_key`.
    pub fn new(
        rules: &[String],
        rules_key: &str,
        networks: &[String],
        networks_key: &str,
    ) -> Result<Self, String> {
        Ok(Self {
            rules: vec![HttpRules::parse(rules, rules_key)?],
            networks: vec![Networks::parse(networks, networks_key)?],
        })
    }

    /// Allows only what these rules allow, too.
    pub fn narrow(
        &mut self,
        rules: Option<&[String]>,
        rules_key: &str,
        networks: Option<&[String]>,
        networks_key: &str,
    ) -> Result<(), String> {
        if let Some(rules) = rules {
            self.rules.push(HttpRules::parse(rules, rules_key)?);
        }
        if let Some(networks) = networks {
            self.networks.push(Networks::parse(networks, networks_key)?);
        }
        Ok(())
    }

    /// Returns true if no request is allowed at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() || self.rules.iter().any(HttpRules::is_empty)
    }

    /// Returns true if a request may be made. The error says which field does not allow it.
    pub fn check(&self, method: &str, to: &Destination) -> Result<(), String> {
        let shown = || one_line(method, 40);
        if self.rules.is_empty() {
            return Err(format!("`{} {to}` is not allowed: no `http` is granted", shown()));
        }
        match self.rules.iter().find(|rules| !rules.allow(method, to)) {
            None => Ok(()),
            Some(rules) => {
                Err(format!("`{} {to}` is allowed by no rule of `{}`", shown(), rules.key()))
            }
        }
    }

    /// Whether a connection to an address may be made, and whether that is so because its range
    /// was granted rather than for its being public. The error says what the address is.
    pub fn check_address(&self, address: IpAddr) -> Result<Reach, String> {
        let denies = self.networks.iter().find(|networks| !networks.grant(address));
        match (denies, not_public(address)) {
            (None, _) if !self.networks.is_empty() => Ok(Reach::Granted),
            (_, None) => Ok(Reach::Public),
            (denies, Some(what)) => {
                let key = denies.map_or("http_networks", Networks::key);
                Err(format!("the address {address} is {what}, and no range of `{key}` has it"))
            }
        }
    }
}

/// Why a connection to an address may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is of the public internet.
    Public,
    /// Its range was granted by name.
    Granted,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn to(authority: &str, path: &str) -> Destination {
        Destination::parse("https", authority, path).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_list_has_to_allow_and_the_one_that_does_not_is_named() {
        let mut policy =
            HttpPolicy::new(&list(&["https://*.example.com"]), "t.http", &[], "t.nets").unwrap();
        assert!(policy.check("GET", &to("a.example.com", "/x")).is_ok());
        let said = policy.check("GET", &to("b.org", "/x")).unwrap_err();
        assert_eq!(said, "`GET https://b.org/x` is allowed by no rule of `t.http`");
        policy.narrow(Some(&list(&["https://a.example.com"])), "u.http", None, "").unwrap();
        assert!(policy.check("GET", &to("a.example.com", "/x")).is_ok());
        let said = policy.check("GET", &to("b.example.com", "/")).unwrap_err();
        assert!(said.ends_with("of `u.http`"), "{said}");
        policy.narrow(Some(&[]), "v.http", None, "").unwrap();
        assert!(policy.is_empty() && policy.check("GET", &to("a.example.com", "/")).is_err());
        assert!(HttpPolicy::default().check("GET", &to("a.example.com", "/")).is_err());
        assert!(policy.narrow(Some(&list(&["x"])), "w.http", None, "").is_err());
    }

    #[test]
    fn an_address_is_public_or_granted_by_every_list_of_ranges() {
        let new = |networks: &[&str]| HttpPolicy::new(&[], "", &list(networks), "t.nets").unwrap();
        assert_eq!(new(&[]).check_address(ip("8.8.8.8")), Ok(Reach::Public));
        assert_eq!(HttpPolicy::default().check_address(ip("8.8.8.8")), Ok(Reach::Public));
        assert!(HttpPolicy::default().check_address(ip("10.0.0.1")).is_err());
        let said = new(&[]).check_address(ip("127.0.0.1")).unwrap_err();
        assert_eq!(said, "the address 127.0.0.1 is loopback, and no range of `t.nets` has it");
        let mut policy = new(&["10.0.0.0/8"]);
        assert_eq!(policy.check_address(ip("10.1.2.3")), Ok(Reach::Granted));
        policy.narrow(None, "", Some(&list(&["10.1.0.0/16"])), "u.nets").unwrap();
        assert_eq!(policy.check_address(ip("10.1.2.3")), Ok(Reach::Granted));
        let said = policy.check_address(ip("10.2.0.1")).unwrap_err();
        assert!(said.contains("`u.nets`"), "{said}");
        assert_eq!(policy.check_address(ip("8.8.8.8")), Ok(Reach::Public));
    }
}
