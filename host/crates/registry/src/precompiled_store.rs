//! Native code from S3, in a directory of this machine: for hosts without a compiler.
//!
//! Three objects beside each other make a bundle: `NAME.cwasm` and `NAME.json`, as `lovage compile`
//! makes them, and `NAME.cwasm.sig`, the signatures of `lovage sign`. Who can write to a bucket must
//! not have this program do anything, which native code could: so it is taken only with the
//! signature of a key that may sign such code. The manifest is what is signed; the code is held to
//! the digest in it before it gets its name on this machine.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::RegistryError;
use super::precompiled::{BundleProblem, Manifest};
use super::supplier::{Object, Offer, S3, SIGNATURE_BYTES, SIGNATURES, remote};
use super::trust;
use crate::signature::{SignatureError, Signatures, Signed, SignedManifest};
use lovage_core::text::component_name;
use lovage_sandbox::{digest, hexadecimal};

/// The most bytes of a manifest.
const MANIFEST_BYTES: u64 = 1 << 20;

/// The most bytes of code, whatever its manifest says.
const CODE_BYTES: u64 = 1 << 30;

/// The files of a bundle here. Whatever its objects are called, nothing else is a path.
const CODE: &str = "code.cwasm";
const MANIFEST: &str = "code.json";
const SIGNED: &str = "code.cwasm.sig";
const OFFER: &str = "offer";

/// What a directory is called whose bundle is not all there yet.
const UNFINISHED: &str = ".unfinished-";

/// After so long, whoever wrote it was killed.
const GIVEN_UP: Duration = Duration::from_hours(1);

/// How many versions of a bundle are kept.
const KEPT: usize = 2;

/// A prefix of a bucket, and where its bundles are kept.
#[derive(Debug)]
pub(super) struct PrecompiledStore {
    s3: S3,
    dir: PathBuf,
}

/// A bundle on this machine.
#[derive(Debug)]
pub(super) struct Brought {
    /// The file of its code.
    pub code: PathBuf,
    /// What was said of it by who signed it.
    pub signed: SignedManifest,
}

/// What is noted beside a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    place: String,
    stamp: String,
}

impl PrecompiledStore {
    /// Bundles of `s3`, kept in a directory, which need not be there.
    pub(super) fn new(s3: S3, dir: PathBuf) -> Self {
        Self { s3, dir }
    }

    /// How it is told to people.
    pub(super) fn shown(&self) -> String {
        self.s3.url().to_string()
    }

    /// Returns true if a bundle of that place is one of this depot's.
    pub(super) fn holds(&self, place: &str) -> bool {
        use super::supplier::Supplier as _;
        self.s3.holds(place)
    }

    /// What is offered now, in the order of the keys.
    pub(super) async fn list(&self) -> Result<Vec<Offer>, RegistryError> {
        let objects = self.s3.objects().await?;
        let etag = |key: &str| objects.iter().find(|it| it.key == key).map_or("-", |it| &it.etag);
        let offer = |object: &Object| {
            let [_, manifest, signatures] = keys(&object.key)?;
            let place = self.s3.place(&object.key);
            let stamp = format!("{} {} {}", object.etag, etag(&manifest), etag(&signatures));
            Some(Offer { shown: place.clone(), place, stamp })
        };
        let offers: Vec<_> = objects.iter().filter_map(offer).collect();
        if offers.is_empty() {
            let why = "there are no `.cwasm` objects, which `lovage compile` makes; this build \
                       compiles nothing";
            return Err(remote(self.s3.url(), why.to_owned()));
        }
        Ok(offers)
    }

    /// What was brought before, the newest of each place first.
    pub(super) fn kept(&self) -> Vec<Offer> {
        let offer = |(_, noted, _): (_, Noted, _)| Offer {
            shown: noted.place.clone(),
            place: noted.place,
            stamp: noted.stamp,
        };
        self.noted().into_iter().map(offer).filter(|it| self.holds(&it.place)).collect()
    }

    /// Has a bundle on this machine, signed by who may.
    pub(super) async fn bring(
        &self,
        offer: &Offer,
        signatures: &Signatures,
    ) -> Result<Brought, RegistryError> {
        let failed = |why: String| RegistryError::Remote { place: offer.place.clone(), why };
        let at_home = |error: io::Error| failed(format!("{}: {error}", self.dir.display()));
        trust::own_dir(&self.dir)
            .map_err(at_home)?
            .map_err(|why| failed(format!("{}: {why}", self.dir.display())))?;
        let dir = self.dir.join(id(offer));
        if !dir.is_dir() {
            self.fetch(offer, signatures, &dir).await?;
        }
        // Again, whenever it was brought: keys expire.
        let read = |name: &str| fs::read(dir.join(name)).map_err(at_home);
        let signed = verify(offer, signatures, &read(MANIFEST)?, &read(SIGNED)?)?;
        Ok(Brought { code: dir.join(CODE), signed })
    }

    /// Fetches all of a bundle, and then gives it its name.
    async fn fetch(
        &self,
        offer: &Offer,
        signatures: &Signatures,
        dir: &Path,
    ) -> Result<(), RegistryError> {
        let failed = |why: String| RegistryError::Remote { place: offer.place.clone(), why };
        let at_home = |error: io::Error| failed(format!("{}: {error}", self.dir.display()));
        let untrusted = |error| RegistryError::Untrusted { file: offer.place.clone(), error };
        let key = offer.place.strip_prefix(&self.s3.place("")).unwrap_or_default();
        let etags: Vec<&str> = offer.stamp.split(' ').collect();
        let (Some(keys), &[code, manifest, signature]) = (keys(key), etags.as_slice()) else {
            return Err(failed("is no bundle".to_owned()));
        };
        let [code, manifest, signature] = [code, manifest, signature].map(str::to_owned);
        let [code_key, manifest_key, signature_key] = keys;
        if manifest == "-" {
            return Err(failed(format!("{manifest_key}, its manifest, is not beside it")));
        }
        if signature == "-" {
            return Err(untrusted(SignatureError::Unsigned));
        }
        let manifest = Object { key: manifest_key, etag: manifest };
        let json = self.s3.get(&manifest, MANIFEST_BYTES).await?;
        let signature = Object { key: signature_key, etag: signature };
        let envelope = self.s3.get(&signature, SIGNATURE_BYTES).await?;
        verify(offer, signatures, &json, &envelope)?;
        let about = Manifest::parse(&json).map_err(|why| failed(why.to_string()))?;

        let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.dir);
        let unfinished = unfinished.map_err(at_home)?;
        let write = |name: &str, bytes: &[u8]| fs::write(unfinished.path().join(name), bytes);
        let mut file = fs::File::create(unfinished.path().join(CODE)).map_err(at_home)?;
        let mut hash = Sha256::new();
        let code = Object { key: code_key, etag: code };
        self.s3
            .read(&code, about.code_size.min(CODE_BYTES), |more| {
                hash.update(more);
                file.write_all(more)
            })
            .await?;
        let found = format!("sha256:{}", hexadecimal(&hash.finalize()));
        if found != about.code_digest {
            let expected = about.code_digest;
            // Or they are being replaced, which is seen the next time.
            return Err(failed(BundleProblem::OtherDigest { found, expected }.to_string()));
        }
        let noted = Noted { place: offer.place.clone(), stamp: offer.stamp.clone() };
        let noted = serde_json::to_vec(&noted).map_err(|error| failed(error.to_string()))?;
        write(MANIFEST, &json)
            .and_then(|()| write(SIGNED, &envelope))
            .and_then(|()| write(OFFER, &noted))
            .map_err(at_home)?;
        match fs::rename(unfinished.path(), dir) {
            // Somebody was there before, with the same.
            Err(error) if !dir.is_dir() => Err(at_home(error)),
            _ => Ok(()),
        }
    }

    /// Drops what is neither offered any more nor the version before that.
    pub(super) fn tidy(&self, offers: &[Offer]) {
        let mut seen: Vec<String> = Vec::new();
        for (dir, noted, _) in self.noted().into_iter().filter(|it| self.holds(&it.1.place)) {
            let before = seen.iter().filter(|place| **place == noted.place).count();
            let offered = offers.iter().any(|offer| offer.place == noted.place);
            let now = offers.iter().any(|it| it.place == noted.place && it.stamp == noted.stamp);
            seen.push(noted.place);
            if now || (offered && before < KEPT) {
                continue;
            }
            if let Err(error) = fs::remove_dir_all(&dir) {
                tracing::debug!(dir = %dir.display(), %error, "old code cannot be removed");
            }
        }
        let long_ago = SystemTime::now().checked_sub(GIVEN_UP);
        sweep(&self.dir, long_ago.unwrap_or(SystemTime::UNIX_EPOCH));
    }

    /// All that is here, the newest first.
    fn noted(&self) -> Vec<(PathBuf, Noted, SystemTime)> {
        let mut all: Vec<_> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let dir = entry.ok()?.path();
                let file = dir.join(OFFER);
                let noted = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
                Some((dir, noted, fs::metadata(&file).ok()?.modified().ok()?))
            })
            .collect();
        all.sort_by_key(|(_, _, at)| std::cmp::Reverse(*at));
        all
    }
}

/// Removes what processes left unfinished that were killed before then.
fn sweep(dir: &Path, then: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        let is_old =
            || entry.metadata().and_then(|it| it.modified()).is_ok_and(|written| written < then);
        if is_unfinished
            && is_old()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            let dir = entry.path();
            tracing::debug!(dir = %dir.display(), %error, "what is left of a bundle cannot be removed");
        }
    }
}

/// The keys of a bundle's objects (code, manifest, signatures), if its code's is one.
fn keys(code: &str) -> Option<[String; 3]> {
    let stem = code.strip_suffix(".cwasm")?;
    Some([code.to_owned(), format!("{stem}.json"), format!("{code}{SIGNATURES}")])
}

/// What a version of a bundle is called here.
fn id(offer: &Offer) -> String {
    let text = format!("{} {}", offer.place, offer.stamp);
    hexadecimal(&Sha256::digest(text))
}

fn verify(
    offer: &Offer,
    signatures: &Signatures,
    manifest: &[u8],
    envelope: &[u8],
) -> Result<SignedManifest, RegistryError> {
    let (name, digest) = (component_name(&offer.place), digest(manifest));
    signatures
        .verify_signed(Signed::Precompiled, envelope, name, &digest)
        .map_err(|error| RegistryError::Untrusted { file: offer.place.clone(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let unfinished = directory.path().join(format!("{UNFINISHED}one"));
        let bundle = directory.path().join("a-bundle");
        for dir in [&unfinished, &bundle] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join(CODE), "code").unwrap();
        }
        let now = SystemTime::now();
        sweep(directory.path(), now - GIVEN_UP);
        assert!(unfinished.exists(), "somebody may be writing it");
        sweep(directory.path(), now + GIVEN_UP);
        assert!(!unfinished.exists() && bundle.exists());
        sweep(&directory.path().join("missing"), now);
    }
}
