//! URLs of Redis as Celery's and redis-py's clients write them.
//!
//! A parameter that is not understood is refused: one that is ignored (a misspelt `ssl_cert_reqs`)
//! would mean something else here than it does to the clients.

use std::{path::Path, time::Duration};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisConnectionInfo, TlsCertificates,
};

use lovage_core::text::percent_decoded;

/// The port of a URL that names none.
const PORT: u16 = 6379;

/// Parameters that mean something here.
const UNDERSTOOD: [&str; 9] = [
    "virtual_host",
    "db",
    "socket_timeout",
    "socket_connect_timeout",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
];

/// Parameters that tune the Python client's own connections: accepted, and without effect here.
const PYTHONS_OWN: [&str; 8] = [
    "socket_keepalive",
    "retry_on_timeout",
    "health_check_interval",
    "max_connections",
    "client_name",
    "protocol",
    "encoding",
    "decode_responses",
];

/// The longest timeout that a URL can name.
const LONGEST: Duration = Duration::from_hours(1);

/// A Redis as a URL describes it.
#[derive(Debug)]
pub struct RedisUrl {
    /// How to connect.
    pub client: Client,
    /// The longest wait for a connection, where the URL says it.
    pub connect_timeout: Option<Duration>,
    /// The longest wait for an answer, where the URL says it.
    pub response_timeout: Option<Duration>,
}

/// The parameters of TLS.
#[derive(Debug, Default)]
struct Tls {
    /// `ssl_cert_reqs=none`: any certificate will do.
    any_certificate: bool,
    /// `ssl_check_hostname=false`: a certificate for any host will do.
    any_host: bool,
    ca_certs: Option<String>,
    certfile: Option<String>,
    keyfile: Option<String>,
}

impl RedisUrl {
    /// Reads a URL: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB][?PARAMETERS]`, `rediss://` for TLS,
    /// `unix://PATH`. `Err` completes a sentence about the URL, without anything of it that may be
    /// a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str = "no URL of Redis; it is like redis://HOST:PORT, or rediss:// for TLS";
        let (scheme, rest) = url.split_once("://").ok_or(FORM)?;
        let secure = match scheme {
            "redis" => false,
            "rediss" => true,
            "unix" | "redis+unix" => {
                let client = Client::open(url)
                    .map_err(|error| format!("no URL of Redis ({})", error.category()))?;
                return Ok(Self { client, connect_timeout: None, response_timeout: None });
            }
            _ => return Err(FORM.to_owned()),
        };
        if rest.contains(';') {
            return Err("a list of several servers; name the one that they are reached by \
                        (Redis Sentinel is not supported)"
                .to_owned());
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (host, port) = host_and_port(host)?;
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = user {
            let (name, password) = match user.split_once(':') {
                Some((name, password)) => (name, Some(password)),
                None => (user, None),
            };
            let wrong = "no URL of Redis: its user or password has a `%` without two hexadecimal \
                         digits";
            let name = percent_decoded(name).ok_or(wrong)?;
            if !name.is_empty() {
                settings = settings.set_username(name);
            }
            if let Some(password) = password {
                settings = settings.set_password(percent_decoded(password).ok_or(wrong)?);
            }
        }
        let mut parameters = parameters(query)?;
        let mut take = |name: &str| parameters.remove(name);
        let db = take("db").or_else(|| take("virtual_host"));
        let db = db.unwrap_or_else(|| path.to_owned());
        let db = db.trim_matches('/');
        let db: i64 = if db.is_empty() { 0 } else { db.parse().unwrap_or(-1) };
        if db < 0 {
            return Err("no URL of Redis: its database (the path, `virtual_host` or `db`) is not \
                        a number from 0"
                .to_owned());
        }
        settings = settings.set_db(db);
        let response_timeout = seconds("socket_timeout", take("socket_timeout"))?;
        let connect_timeout = seconds("socket_connect_timeout", take("socket_connect_timeout"))?;
        let tls = Tls {
            any_certificate: any_certificate(take("ssl_cert_reqs").as_deref())?
                || fragment == "insecure",
            any_host: is_false("ssl_check_hostname", take("ssl_check_hostname"))?,
            ca_certs: take("ssl_ca_certs"),
            certfile: take("ssl_certfile"),
            keyfile: take("ssl_keyfile"),
        };
        let client = if secure {
            tls.client(host, port, settings)?
        } else if query.contains("ssl_") || !fragment.is_empty() {
            return Err("a URL with parameters of TLS and without TLS; it begins with rediss:// \
                        where TLS is meant"
                .to_owned());
        } else {
            let info = info(ConnectionAddr::Tcp(host, port), settings)?;
            Client::open(info).map_err(|error| format!("not usable ({})", error.category()))?
        };
        Ok(Self { client, connect_timeout, response_timeout })
    }
}

impl Tls {
    fn client(
        self,
        host: String,
        port: u16,
        settings: RedisConnectionInfo,
    ) -> Result<Client, String> {
        // Where two are built in, rustls does not choose; which one is no matter to us.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client_tls = match (&self.certfile, &self.keyfile) {
            (Some(certificate), key) => Some(ClientTlsConfig {
                client_cert: read("ssl_certfile", certificate)?,
                // As in Python, one file may hold both.
                client_key: read("ssl_keyfile", key.as_ref().unwrap_or(certificate))?,
            }),
            (None, Some(_)) => {
                return Err("a URL with an `ssl_keyfile` and without the `ssl_certfile` that \
                            belongs to it"
                    .to_owned());
            }
            (None, None) => None,
        };
        let root_cert = self.ca_certs.as_deref().map(|it| read("ssl_ca_certs", it)).transpose()?;
        let insecure = self.any_certificate;
        let address = ConnectionAddr::TcpTls { host, port, insecure, tls_params: None };
        let certificates = TlsCertificates { client_tls, root_cert };
        let wrong =
            |error: redis::RedisError| format!("a URL whose certificates cannot be used ({error})");
        let built = Client::build_with_tls(info(address, settings)?, certificates);
        let built = built.map_err(wrong)?;
        if !self.any_host || insecure {
            return Ok(built);
        }
        let mut info = built.get_connection_info().clone();
        let mut address = info.addr().clone();
        address.set_danger_accept_invalid_hostnames(true);
        info = info.set_addr(address);
        Client::open(info).map_err(wrong)
    }
}

fn info(address: ConnectionAddr, settings: RedisConnectionInfo) -> Result<ConnectionInfo, String> {
    let info = address.into_connection_info();
    let info = info.map_err(|error| format!("not usable ({})", error.category()))?;
    Ok(info.set_redis_settings(settings))
}

fn read(parameter: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(Path::new(path)).map_err(|error| {
        format!("a URL whose `{parameter}` names the file `{path}`, which cannot be read: {error}")
    })
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let wrong = "no URL of Redis: its port is not a number from 1 to 65535";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or("no URL of Redis: a `[` without its `]`")?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port.ok_or(wrong)? {
        "" => PORT,
        port => port.parse().ok().filter(|port| *port > 0).ok_or(wrong)?,
    };
    let host = percent_decoded(host).ok_or("no URL of Redis: its host has a stray `%`")?;
    Ok((if host.is_empty() { "localhost".to_owned() } else { host }, port))
}

/// The parameters by name; refuses what is not understood.
fn parameters(query: &str) -> Result<std::collections::BTreeMap<String, String>, String> {
    let mut found = std::collections::BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let known = |names: &[&str]| names.contains(&name);
        if !known(&UNDERSTOOD) && !known(&PYTHONS_OWN) {
            let shown = lovage_core::text::one_line(name, 60);
            return Err(format!(
                "a URL with the parameter `{shown}`, which is not understood; these are: {}; and \
                 without effect here: {}",
                UNDERSTOOD.join(", "),
                PYTHONS_OWN.join(", ")
            ));
        }
        let value = value.replace('+', " ");
        let value = percent_decoded(&value)
            .ok_or_else(|| format!("a URL whose parameter `{name}` has a stray `%`"))?;
        if found.insert(name.to_owned(), value).is_some() {
            return Err(format!("a URL that names the parameter `{name}` twice"));
        }
    }
    Ok(found)
}

fn seconds(name: &str, value: Option<String>) -> Result<Option<Duration>, String> {
    let Some(value) = value else { return Ok(None) };
    let seconds: Option<f64> = value.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|it| !it.is_zero() && *it <= LONGEST)
        .map(Some)
        .ok_or_else(|| format!("a URL whose `{name}` is not a number of seconds up to 3600"))
}

fn any_certificate(value: Option<&str>) -> Result<bool, String> {
    match value {
        // To a client, optional is required: a server always shows its certificate.
        None | Some("CERT_REQUIRED" | "required" | "CERT_OPTIONAL" | "optional") => Ok(false),
        Some("CERT_NONE" | "none") => Ok(true),
        Some(_) => Err("a URL whose `ssl_cert_reqs` is none of CERT_REQUIRED, CERT_OPTIONAL, \
                        CERT_NONE, required, optional and none"
            .to_owned()),
    }
}

fn is_false(name: &str, value: Option<String>) -> Result<bool, String> {
    match value.map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("true" | "1" | "yes") => Ok(false),
        Some("false" | "0" | "no") => Ok(true),
        Some(_) => Err(format!("a URL whose `{name}` is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> RedisUrl {
        RedisUrl::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"))
    }

    #[test]
    fn urls_mean_what_they_mean_to_celery() {
        let url = parse("redis://me:p%40ss@h.example:7000/3?socket_timeout=2.5&max_connections=9");
        let info = url.client.get_connection_info();
        assert_eq!(info.addr().to_string(), "h.example:7000");
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("me"), Some("p@ss")));
        assert_eq!((settings.db(), url.response_timeout), (3, Some(Duration::from_millis(2500))));
        for (url, host, db) in [
            ("redis://", "localhost:6379", 0),
            ("redis://:secret@[::1]:1/", "::1:1", 0),
            ("redis://h?virtual_host=4", "h:6379", 4),
            ("redis://h/2?db=5", "h:6379", 5),
        ] {
            let info = parse(url).client.get_connection_info().clone();
            assert_eq!((info.addr().to_string().as_str(), info.redis_settings().db()), (host, db));
        }
    }

    #[test]
    fn tls_is_as_the_parameters_say() {
        for (parameters, any) in [
            ("", false),
            ("?ssl_cert_reqs=CERT_REQUIRED", false),
            ("?ssl_cert_reqs=required", false),
            ("?ssl_cert_reqs=CERT_NONE", true),
            ("?ssl_cert_reqs=none&ssl_check_hostname=false", true),
            ("?ssl_check_hostname=False", false),
        ] {
            let url = parse(&format!("rediss://h:6390/0{parameters}"));
            let ConnectionAddr::TcpTls { insecure, .. } = url.client.get_connection_info().addr()
            else {
                panic!("no TLS: {parameters}")
            };
            assert_eq!(*insecure, any, "{parameters}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_without_the_password() {
        for (url, words) in [
            ("redis://:hunter2@h?ssl_cert_req=none", "`ssl_cert_req`, which is not understood"),
            ("redis://:hunter2@h?global_keyprefix=a", "ssl_ca_certs, ssl_certfile"),
            ("redis://:hunter2@h?ssl_cert_reqs=none", "rediss://"),
            ("rediss://:hunter2@h?ssl_cert_reqs=maybe", "CERT_REQUIRED"),
            ("rediss://:hunter2@h?ssl_ca_certs=%2Fno%2Fsuch.pem", "/no/such.pem"),
            ("rediss://:hunter2@h?ssl_keyfile=/k", "ssl_certfile"),
            ("redis://:hunter2@h/x", "database"),
            ("redis://:hunter2@h:0", "port"),
            ("redis://:hunter2@h:x", "port"),
            ("redis://:hunter2@h?socket_timeout=-1", "seconds"),
            ("redis://:hunter2@h?db=1&db=2", "twice"),
            ("redis://:hunter2@a:1;redis://b:2", "several servers"),
            ("sentinel://:hunter2@h", "redis://HOST:PORT"),
            ("redis://:hunter2%@h", "hexadecimal"),
        ] {
            let why = RedisUrl::parse(url).unwrap_err();
            assert!(why.contains(words) && !why.contains("hunter2"), "{url}: {why}");
        }
    }
}
