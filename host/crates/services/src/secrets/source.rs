//! Where a secret's value is.

use std::{fmt, io, path::PathBuf};

use tokio::io::AsyncReadExt as _;

use super::{SecretError, Trouble, aws::Aws};
use lovage_config::SecretConfig;

/// The largest value that is read from a file, in bytes: as much as AWS Secrets Manager keeps
/// (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>).
pub(super) const VALUE_BYTES: usize = 65_536;

/// Where a value is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A variable of the host's environment.
    Env(String),
    /// A file.
    File(PathBuf),
    /// AWS Secrets Manager: name or ARN.
    SecretsManager(String),
    /// AWS SSM Parameter Store: name or ARN.
    Parameter(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the environment variable `{name}`"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::SecretsManager(id) => write!(f, "`{id}` in AWS Secrets Manager"),
            Self::Parameter(name) => write!(f, "`{name}` in AWS SSM Parameter Store"),
        }
    }
}

impl Source {
    /// The source of a secret's settings; the first, where they were not validated.
    pub(super) fn of(config: &SecretConfig) -> Option<Self> {
        config
            .env
            .clone()
            .map(Self::Env)
            .or_else(|| config.file.clone().map(Self::File))
            .or_else(|| config.secrets_manager.clone().map(Self::SecretsManager))
            .or_else(|| config.parameter.clone().map(Self::Parameter))
    }

    /// An error of this source.
    pub(super) fn failed(
        &self,
        secret: &str,
        trouble: Trouble,
        reason: impl AsRef<str>,
        advice: &str,
    ) -> SecretError {
        SecretError {
            secret: secret.into(),
            trouble,
            from: self.to_string().into(),
            reason: reason.as_ref().into(),
            advice: advice.into(),
        }
    }

    /// The value as it stands there.
    pub(super) async fn read(&self, secret: &str, aws: &Aws) -> Result<String, SecretError> {
        let failed =
            |trouble, reason: &str, advice: &str| self.failed(secret, trouble, reason, advice);
        match self {
            Self::Env(name) => match std::env::var(name) {
                Ok(value) => Ok(without_newline(value)),
                Err(std::env::VarError::NotPresent) => {
                    Err(failed(Trouble::Wrong, "it is not set", "set it where the host is started"))
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    Err(failed(Trouble::Wrong, "it is no UTF-8", "give it a text"))
                }
            },
            Self::File(path) => read(path).await.map_err(|error| {
                let (trouble, advice) = match error.kind() {
                    io::ErrorKind::NotFound => (Trouble::Wrong, "make it, or name another file"),
                    io::ErrorKind::PermissionDenied => {
                        (Trouble::Wrong, "let the host's user read it")
                    }
                    io::ErrorKind::InvalidData => (Trouble::Wrong, "put the value alone into it"),
                    _ => (Trouble::Away, ""),
                };
                failed(trouble, &error.to_string(), advice)
            }),
            Self::SecretsManager(id) => {
                aws.secret(id).await.map_err(|it| failed(it.trouble, &it.reason, it.advice))
            }
            Self::Parameter(name) => {
                aws.parameter(name).await.map_err(|it| failed(it.trouble, &it.reason, it.advice))
            }
        }
    }
}

/// A file's text without the newline at its end.
async fn read(path: &std::path::Path) -> io::Result<String> {
    let file = tokio::fs::File::open(path).await?;
    let mut bytes = Vec::new();
    file.take(VALUE_BYTES as u64 + 1).read_to_end(&mut bytes).await?;
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if bytes.len() > VALUE_BYTES {
        return Err(wrong(format!("it has more than {VALUE_BYTES} bytes")));
    }
    // The error would hold the bytes.
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is no UTF-8".to_owned()))?;
    Ok(without_newline(text))
}

/// A value without the one newline at its end that tools leave there.
pub(super) fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
