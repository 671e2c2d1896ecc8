//! From a destination to a connection: resolved once, checked, and connected to just that.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::Attempt;
use super::fault::{Code, Fault};
use crate::policy::{Destination, Host, Reach, Scheme};
use crate::text::one_line;

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 4;

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
            Ok(reach) if allowed.len() < MAX_ADDRESSES => {
                allowed.push(Address { address: SocketAddr::new(address, to.port), reach });
            }
            Ok(_) => {}
            Err(why) => refused = Some(why),
        }
    }
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(why)) => Err(Fault::new(Code::Prohibited, why)),
        (true, None) => Err(Fault::new(Code::DnsError, "the name has no address")),
    }
}

async fn resolve(attempt: &Attempt, name: &str, by: Instant) -> Result<Vec<IpAddr>, Fault> {
    match timeout_at(by, attempt.network.resolve(name)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Fault::new(
            Code::DnsError,
            format!("the name could not be resolved: {}", one_line(&error.to_string(), 200)),
        )),
        Err(_) => Err(Fault::new(Code::DnsTimeout, "resolving the name took too long")),
    }
}

/// Connects to the first address that answers. Each may take its part of the time that is left.
pub(super) async fn connect(
    attempt: &Attempt,
    to: &Destination,
    addresses: &[Address],
    by: Instant,
) -> Result<Box<dyn Stream>, Fault> {
    let mut last = Fault::new(Code::ConnectionTimeout, "there was no time left to connect");
    for (tried, Address { address, .. }) in addresses.iter().enumerate() {
        let left = by.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1).max(1);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are written whole; there is nothing to gain by waiting for more.
                let _ = stream.set_nodelay(true);
                return match to.scheme {
                    Scheme::Http => Ok(Box::new(stream)),
                    Scheme::Https => Ok(Box::new(encrypt(attempt, to, stream, by).await?)),
                };
            }
            Ok(Err(error)) => {
                last = Fault::new(
                    Code::ConnectionRefused,
                    format!("no connection to {address}: {error}"),
                );
            }
            Err(_) => {
                last = Fault::new(
                    Code::ConnectionTimeout,
                    format!("no connection to {address} within {share:?}{}", timeouts(attempt)),
                );
            }
        }
    }
    Err(last)
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
