//! Credentials for AWS that are read again when AWS refuses them.
//!
//! The SDK keeps what it read from files and the environment of a profile for the life of a client.
//! Keys that are rotated on disk would be used until a restart. Here a refusal because of who we are
//! drops what is kept, builds the chain of providers anew, and has the request made once more.

#![forbid(unsafe_code)]

pub mod bounded_body;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use aws_sdk_sqs::config::{
    IdentityCache,
    retry::{ClassifyRetry, RetryAction},
};

use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

use lovage_core::text::{nearest, one_line};

/// By so much before their end credentials are not used any more.
const MARGIN: Duration = Duration::from_mins(1);

/// No more often than this are credentials read again: all requests under way may be refused at once.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The codes of a refusal because of who we are, or are not any more.
pub const IDENTITY_CODES: [&str; 12] = [
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "IncompleteSignature",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "InvalidAccessKeyId",
    "NotAuthorized",
];

/// The configuration as every AWS tool finds it, with credentials that are renewed when they are
/// refused. The second goes into each client as a classifier of retries.
pub async fn load() -> (SdkConfig, Renewing) {
    renewing(aws_config::load_defaults(BehaviorVersion::latest()).await)
}

/// The same of a configuration that was found already.
pub fn renewing(found: SdkConfig) -> (SdkConfig, Renewing) {
    let renewing = Renewing::of(found.credentials_provider());
    let config = found
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(renewing.clone()))
        // Ours is the cache.
        .identity_cache(IdentityCache::no_cache())
        .build();
    (config, renewing)
}

/// Credentials that are kept until they end or are refused. Clones share them.
#[derive(Debug, Clone)]
pub struct Renewing(Arc<State>);

#[derive(Debug)]
struct State {
    known: Mutex<Known>,
    /// Held by the one who asks the provider.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// `None`: to be built anew.
    provider: Option<SharedCredentialsProvider>,
    kept: Option<(Credentials, Instant)>,
}

impl Renewing {
    fn of(provider: Option<SharedCredentialsProvider>) -> Self {
        let known = Mutex::new(Known { provider, kept: None });
        Self(Arc::new(State { known, turn: tokio::sync::Mutex::default() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> Option<Credentials> {
        let known = self.known();
        let (credentials, _) = known.kept.as_ref()?;
        let last = SystemTime::now() + MARGIN;
        credentials.expiry().is_none_or(|end| end > last).then(|| credentials.clone())
    }

    async fn get(&self) -> Result<Credentials, CredentialsError> {
        if let Some(credentials) = self.kept() {
            return Ok(credentials);
        }
        let _turn = self.0.turn.lock().await;
        if let Some(credentials) = self.kept() {
            return Ok(credentials);
        }
        let provider = self.known().provider.clone();
        let provider = match provider {
            Some(provider) => Some(provider),
            None => {
                aws_config::load_defaults(BehaviorVersion::latest()).await.credentials_provider()
            }
        };
        let provider =
            provider.ok_or_else(|| CredentialsError::not_loaded("no provider is set up"))?;
        let answer = provider.provide_credentials().await;
        let mut known = self.known();
        match answer {
            Ok(credentials) => {
                known.provider = Some(provider);
                known.kept = Some((credentials.clone(), Instant::now()));
                Ok(credentials)
            }
            Err(error) => {
                // What it read may have been half written.
                known.provider = None;
                Err(error)
            }
        }
    }

    /// Drops what was refused, unless it is newer than what the request can have used.
    fn refused(&self) {
        let mut known = self.known();
        let is_old = known.kept.as_ref().is_none_or(|(_, since)| since.elapsed() >= RENEW_EVERY);
        if is_old {
            *known = Known::default();
            drop(known);
            metrics::counter!("lovage_aws_credentials_refused_total").increment(1);
            tracing::warn!("AWS refused the credentials: they are read again");
        }
    }
}

impl ProvideCredentials for Renewing {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

impl ClassifyRetry for Renewing {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(response) = context.response() else { return RetryAction::NoActionIndicated };
        if !(400..500).contains(&response.status().as_u16()) {
            return RetryAction::NoActionIndicated;
        }
        let header = |name| response.headers().get(name).is_some_and(is_identity_error);
        let body = response.body().bytes().map(String::from_utf8_lossy);
        let refuses = header("x-amzn-errortype")
            || header("x-amzn-query-error")
            || body.is_some_and(|body| is_identity_error(&body));
        if !refuses {
            return RetryAction::NoActionIndicated;
        }
        self.refused();
        RetryAction::transient_error()
    }

    fn name(&self) -> &'static str {
        "lovage-renew-credentials"
    }
}

fn is_identity_error(text: &str) -> bool {
    IDENTITY_CODES.iter().any(|code| {
        // A whole word: `NotAuthorized` is in names of other errors, too.
        text.match_indices(code).any(|(at, _)| {
            let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let before = text.get(..at).and_then(|text| text.chars().next_back());
            let after = text.get(at + code.len()..).and_then(|text| text.chars().next());
            !is_part(before) && !is_part(after)
        })
    })
}

/// What is wrong with the profile that `AWS_PROFILE` names: that it is in no file. `None` where none
/// is named, or there is one of that name.
pub fn missing_profile() -> Option<String> {
    let named = std::env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty())?;
    let home = std::env::home_dir().unwrap_or_default();
    let file = |variable: &str, name: &str| {
        std::env::var_os(variable).map_or_else(|| home.join(".aws").join(name), PathBuf::from)
    };
    let files =
        [file("AWS_CONFIG_FILE", "config"), file("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
    let texts = files.each_ref().map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let known: Vec<&str> = texts.iter().flat_map(|text| profiles(text)).collect();
    if known.contains(&named.as_str()) {
        return None;
    }
    let [config, credentials] = files.each_ref().map(|path| path.display());
    let hint = match nearest(&named, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "neither file has any profile".to_owned(),
        None => format!("there are: {}", known.join(", ")),
    };
    Some(format!(
        "AWS_PROFILE names the profile `{}`, which is neither in {config} nor in {credentials}; {hint}",
        one_line(&named, 200)
    ))
}

/// The names of profiles in a file of AWS's.
fn profiles(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let name = line.trim().strip_prefix('[')?.split(']').next()?.trim();
        let name = name.strip_prefix("profile ").unwrap_or(name).trim();
        let other = name.starts_with("sso-session ") || name.starts_with("services ");
        (!other && !name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_because_of_who_we_are_is_recognised_in_either_spelling() {
        for text in [
            r#"{"__type":"com.amazon.coral.service#ExpiredTokenException","message":"x"}"#,
            "<Error><Code>InvalidClientTokenId</Code></Error>",
            "InvalidClientTokenId;Sender",
        ] {
            assert!(is_identity_error(text), "{text}");
        }
        for text in [r#"{"__type":"AccessDenied"}"#, "UserNotAuthorizedForQueue", ""] {
            assert!(!is_identity_error(text), "{text}");
        }
    }

    #[test]
    fn profiles_are_found_in_both_files() {
        let text = "[default]\nregion = x\n[profile prod]\n[ dev ]\n[sso-session a]\n[]\n";
        assert_eq!(profiles(text).collect::<Vec<_>>(), ["default", "prod", "dev"]);
    }
}
