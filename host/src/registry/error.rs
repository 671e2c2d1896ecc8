//! Why the tasks cannot be loaded.

use std::io;
use std::path::PathBuf;

use super::precompiled::BundleError;
use crate::sandbox::ComponentError;
use crate::signature::SignatureError;

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
