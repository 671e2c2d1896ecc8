//! A `.wasm` file, or a directory of them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::{Fetched, Offer, SIGNATURE_BYTES, SIGNATURES, Supplier};
use crate::{RegistryError, load};
use lovage_sandbox::Sandbox;

/// A file that changed is looked at again after this long, until it has stopped changing: whoever
/// writes it in place, and not beside it, is not done yet.
const SETTLE: Duration = Duration::from_millis(100);

/// How often that is done; what still changes then is taken as it is.
const LOOKS: usize = 100;

/// A file or a directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// The same from the root.
    place: PathBuf,
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path: path.to_owned(), place }
    }
}

#[async_trait]
impl Supplier for Directory {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn holds(&self, place: &str) -> bool {
        let place = Path::new(place);
        place == self.place || place.parent() == Some(&self.place)
    }

    #[cfg(feature = "watch")]
    fn watched(&self) -> Option<&Path> {
        // The directory of a file, since whoever replaces a file makes a new one.
        if self.path.is_dir() { Some(&self.place) } else { self.place.parent() }
    }

    async fn list(&self) -> Result<Vec<Offer>, RegistryError> {
        list(&self.path, "wasm")
    }

    async fn settle(&self, offer: &Offer) {
        let file = Path::new(&offer.shown);
        for _ in 0..LOOKS {
            let before = stamp_of(file);
            if is_old(file) {
                break;
            }
            tokio::time::sleep(SETTLE).await;
            if stamp_of(file) == before {
                break;
            }
        }
    }

    async fn fetch(&self, offer: &Offer, sandbox: &Sandbox) -> Result<Fetched, RegistryError> {
        let file = Path::new(&offer.shown);
        let wasm = load::read(sandbox, file)?;
        Ok(Fetched { wasm: wasm.into(), signatures: signatures(file) })
    }
}

/// The signatures beside a component's file, if there are any.
fn signatures(file: &Path) -> Option<Vec<u8>> {
    let beside = PathBuf::from(format!("{}{SIGNATURES}", file.display()));
    // One byte more than there may be, so that what is too long is seen to be.
    let mut bytes = Vec::new();
    let file =
        fs::File::open(beside).ok().filter(|it| it.metadata().is_ok_and(|it| it.is_file()))?;
    file.take(SIGNATURE_BYTES + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Returns true if a file was written long enough ago that nobody writes it still.
fn is_old(file: &Path) -> bool {
    let modified = fs::metadata(file).and_then(|found| found.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SETTLE))
}

/// The files of `lovage compile` at a path, each offered by its code's file.
pub(crate) fn bundles(path: &Path) -> Result<Vec<Offer>, RegistryError> {
    list(path, "cwasm")
}

fn list(path: &Path, ending: &'static str) -> Result<Vec<Offer>, RegistryError> {
    let files = load::files(path, ending)?;
    let offer = |file: PathBuf| {
        let place = std::path::absolute(&file).unwrap_or_else(|_| file.clone());
        Offer {
            place: place.display().to_string(),
            stamp: stamp_of(&file),
            shown: file.display().to_string(),
        }
    };
    Ok(files.into_iter().map(offer).collect())
}

/// What changes when a file does, or the files that belong to it.
pub(crate) fn stamp_of(file: &Path) -> String {
    let of = |file: &Path| {
        fs::metadata(file).map_or_else(
            |_| "-".to_owned(),
            |found| {
                let (secs, nanos) = (found.mtime(), found.mtime_nsec());
                format!("{}:{}:{}:{secs}.{nanos:09}", found.dev(), found.ino(), found.size())
            },
        )
    };
    let beside = PathBuf::from(format!("{}{SIGNATURES}", file.display()));
    format!("{} {} {}", of(file), of(&beside), of(&file.with_extension("json")))
}
