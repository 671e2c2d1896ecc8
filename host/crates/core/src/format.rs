//! The wire formats that a message can have.

/// The wire formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON object with `data` and more.
    #[default]
    Native,
    /// The body is the payload.
    Raw,
    /// A task message of Celery's clients.
    Celery,
}
