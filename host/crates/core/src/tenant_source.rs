//! Where the tenant of a job can be told.

use serde::{Deserialize, Serialize};

/// Where the tenant of a job can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantSource {
    /// The field `tenant` of a native body.
    Body,
    /// The message attribute `lovage-tenant`.
    Attribute,
    /// The message group of a queue that is not FIFO (SQS's fair queues). For a function that is
    /// invoked: the tenant id that Lambda vouches for.
    Group,
    /// `tenant` of the queue's settings.
    Queue,
}

impl TenantSource {
    /// All of them, in the order that holds unless a queue says otherwise.
    pub const ALL: [Self; 4] = [Self::Body, Self::Attribute, Self::Group, Self::Queue];

    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Attribute => "attribute",
            Self::Group => "group",
            Self::Queue => "queue",
        }
    }

    /// Where it is, in words.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Body => "the body's `tenant`",
            Self::Attribute => "the message attribute `lovage-tenant`",
            Self::Group => "the message group (or Lambda's tenant id)",
            Self::Queue => "the queue's own `tenant`",
        }
    }
}
