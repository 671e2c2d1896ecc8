//! From a destination to a connection: resolved once, checked, and connected to just that.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::Attempt;
use super::fault::{Code, Fault};
use lovage_core::text::one_line;
use lovage_policy::{Destination, Host, Reach, Scheme};

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 6;

/// How long an address has before the next one is tried, too: RFC 8305, section 5, recommends it.
const NEXT_AFTER: Duration = Duration::from_millis(250);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An address that may be connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub address: SocketAddr,
    pub reach: Reach,
}

/// The addresses of a destination that may be connected to; at least one.
pub(super) async fn addresses(
    attempt: &Attempt,
    to: &Destination,
    by: Instant,
) -> Result<Vec<Address>, Fault> {
    let found = match &to.host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => resolve(attempt, name, by).await?,
    };
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in found {
        match attempt.grants.http.check_address(address) {
            Ok(reach) => {
                allowed.push(Address { address: SocketAddr::new(address, to.port), reach });
            }
            Err(why) => refused = Some(why),
        }
    }
    // In turns first, so that none of the families is left out.
    let mut allowed = interleaved(&allowed);
    allowed.truncate(MAX_ADDRESSES);
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(why)) => Err(Fault::new(Code::Prohibited, why)),
        (true, None) => Err(Fault::new(Code::DnsError, "the name has no address")),
    }
}

async fn resolve(attempt: &Attempt, name: &str, by: Instant) -> Result<Vec<IpAddr>, Fault> {
    let tenant = attempt.payer.as_ref().map_or("", |payer| &payer.tenant);
    match timeout_at(by, attempt.network.resolve(tenant, name)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Fault::new(
            Code::DnsError,
            format!("the name could not be resolved: {}", one_line(&error.to_string(), 200)),
        )),
        Err(_) => Err(Fault::new(Code::DnsTimeout, "resolving the name took too long")),
    }
}

/// In which order addresses are tried: as they came, but families in turns (RFC 8305, section 4), so that
/// one family that leads nowhere costs one wait and not one for each address.
fn interleaved(addresses: &[Address]) -> Vec<Address> {
    let first = addresses.first().is_some_and(|first| first.address.is_ipv6());
    let of = |family: bool| addresses.iter().filter(move |it| it.address.is_ipv6() == family);
    let (mut these, mut others) = (of(first), of(!first));
    let mut all = Vec::with_capacity(addresses.len());
    while all.len() < addresses.len() {
        all.extend(these.next());
        all.extend(others.next());
    }
    all
}

/// Connects to the first address that answers. The next one is tried when one has failed, or has not
/// answered for [`NEXT_AFTER`], beside those that still may (RFC 8305, section 5).
pub(super) async fn connect(
    attempt: &Attempt,
    to: &Destination,
    addresses: &[Address],
    by: Instant,
) -> Result<(Box<dyn Stream>, Reach), Fault> {
    let mut last = Fault::new(Code::ConnectionTimeout, "there was no time left to connect");
    let mut left = interleaved(addresses).into_iter();
    let mut tried = FuturesUnordered::new();
    let mut next = Instant::now();
    let (stream, reach) = loop {
        if tried.is_empty() || Instant::now() >= next {
            if let Some(it) = left.next() {
                tried.push(async move { (it, TcpStream::connect(it.address).await) });
                next = Instant::now() + NEXT_AFTER;
            } else if tried.is_empty() {
                return Err(last);
            }
        }
        let wake = if left.len() > 0 { next.min(by) } else { by };
        match timeout_at(wake, tried.next()).await {
            Ok(Some((it, Ok(stream)))) => break (stream, it.reach),
            Ok(Some((it, Err(error)))) => {
                let address = it.address;
                let why = format!("no connection to {address}: {error}");
                last = Fault::new(Code::ConnectionRefused, why);
                next = Instant::now();
            }
            Err(_) if Instant::now() >= by => {
                let all = addresses.iter().map(|it| it.address.to_string()).collect::<Vec<_>>();
                let why = format!("no connection to {} in time", all.join(", "));
                return Err(Fault::new(Code::ConnectionTimeout, why + &timeouts(attempt)));
            }
            Ok(None) | Err(_) => {}
        }
    };
    drop(tried);
    // Requests are written whole; there is nothing to gain by waiting for more.
    let _ = stream.set_nodelay(true);
    let stream: Box<dyn Stream> = match to.scheme {
        Scheme::Http => Box::new(stream),
        Scheme::Https => Box::new(encrypt(attempt, to, stream, by).await?),
    };
    Ok((stream, reach))
}

fn timeouts(attempt: &Attempt) -> String {
    let allowed = attempt.limits.http_connect_timeout;
    format!(
        "; {allowed:?} are allowed in all (`http_connect_timeout_ms` raises it), or less where the \
         guest says so"
    )
}

async fn encrypt(
    attempt: &Attempt,
    to: &Destination,
    stream: TcpStream,
    by: Instant,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Fault> {
    let config = attempt.network.tls().await.map_err(|why| Fault::new(Code::Configuration, why))?;
    // Whose certificate it has to be: that of the host in the URL, whatever address it has.
    let name = match &to.host {
        Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| Fault::new(Code::UriInvalid, "no certificate can be for that host"))?,
        Host::Address(address) => ServerName::from(*address),
    };
    match timeout_at(by, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let code = match inner {
                Some(
                    rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented,
                ) => Code::TlsCertificate,
                _ => Code::TlsProtocol,
            };
            let why = one_line(&error.to_string(), 300);
            Err(Fault::new(code, format!("TLS was not agreed on: {why}")))
        }
        Err(_) => Err(Fault::new(
            Code::ConnectionTimeout,
            format!("TLS was not agreed on in time{}", timeouts(attempt)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_tried_in_turns_and_the_first_stays_the_first() {
        let address = |text: &str| Address {
            address: SocketAddr::new(text.parse().unwrap(), 80),
            reach: Reach::Public,
        };
        let order = |texts: &[&str]| {
            let all: Vec<_> = texts.iter().map(|text| address(text)).collect();
            let all = interleaved(&all);
            all.iter().map(|it| it.address.ip().to_string()).collect::<Vec<_>>()
        };
        let mixed = order(&["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(mixed, ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]);
        assert_eq!(order(&["192.0.2.1", "192.0.2.2"]), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(order(&["192.0.2.1", "2001:db8::1"]), ["192.0.2.1", "2001:db8::1"]);
        assert!(order(&[]).is_empty());
    }
}
