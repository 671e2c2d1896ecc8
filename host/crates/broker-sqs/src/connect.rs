//! The way to SQS: region, credentials, endpoint, time limits.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    config::{Builder, ProvideCredentials as _, timeout::TimeoutConfig},
};

use super::{
    SqsBroker,
    request_context::{Endpoint, chain, no_credentials},
    unspent::Unspent,
};
use lovage_core::broker::{BrokerError, Fault};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(4);
/// How long one request may take, its wait for messages not counted. Generous enough for a batch of
/// 1 MiB over a slow link.
const ATTEMPT: Duration = Duration::from_secs(15);
/// How long an operation may take with all its retries.
const OPERATION: Duration = Duration::from_secs(40);

impl SqsBroker {
    /// Connects as every AWS tool does: by the environment (`AWS_REGION`, `AWS_PROFILE`,
    /// `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL`, …), the shared
    /// configuration files, and the role of the container, machine or function.
    ///
    /// No request is made to SQS. [`Fault::Invalid`] where no region is set, [`Fault::Denied`]
    /// where there are no credentials: better now than at the first message.
    pub async fn connect() -> Result<Self, BrokerError> {
        let (config, renewing) = lovage_aws::load().await;
        check(&config).await?;
        let config = Builder::from(&config).retry_classifier(renewing).timeout_config(limits());
        Ok(Self::with_client(&Client::from_conf(config.build())))
    }

    /// Like [`connect`](Self::connect), with a configuration that is already there.
    pub async fn from_config(config: &SdkConfig) -> Result<Self, BrokerError> {
        check(config).await?;
        let config = Builder::from(config).timeout_config(limits()).build();
        Ok(Self::with_client(&Client::from_conf(config)))
    }

    /// A broker on a client that is set up already; its region, credentials, endpoint, retries and
    /// time limits stay as they are.
    pub fn with_client(client: &Client) -> Self {
        let endpoint = Endpoint::default();
        let config = client.config().to_builder().interceptor(endpoint.clone()).build();
        Self { client: Client::from_conf(config), endpoint, unspent: Unspent::default() }
    }
}

/// Returns true if there are a region and credentials: better told now than at the first message.
async fn check(config: &SdkConfig) -> Result<(), BrokerError> {
    if config.region().is_none() {
        let why = lovage_aws::missing_profile().unwrap_or_else(|| {
            "no AWS region is set; set AWS_REGION, or the region of the profile".to_owned()
        });
        let message = format!("could not connect to SQS: {why}");
        return Err(BrokerError::new(Fault::Invalid, message));
    }
    let why = match config.credentials_provider() {
        None => Some("no provider is set up".to_owned()),
        Some(provider) => match provider.provide_credentials().await {
            Ok(_) => None,
            Err(error) => Some(chain(&error)),
        },
    };
    why.map_or(Ok(()), |why| {
        let message = format!("could not connect to SQS: {}", no_credentials(&why));
        Err(BrokerError::new(Fault::Denied, message))
    })
}

fn limits() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build()
}

/// The time limits of a request that waits for messages, which are in addition to the wait.
pub(super) fn waiting(wait: Duration) -> Builder {
    let attempt = wait + ATTEMPT;
    Builder::new().timeout_config(
        TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt * 2)
            .build(),
    )
}
