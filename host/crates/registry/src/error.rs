//! Why the tasks cannot be loaded.

use std::io;
use std::path::PathBuf;

use super::precompiled::{BundleError, BundleProblem};
use crate::signature::SignatureError;
use lovage_sandbox::{ComponentError, Retry};

/// Why a registry is not what the operator asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A path that is not there, or does not open.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A directory without what was looked for in it.
    #[error("{}: holds no {what} files", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
        /// The ending that was looked for.
        what: &'static str,
    },
    /// Nothing was named to load.
    #[error("no components are named: name `.wasm` files, or directories of them")]
    NoOrigins,
    /// A component that does not load.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// Precompiled code that does not load.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// One task in two components.
    #[error("the task `{task}` is served by two components: {first} and {second}")]
    TaskTwice {
        /// The task.
        task: String,
        /// The file of the one.
        first: String,
        /// The file of the other.
        second: String,
    },
    /// A task of it belongs to another component.
    #[error(
        "{file}: declares the task `{task}`, which tasks.{task}.component gives to `{component}` \
         alone"
    )]
    BoundTask {
        /// The file.
        file: String,
        /// The task.
        task: String,
        /// The component that may serve it.
        component: String,
    },
    /// A task with grants of its own in several components, and nobody says whose it is.
    #[error(
        "the task `{task}` has grants of its own, and several components declare it: {places}; none \
         of them is served until tasks.{task}.component says which one may"
    )]
    Undecided {
        /// The task.
        task: String,
        /// The components.
        places: String,
    },
    /// A signed version that comes before one that was served.
    #[error(
        "{file}: is an older version: its signed manifest has the order {order}, and {newest} with \
         the order {served} was served already; to go back on purpose use `lovage tasks rollback`, \
         or sign it again with a higher --order"
    )]
    Older {
        /// The file.
        file: String,
        /// Its order.
        order: u64,
        /// The digest of the newest version that was served.
        newest: String,
        /// That one's order.
        served: u64,
    },
    /// The compiler panicked: a mistake of it or of ours, and no reason to end.
    #[error("{}: the compiler failed: {reason}", path.display())]
    Compiler {
        /// The file.
        path: PathBuf,
        /// What is known.
        reason: String,
    },
    /// A version that somebody, or its trial, said must not be served.
    #[error("{file}: is not served: {why}; `lovage tasks allow` takes that back")]
    Denied {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// There is no way back.
    #[error("{file}: must not be served any more, and no version before it is kept that may be")]
    NothingBefore {
        /// The file.
        file: String,
    },
    /// Nobody who may has signed it.
    #[error("{file}: {error}")]
    Untrusted {
        /// The file.
        file: String,
        /// Why.
        error: SignatureError,
    },
    /// A place that is not on this machine does not give what was asked for.
    #[error("{place}: {why}")]
    Remote {
        /// The place.
        place: String,
        /// Why.
        why: String,
    },
}

impl RegistryError {
    /// Returns true if the same offer may be served another time.
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Component(error) => error.problem.retry(),
            Self::Compiler { .. } => Retry::Few,
            Self::Bundle(error) if !matches!(error.problem, BundleProblem::Io(_)) => Retry::Never,
            // Signatures may come after the component, or not be readable now.
            Self::Untrusted { error: SignatureError::Missing, .. }
            | Self::Bundle(_)
            | Self::Remote { .. }
            | Self::Unreadable { .. }
            | Self::Empty { .. } => Retry::Always,
            _ => Retry::Never,
        }
    }

    /// Returns true if it would be served if others were not.
    pub(super) fn is_contended(&self) -> bool {
        matches!(self, Self::TaskTwice { .. } | Self::Undecided { .. })
    }

    /// Returns true if a place was looked at, and offers nothing.
    pub(super) fn is_empty_place(&self) -> bool {
        match self {
            Self::Empty { .. } => true,
            Self::Unreadable { error, .. } => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
