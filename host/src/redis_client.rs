//! Redis, as both who uses it here need it: one connection for all, made when it is first needed, and
//! made anew after an outage; scripts that are sent by their hashes.

use std::{fmt, time::Duration};

use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, ToRedisArgs,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::OnceCell;

/// How often a connection is tried again before an operation fails.
const RETRIES: usize = 1;
/// How long to wait before that.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Whether an operation that may have happened, unseen, can be sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It comes to the same, once or twice.
    Harmless,
    /// Twice is another thing than once.
    Never,
}

/// A Redis that is talked to.
pub struct RedisClient {
    client: Client,
    /// The server without user and password, for errors.
    place: String,
    timeout: Duration,
    connection: OnceCell<ConnectionManager>,
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient").field("place", &self.place).finish_non_exhaustive()
    }
}

impl RedisClient {
    /// The Redis at a URL; `timeout` is for a connection, and for an answer. `Err` says what is
    /// wrong with the URL, without it: there may be a password in it.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| {
            format!(
                "no URL of Redis ({}); it is like redis://HOST:PORT, or rediss:// for TLS",
                error.category()
            )
        })?;
        let place = client.get_connection_info().addr().to_string();
        // Where two are built in, rustls does not choose; which one is no matter to us.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Ok(Self { client, place, timeout, connection: OnceCell::new() })
    }

    /// Where it is, without user and password.
    pub fn place(&self) -> &str {
        &self.place
    }

    async fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let connection = self
            .connection
            .get_or_try_init(async || {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(RETRIES)
                    .set_min_delay(RETRY_DELAY)
                    .set_max_delay(RETRY_DELAY)
                    .set_connection_timeout(Some(self.timeout))
                    .set_response_timeout(Some(self.timeout));
                ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            })
            .await?;
        Ok(connection.clone())
    }

    /// Sends a command; once more where the connection turns out to be gone and that does no harm.
    /// The first that notices it is what makes the manager connect again.
    pub async fn send<T: FromRedisValue>(
        &self,
        again: Again,
        command: &Cmd,
    ) -> Result<T, RedisError> {
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        match &answer {
            // Refused is refused: nothing was sent.
            Err(error) if error.is_connection_refusal() => {}
            Err(error) if again == Again::Harmless && error.is_connection_dropped() => {}
            _ => return answer,
        }
        command.query_async(&mut connection).await
    }

    /// Runs a script over some keys.
    pub async fn run<T: FromRedisValue>(
        &self,
        again: Again,
        script: &Script,
        keys: &[String],
        arguments: impl ToRedisArgs,
    ) -> Result<T, RedisError> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys).arg(arguments);
        let answer = self.send(again, &command).await;
        match &answer {
            // A Redis that was just started knows no scripts.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                script.load_async(&mut self.connection().await?).await?;
                self.send(again, &command).await
            }
            _ => answer,
        }
    }
}

/// A word on what may be the cause of an error; `field` is where the configuration has the URL.
pub fn hint(error: &RedisError, field: &str) -> String {
    match error.kind() {
        ErrorKind::AuthenticationFailed => format!("; {field} has user and password"),
        ErrorKind::Io => format!("; {field} says where it is"),
        _ => String::new(),
    }
}
