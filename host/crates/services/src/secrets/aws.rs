//! AWS Secrets Manager and SSM Parameter Store, found as every AWS tool finds them.

use std::{borrow::Cow, time::Duration};

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_sdk_secretsmanager::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use tokio::sync::OnceCell;

use super::Trouble;
use lovage_aws::{Renewing, bounded_body::BoundedBody};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one request may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a look-up may take with all its retries.
const OPERATION: Duration = Duration::from_secs(12);

/// The most bytes of an answer: a value has at most 64 KiB, and JSON may write each byte as six.
const ANSWER_BYTES: u64 = 1 << 20;

/// The clients, each made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Aws {
    config: OnceCell<(SdkConfig, Option<Renewing>)>,
    secrets: OnceCell<aws_sdk_secretsmanager::Client>,
    parameters: OnceCell<aws_sdk_ssm::Client>,
}

/// What AWS said, or why it said nothing.
#[derive(Debug)]
pub(super) struct AwsError {
    pub(super) trouble: Trouble,
    pub(super) reason: Cow<'static, str>,
    pub(super) advice: &'static str,
}

impl From<SdkConfig> for Aws {
    fn from(config: SdkConfig) -> Self {
        Self { config: OnceCell::from((config, None)), ..Self::default() }
    }
}

impl Aws {
    /// The value of a secret in Secrets Manager, the current version.
    pub(super) async fn secret(&self, id: &str) -> Result<String, AwsError> {
        let (config, renewing) = self.config().await?;
        let client = self
            .secrets
            .get_or_init(async || {
                let mut config = aws_sdk_secretsmanager::config::Builder::from(config)
                    .timeout_config(timeouts())
                    .interceptor(BoundedBody::new(ANSWER_BYTES));
                if let Some(renewing) = renewing {
                    config = config.retry_classifier(renewing.clone());
                }
                aws_sdk_secretsmanager::Client::from_conf(config.build())
            })
            .await;
        let answer = client.get_secret_value().secret_id(id).send().await;
        let answer = answer.map_err(|error| explain(&error, "secretsmanager:GetSecretValue"))?;
        match (answer.secret_string, answer.secret_binary) {
            (Some(text), _) => Ok(text),
            (None, Some(bytes)) => {
                // The error would hold the bytes.
                String::from_utf8(bytes.into_inner()).map_err(|_| wrong("its value is no UTF-8"))
            }
            (None, None) => Err(wrong("it has no value")),
        }
    }

    /// The value of a parameter, decrypted.
    pub(super) async fn parameter(&self, name: &str) -> Result<String, AwsError> {
        let (config, renewing) = self.config().await?;
        let client = self
            .parameters
            .get_or_init(async || {
                let mut config = aws_sdk_ssm::config::Builder::from(config)
                    .timeout_config(timeouts())
                    .interceptor(BoundedBody::new(ANSWER_BYTES));
                if let Some(renewing) = renewing {
                    config = config.retry_classifier(renewing.clone());
                }
                aws_sdk_ssm::Client::from_conf(config.build())
            })
            .await;
        let answer = client.get_parameter().name(name).with_decryption(true).send().await;
        let answer = answer.map_err(|error| explain(&error, "ssm:GetParameter"))?;
        answer
            .parameter
            .and_then(|parameter| parameter.value)
            .ok_or_else(|| wrong("it has no value"))
    }

    async fn config(&self) -> Result<&(SdkConfig, Option<Renewing>), AwsError> {
        let found = self
            .config
            .get_or_init(async || {
                let (config, renewing) = lovage_aws::load().await;
                (config, Some(renewing))
            })
            .await;
        if found.0.region().is_none() {
            return Err(AwsError {
                trouble: Trouble::Wrong,
                reason: "no AWS region is set".into(),
                advice: "set AWS_REGION, or the region of the profile",
            });
        }
        Ok(found)
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(OPERATION)
        .build()
}

fn wrong(reason: &'static str) -> AwsError {
    AwsError { trouble: Trouble::Wrong, reason: reason.into(), advice: "" }
}

/// Puts an error into words. Neither its `Debug` nor the SDK's own long form will do: both show
/// the answer, and the value may be in it.
fn explain<E>(error: &SdkError<E, HttpResponse>, permission: &'static str) -> AwsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let away =
        |reason: String, advice| AwsError { trouble: Trouble::Away, reason: reason.into(), advice };
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code().unwrap_or("an error");
            let reason = match answer.err().message() {
                Some(message) => format!("AWS says {code}: {message}"),
                None => format!("AWS says {code} (HTTP {status})"),
            };
            let busy = status >= 500 || status == 429 || code.contains("Throttl");
            if busy || code == "LimitExceededException" {
                return away(reason, "it is tried again");
            }
            let advice = match code {
                "AccessDeniedException" | "UnrecognizedClientException" => {
                    if permission == "ssm:GetParameter" {
                        "allow the host's role ssm:GetParameter on it, and kms:Decrypt on its key"
                    } else {
                        "allow the host's role secretsmanager:GetSecretValue on it, and \
                         kms:Decrypt on its key"
                    }
                }
                "ResourceNotFoundException" | "ParameterNotFound" => {
                    "make it in this account and region, or name another"
                }
                _ => "",
            };
            AwsError { trouble: Trouble::Wrong, reason: reason.into(), advice }
        }
        SdkError::TimeoutError(_) => {
            away("AWS does not answer in time".to_owned(), "see whether it is reached")
        }
        SdkError::DispatchFailure(failure) => {
            let why = failure.as_connector_error().map(|error| {
                let mut text = error.to_string();
                let mut next = std::error::Error::source(error);
                while let Some(source) = next {
                    text = format!("{text}: {source}");
                    next = source.source();
                }
                text
            });
            away(
                format!("the request was not sent: {}", why.as_deref().unwrap_or("unknown")),
                "see whether AWS is reached, and whether there are credentials",
            )
        }
        SdkError::ConstructionFailure(_) => {
            away("the request could not be made".to_owned(), "see whether there are credentials")
        }
        _ => away("AWS answers what is not understood".to_owned(), ""),
    }
}
