//! Redis, as both who uses it here need it: one connection for all, made when it is first needed;
//! scripts that are sent by their hashes.
//!
//! A connection is given up when its server cannot do the work: after a network error, an answer
//! that does not come, or a refusal that tells of the server's state (a replica after a fail-over,
//! a server that loads). The next operation connects anew, with a new DNS look-up. An old
//! connection would lead to the demoted server for ever.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script,
    ServerErrorKind, ToRedisArgs, aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::Instant};

use lovage_config::RedisUrl;

/// Refusals that tell of the server's state, and not of the one operation: every operation may
/// meet them, nothing was done, and another server may be the right one by now.
const STATES: [&str; 15] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "OOM",
    "MISCONF",
    "NOAUTH",
    "WRONGPASS",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "BUSY",
    "MOVED",
    "ASK",
    "UNKILLABLE",
    "NOPROTO",
];

/// True if an operation that may have happened, unseen, can be sent again.
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
    config: AsyncConnectionConfig,
    connection: Mutex<Held>,
}

/// The connection, and which one it is.
#[derive(Default)]
struct Held {
    current: Option<MultiplexedConnection>,
    number: u64,
    /// The last attempt to connect that failed, and when.
    failed: Option<(Instant, RedisError)>,
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient").field("place", &self.place).finish_non_exhaustive()
    }
}

impl RedisClient {
    /// The Redis at a URL; `timeout` is for a connection, and for an answer, where the URL does not
    /// say them. `Err` completes a sentence about the URL, without it: there may be a password in
    /// it.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, String> {
        let RedisUrl { client, connect_timeout, response_timeout } = RedisUrl::parse(url)?;
        let place = client.get_connection_info().addr().to_string();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout.unwrap_or(timeout)))
            .set_response_timeout(Some(response_timeout.unwrap_or(timeout)));
        Ok(Self { client, place, config, connection: Mutex::default() })
    }

    /// Where it is, without user and password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The connection, and its number. Connects where there is none; those who come meanwhile wait
    /// for the outcome, and share it.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let came = Instant::now();
        let mut held = self.connection.lock().await;
        if let Some(connection) = &held.current {
            return Ok((held.number, connection.clone()));
        }
        if let Some((at, error)) = &held.failed
            && *at > came
        {
            return Err(error.clone());
        }
        let config = self.config.clone();
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                held.number += 1;
                held.failed = None;
                held.current = Some(connection.clone());
                Ok((held.number, connection))
            }
            Err(error) => {
                held.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Gives a connection up, unless somebody has connected anew meanwhile.
    async fn give_up(&self, number: u64) {
        let mut held = self.connection.lock().await;
        if held.number == number {
            held.current = None;
        }
    }

    /// Sends a command; once more, over a new connection, where the old one turns out to be of no
    /// use and that does no harm.
    pub async fn send<T: FromRedisValue>(
        &self,
        again: Again,
        command: &Cmd,
    ) -> Result<T, RedisError> {
        match self.send_once(command).await {
            Err((error, true)) if Self::may_repeat(again, &error) => {}
            answer => return answer.map_err(|(error, _)| error),
        }
        self.send_once(command).await.map_err(|(error, _)| error)
    }

    /// Whether a command that failed on a connection that was given up can be sent once more.
    fn may_repeat(again: Again, error: &RedisError) -> bool {
        // Refused is refused: nothing was done.
        state_of(error).is_some() || (again == Again::Harmless && error.is_connection_dropped())
    }

    /// Sends a command; an error comes with whether it was an older connection, not one made for
    /// it, that was given up for it.
    async fn send_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, (RedisError, bool)> {
        let (number, mut connection) = self.connection().await.map_err(|error| (error, false))?;
        match command.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let useless = is_away(&error);
                if useless {
                    self.give_up(number).await;
                }
                Err((error, useless))
            }
        }
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
                script.load_async(&mut self.connection().await?.1).await?;
                self.send(again, &command).await
            }
            _ => answer,
        }
    }
}

/// The refusal that tells of the server's state, if an error is one.
fn state_of(error: &RedisError) -> Option<&'static str> {
    let code = error.code()?;
    if let Some(state) = STATES.into_iter().find(|state| *state == code) {
        return Some(state);
    }
    // Redis 6 wraps what a command within a script says: `ERR Error running script (…): -READONLY …`.
    let detail = error.detail()?;
    let wrapped = |state: &str| detail.split('-').any(|part| part.starts_with(state));
    if code != "ERR" || !detail.contains(" script") {
        return None;
    }
    STATES.into_iter().find(|state| wrapped(state))
}

/// Returns true if an error means that the server is away or refuses everybody: the next operation
/// would fail like this one.
pub fn is_away(error: &RedisError) -> bool {
    state_of(error).is_some()
        || error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed | ErrorKind::Parse | ErrorKind::InvalidClientConfig
        )
}

/// A word on what may be the cause of an error; `field` is where the configuration has the URL.
pub fn hint(error: &RedisError, field: &str) -> String {
    match (state_of(error), error.kind()) {
        (Some("NOAUTH" | "WRONGPASS"), _) | (_, ErrorKind::AuthenticationFailed) => {
            format!("; {field} has user and password")
        }
        (Some("READONLY"), _) => {
            format!(
                "; it is a replica: {field} names the primary, and leads to a new one by itself"
            )
        }
        (Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY"), _) => {
            "; it passes by itself".to_owned()
        }
        (Some("OOM"), _) => "; its `maxmemory` is reached".to_owned(),
        (Some("MISCONF"), _) => "; its disk needs an operator".to_owned(),
        (Some("MOVED" | "ASK"), _) => {
            format!(
                "; it is a cluster, which Celery's backend does not know: {field} names a \
                     server that has all keys"
            )
        }
        (_, ErrorKind::Server(ServerErrorKind::NoPerm)) => {
            format!("; the user in {field} may not do that")
        }
        (_, ErrorKind::Io) => format!("; {field} says where it is"),
        _ => String::new(),
    }
}
