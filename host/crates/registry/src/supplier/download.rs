//! Downloads that are bounded in bytes and in time: whoever answers may answer without end, or a byte
//! at a time.

use std::time::Duration;

use super::{ComponentUrl, remote};
use crate::RegistryError;

/// How long a listing may take in all.
pub(super) const LISTING: Duration = Duration::from_mins(1);

/// How long a component may take in all, with all that belongs to it.
pub(super) const FETCH: Duration = Duration::from_mins(5);

/// Ends what takes longer than it may.
pub(super) fn within<'a, T>(
    url: &'a ComponentUrl,
    time: Duration,
    download: impl Future<Output = Result<T, RegistryError>> + Send + 'a,
) -> impl Future<Output = Result<T, RegistryError>> + Send + 'a
where
    T: Send + 'a,
{
    // Some of them are large.
    let download = Box::pin(download);
    async move {
        let late = |_| remote(url, format!("it took more than {time:?}, and is given up for now"));
        tokio::time::timeout(time, download).await.map_err(late)?
    }
}

#[cfg(feature = "remote")]
pub(super) use self::web::{client, read};

#[cfg(feature = "remote")]
mod web {
    use std::time::Duration;

    use reqwest::{Client, Response};

    use super::super::{ComponentUrl, remote};
    use crate::RegistryError;

    /// How long it may take until somebody answers.
    const CONNECT: Duration = Duration::from_secs(10);

    /// How long an answer may pause.
    const PAUSE: Duration = Duration::from_secs(30);

    /// A client that speaks TLS only, also after a redirect, unless it is for this very machine.
    pub(in crate::supplier) fn client(local: bool) -> reqwest::Result<Client> {
        Client::builder().connect_timeout(CONNECT).read_timeout(PAUSE).https_only(!local).build()
    }

    /// The whole body of an answer, if it has no more bytes than it may.
    pub(in crate::supplier) async fn read(
        url: &ComponentUrl,
        mut answer: Response,
        most: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let failed = |error: reqwest::Error| {
            // The URL is told anyway, and its query may hold a secret.
            remote(url, lovage_core::events::Chain(&error.without_url()).to_string())
        };
        let too_long =
            || remote(url, format!("it is larger than the {most} bytes that are allowed"));
        if answer.content_length().is_some_and(|length| length > most) {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(failed)? {
            if (bytes.len() + more.len()) as u64 > most {
                return Err(too_long());
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[cfg(feature = "remote")]
mod tests;
