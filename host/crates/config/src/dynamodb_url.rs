//! URLs of `DynamoDB` as Celery's clients write them.

use lovage_core::text::{one_line, percent_decoded};

/// The table where the URL names none: Celery's.
const TABLE: &str = "celery";

/// A table of `DynamoDB` as a URL in Celery's form names it:
/// `dynamodb://[KEY:SECRET@]REGION[:PORT]/[TABLE][?ttl_seconds=N]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamoDbUrl {
    /// The region; the usual one when absent.
    pub region: Option<String>,
    /// Where it runs, if not at AWS.
    pub endpoint: Option<String>,
    /// Access key and secret.
    pub credentials: Option<(String, Hidden)>,
    /// The table.
    pub table: String,
    /// Seconds to keep items; `None` where they carry no time to live.
    pub ttl: Option<u64>,
}

/// What no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl DynamoDbUrl {
    /// Reads one. `Err` says what is wrong, without the URL: there may be a password in it.
    pub fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str = "it is like dynamodb://REGION/TABLE or dynamodb://localhost:8000/TABLE";
        let rest = url.strip_prefix("dynamodb://").ok_or(FORM)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, table) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((user, host)) => {
                let (id, secret) =
                    user.split_once(':').ok_or("it has an access key and no secret")?;
                (Some((unescaped(id)?, Hidden(unescaped(secret)?))), host)
            }
            None => (None, authority),
        };
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) => {
                let port: u16 = port.parse().map_err(|_| "its port is no number up to 65535")?;
                (host, Some(port))
            }
            None => (host, None),
        };
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok();
        let endpoint = local.then(|| format!("http://{host}:{}", port.unwrap_or(8000)));
        let region = if local { Some("us-east-1") } else { Some(host).filter(|it| !it.is_empty()) };
        let mut ttl = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "ttl_seconds" => {
                    let seconds: i64 = value.parse().map_err(|_| "its ttl_seconds is no number")?;
                    ttl = u64::try_from(seconds).ok();
                }
                // How much of a table that is made by Celery; ours has a price by request.
                "read" | "write" => {}
                _ => {
                    return Err(format!(
                        "its parameter `{}` is not understood; these are: ttl_seconds; and without \
                     effect here: read, write",
                        one_line(name, 60)
                    ));
                }
            }
        }
        Ok(Self {
            region: region.map(str::to_owned),
            endpoint,
            credentials,
            table: if table.is_empty() { TABLE.to_owned() } else { unescaped(table)? },
            ttl,
        })
    }
}

/// Text with `%XX` read.
fn unescaped(text: &str) -> Result<String, String> {
    let wrong = "it has a `%` that stands before no two hexadecimal digits, or escapes no UTF-8";
    percent_decoded(text).ok_or_else(|| wrong.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_celery_reads_them() {
        let place =
            DynamoDbUrl::parse("dynamodb://eu-west-1/results?read=5&ttl_seconds=60").unwrap();
        assert_eq!((place.region.as_deref(), place.endpoint), (Some("eu-west-1"), None));
        assert_eq!((place.table.as_str(), place.ttl), ("results", Some(60)));
        let place = DynamoDbUrl::parse("dynamodb://a:b%2Fc@localhost:8123/").unwrap();
        assert_eq!(place.endpoint.as_deref(), Some("http://localhost:8123"));
        assert_eq!(place.credentials, Some(("a".to_owned(), Hidden("b/c".to_owned()))));
        assert_eq!((place.table.as_str(), place.ttl), ("celery", None));
        assert_eq!(DynamoDbUrl::parse("dynamodb://").unwrap().region, None);
        assert_eq!(DynamoDbUrl::parse("dynamodb://r/?ttl_seconds=-1").unwrap().ttl, None);
        for wrong in [
            "redis://x",
            "dynamodb://r/?tll_seconds=1",
            "dynamodb://a@r/",
            "dynamodb://r:x/",
            "dynamodb://a:%zz@r/",
        ] {
            let reason = DynamoDbUrl::parse(wrong).unwrap_err();
            assert!(!reason.contains(wrong), "{reason}");
        }
        assert!(
            !format!("{:?}", DynamoDbUrl::parse("dynamodb://key:secret@r/").unwrap())
                .contains("secret")
        );
    }
}
