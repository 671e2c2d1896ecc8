//! The versions of components that were served on this machine, kept so that one can go back.
//!
//! A directory, shared by the processes of one user:
//!
//! ```text
//! NAME-0123456789abcdef.json     what was served from one place, the newest last, and what must not be
//! sha256-….wasm                  the components, and sha256-….wasm.sig their signatures
//! lock                           held while one of them is written
//! ```
//!
//! A component's place (its file, its object, its reference) names it; the digits are the beginning
//! of the place's SHA-256. Files are replaced by renaming, so that readers need no lock, and a
//! component is believed only if it has the digest that its name says.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::trust::{self, Besides, Distrust};
use lovage_core::text::component_name;
use lovage_platform::paced_write;
use lovage_sandbox::digest;

/// How many versions of a component are kept unless somebody says otherwise.
pub const DEFAULT_KEEP: usize = 5;

/// How many refusals of a component are remembered: more than anybody goes back.
const DENIED: usize = 100;

/// The version of the records' form.
const FORMAT: u32 = 1;

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error(
        "no place for the versions that were served: neither XDG_STATE_HOME nor HOME is set, and \
         no components.state_dir"
    )]
    NoPlace,
    /// A file or the directory cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others could put versions there.
    #[error("{}: {why}", path.display())]
    Distrusted {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: Distrust,
    },
    /// A record that is none.
    #[error("{}: is no record of versions: {why}; delete it to begin anew", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The versions of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// Where it comes from: a file's path, or a URL.
    pub place: String,
    /// Those that were served, in the order in which they came; the last one is served, unless it
    /// must not be.
    pub versions: Vec<Kept>,
    /// Those that must not be served, whoever offers them.
    #[serde(default)]
    pub denied: Vec<Denied>,
    /// The highest order of a signed manifest that was accepted, and whose it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Ordered>,
}

/// The order of a signed version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// The order.
    pub order: u64,
    /// The version's digest.
    pub digest: String,
}

/// A version that was served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// The tasks that it serves.
    pub tasks: Vec<String>,
    /// Since when it is served.
    pub since: Timestamp,
}

/// A version that must not be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Its digest.
    pub digest: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub at: Timestamp,
}

impl Record {
    fn new(place: &str) -> Self {
        let (versions, denied) = (Vec::new(), Vec::new());
        Self { format: FORMAT, place: place.to_owned(), versions, denied, order: None }
    }

    /// Why a version must not be served; `None` where it may.
    pub fn denial(&self, digest: &str) -> Option<&Denied> {
        self.denied.iter().find(|denied| denied.digest == digest)
    }

    /// The version that is to be served: the last one that may be.
    pub fn current(&self) -> Option<&Kept> {
        self.versions.iter().rev().find(|kept| self.denial(&kept.digest).is_none())
    }
}

/// The bytes of a component, and those of its signatures where there are any.
pub type Bytes = (Vec<u8>, Option<Vec<u8>>);

/// The directory.
#[derive(Debug, Clone)]
pub struct History {
    dir: PathBuf,
    keep: usize,
}

impl History {
    /// `$XDG_STATE_HOME/lovage`, or `~/.local/state/lovage`
    /// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
    pub fn default_dir() -> Result<PathBuf, HistoryError> {
        let set = |name| std::env::var_os(name).map(PathBuf::from);
        set("XDG_STATE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| {
                set("HOME").filter(|home| home.is_absolute()).map(|h| h.join(".local/state"))
            })
            .map(|state| state.join("lovage"))
            .ok_or(HistoryError::NoPlace)
    }

    /// Opens a directory, and makes it where it is not there. The last `keep` versions of each
    /// component are kept; at least two, or there would be nothing to go back to.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, HistoryError> {
        let failed = |error| HistoryError::Io { path: dir.to_owned(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let stat = rustix::fs::stat(dir).map_err(|error| failed(error.into()))?;
        trust::check(&stat, Besides::Nobody)
            .map_err(|why| HistoryError::Distrusted { path: dir.to_owned(), why })?;
        Ok(Self { dir: dir.to_owned(), keep: keep.max(2) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What is known of a place. Blocks.
    pub fn of(&self, place: &str) -> Result<Record, HistoryError> {
        let path = self.dir.join(file_name(place));
        Ok(read(&path)?.unwrap_or_else(|| Record::new(place)))
    }

    /// All that is known, in the order of their places. Blocks.
    pub fn all(&self) -> Result<Vec<Record>, HistoryError> {
        let failed = |error| HistoryError::Io { path: self.dir.clone(), error };
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                records.extend(read(&path)?);
            }
        }
        records.sort_by(|a, b| a.place.cmp(&b.place));
        Ok(records)
    }

    /// Keeps the bytes of a version that is served, or tried, and its signatures. Blocks.
    pub fn keep(
        &self,
        digest: &str,
        wasm: &[u8],
        signatures: Option<&[u8]>,
    ) -> Result<(), HistoryError> {
        if let Some(signatures) = signatures {
            self.replace(&self.dir.join(signatures_name(digest)), signatures)?;
        }
        let blob = self.dir.join(blob_name(digest));
        if blob.exists() { Ok(()) } else { self.replace(&blob, wasm) }
    }

    /// Notes that a version, whose bytes are kept, is served from now on. Blocks.
    pub fn serve(&self, place: &str, version: Kept) -> Result<(), HistoryError> {
        self.change(place, |record| {
            let known = record.versions.iter().position(|kept| kept.digest == version.digest);
            // Where it is the last one already, nothing changed: a process has started anew.
            if known.is_some_and(|at| at + 1 == record.versions.len()) {
                return;
            }
            record.versions.retain(|kept| kept.digest != version.digest);
            record.versions.push(version);
            let surplus = record.versions.len().saturating_sub(self.keep);
            record.versions.drain(..surplus);
        })?;
        Ok(())
    }

    /// Notes that a signed version of that order was accepted. Blocks.
    pub fn note_order(&self, place: &str, ordered: Ordered) -> Result<(), HistoryError> {
        self.change(place, |record| {
            if record.order.as_ref().is_none_or(|before| before.order < ordered.order) {
                record.order = Some(ordered);
            }
        })?;
        Ok(())
    }

    /// Notes that a version must not be served any more. Blocks.
    pub fn deny(&self, place: &str, digest: &str, why: &str) -> Result<Record, HistoryError> {
        self.change(place, |record| {
            record.denied.retain(|denied| denied.digest != digest);
            let (digest, why) = (digest.to_owned(), why.to_owned());
            record.denied.push(Denied { digest, why, at: Timestamp::now() });
            let surplus = record.denied.len().saturating_sub(DENIED);
            record.denied.drain(..surplus);
        })
    }

    /// Takes such a note back; whether there was one. Blocks.
    pub fn allow(&self, place: &str, digest: &str) -> Result<bool, HistoryError> {
        let mut was = false;
        self.change(place, |record| {
            was = record.denial(digest).is_some();
            record.denied.retain(|denied| denied.digest != digest);
        })?;
        Ok(was)
    }

    /// The bytes of a version and its signatures; `None` where they are not kept, or are not what
    /// they should be. Blocks.
    pub fn wasm(&self, wanted: &str) -> Result<Option<Bytes>, HistoryError> {
        let path = self.dir.join(blob_name(wanted));
        match fs::read(&path) {
            Ok(wasm) if digest(&wasm) == wanted => {
                Ok(Some((wasm, fs::read(self.dir.join(signatures_name(wanted))).ok())))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(HistoryError::Io { path, error }),
        }
    }

    /// Changes a record while nobody else does, and drops the components that no record names.
    fn change(
        &self,
        place: &str,
        change: impl FnOnce(&mut Record),
    ) -> Result<Record, HistoryError> {
        let path = self.dir.join("lock");
        let failed = |error: io::Error| HistoryError::Io { path: path.clone(), error };
        let lock = File::options().create(true).append(true).open(&path).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut record = self.of(place)?;
        let before = record.clone();
        change(&mut record);
        if record != before {
            // Cannot fail: texts and numbers.
            let text = serde_json::to_vec_pretty(&record).unwrap_or_default();
            self.replace(&self.dir.join(file_name(place)), &text)?;
            self.prune(&before, &record);
        }
        Ok(record)
    }

    /// Deletes components that a record does not name any more, or that were denied before they
    /// were in one, if no other record names them.
    fn prune(&self, before: &Record, after: &Record) {
        let named = |record: &Record, digest: &str| {
            record.versions.iter().any(|kept| kept.digest == digest)
        };
        let was = before.versions.iter().map(|kept| &kept.digest);
        let gone: Vec<_> = was
            .chain(after.denied.iter().map(|denied| &denied.digest))
            .filter(|digest| !named(after, digest))
            .filter(|digest| self.dir.join(blob_name(digest)).exists())
            .collect();
        // Where they stay they cost their room, and nothing else.
        let Ok(others) = (if gone.is_empty() { Ok(Vec::new()) } else { self.all() }) else {
            return;
        };
        for digest in gone {
            if !others.iter().any(|other| named(other, digest)) {
                let _ = fs::remove_file(self.dir.join(blob_name(digest)));
                let _ = fs::remove_file(self.dir.join(signatures_name(digest)));
            }
        }
    }

    /// Writes beside, flushes, then renames: a reader sees the old or the new.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), HistoryError> {
        let failed = |error: io::Error| HistoryError::Io { path: path.to_owned(), error };
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        paced_write::write_all(file.as_file_mut(), bytes).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn file_name(place: &str) -> String {
    let name: String = component_name(place)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' })
        .take(64)
        .collect();
    let hash = digest(place.as_bytes());
    let hash = hash.strip_prefix("sha256:").unwrap_or(&hash);
    format!("{name}-{}.json", hash.get(..16).unwrap_or(hash))
}

fn blob_name(digest: &str) -> String {
    // What is no digest names no file.
    let safe: String = digest.chars().filter(char::is_ascii_alphanumeric).collect();
    let hash = safe.strip_prefix("sha256").unwrap_or(&safe);
    format!("sha256-{hash}.wasm")
}

fn signatures_name(digest: &str) -> String {
    format!("{}.sig", blob_name(digest))
}

fn read(path: &Path) -> Result<Option<Record>, HistoryError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(HistoryError::Io { path: path.to_owned(), error }),
    };
    let broken = |why: String| HistoryError::Broken { path: path.to_owned(), why };
    let record: Record =
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if record.format != FORMAT {
        return Err(broken(format!("its format is {}, and {FORMAT} is known", record.format)));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(keep: usize) -> (tempfile::TempDir, History) {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&dir.path().join("state"), keep).unwrap();
        (dir, history)
    }

    fn serve(history: &History, place: &str, wasm: &[u8]) -> String {
        let digest = digest(wasm);
        history.keep(&digest, wasm, Some(b"signed")).unwrap();
        let (tasks, size) = (vec!["a".to_owned()], wasm.len() as u64);
        let kept = Kept { digest: digest.clone(), size, tasks, since: Timestamp::now() };
        history.serve(place, kept).unwrap();
        digest
    }

    #[test]
    fn the_last_versions_are_kept_with_their_bytes_and_older_ones_go() {
        let (_dir, history) = history(2);
        let [first, second, third] =
            [b"1", b"2", b"3"].map(|wasm| serve(&history, "/a/b.wasm", wasm));
        let record = history.of("/a/b.wasm").unwrap();
        let kept: Vec<_> = record.versions.iter().map(|kept| kept.digest.as_str()).collect();
        assert_eq!(kept, [&second, &third]);
        assert_eq!(record.current().unwrap().digest, third);
        assert_eq!(
            history.wasm(&third).unwrap().unwrap(),
            (b"3".to_vec(), Some(b"signed".to_vec()))
        );
        assert_eq!(history.wasm(&first).unwrap(), None);
        // The same bytes from two places are kept for both.
        serve(&history, "/c.wasm", b"2");
        serve(&history, "/a/b.wasm", b"4");
        assert!(history.wasm(&second).unwrap().is_some());
        assert_eq!(history.all().unwrap().len(), 2);
    }

    #[test]
    fn what_is_denied_is_not_current_until_it_is_allowed_again() {
        let (_dir, history) = history(5);
        let [first, second] = [b"1", b"2"].map(|wasm| serve(&history, "b.wasm", wasm));
        let record = history.deny("b.wasm", &second, "it is worse").unwrap();
        assert_eq!(record.current().unwrap().digest, first);
        assert_eq!(record.denial(&second).unwrap().why, "it is worse");
        assert!(history.allow("b.wasm", &second).unwrap());
        assert!(!history.allow("b.wasm", &second).unwrap());
        assert_eq!(history.of("b.wasm").unwrap().current().unwrap().digest, second);
    }

    #[test]
    fn bytes_that_were_tampered_with_are_not_given_and_broken_records_are_named() {
        let (_dir, history) = history(5);
        let served = serve(&history, "b.wasm", b"1");
        fs::write(history.path().join(blob_name(&served)), b"2").unwrap();
        assert_eq!(history.wasm(&served).unwrap(), None);
        assert_eq!(history.wasm("sha256:../../etc/passwd").unwrap(), None);
        fs::write(history.path().join(file_name("b.wasm")), b"{").unwrap();
        let error = history.of("b.wasm").unwrap_err().to_string();
        assert!(error.contains("is no record of versions"), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = History::open(dir.path(), 5).unwrap_err();
        assert!(matches!(error, HistoryError::Distrusted { .. }), "{error}");
    }
}
