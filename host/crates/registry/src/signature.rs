//! Who says that a component is what it is said to be: ed25519 signatures of a manifest that names
//! it, verified before anything of it is parsed.
//!
//! `NAME.wasm.sig` beside a component is a DSSE envelope
//! (<https://github.com/secure-systems-lab/dsse>): signatures by one or several keys, over a
//! manifest of the component's name, version, digest and capabilities. `NAME.cwasm.sig` is the same
//! of what `lovage compile` made of it, and says more: that code is run without a sandbox.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use lovage_config::Key;
use lovage_core::text::one_line;
use lovage_policy::Capability;

/// What is signed. What was signed as the one is not taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// A component: the digest is that of its bytes.
    Component,
    /// Native code: the digest is that of its `NAME.json`, which has the code's own.
    Precompiled,
}

impl Signed {
    /// The type of the payload in the envelope.
    fn payload_type(self) -> &'static str {
        match self {
            Self::Component => "application/vnd.lovage.component+json",
            Self::Precompiled => "application/vnd.lovage.precompiled+json",
        }
    }
}

/// The most bytes of an envelope: a manifest is short, and keys are few.
const ENVELOPE_BYTES: usize = 64 << 10;

/// What is said of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// Its name: that of its file, without `.wasm`.
    pub name: String,
    /// Its version, as its author counts; may be empty.
    #[serde(default)]
    pub version: String,
    /// Its digest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// What it may be granted: a component that asks for more is not served.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// The tasks that it may serve: a component that declares others is not served. Any where absent,
    /// as in manifests of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<BTreeSet<String>>,
    /// Its place among the versions of its name: one with a lower order is not taken after one with a
    /// higher. 0, the lowest, where absent.
    #[serde(default, skip_serializing_if = "is_lowest")]
    pub order: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_lowest(order: &u64) -> bool {
    *order == 0
}

/// How long before a key expires it is warned of unless somebody says otherwise.
pub const WARN_BEFORE: Duration = Duration::from_hours(30 * 24);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Signature {
    keyid: String,
    sig: String,
}

/// Who may sign components, and whether one has to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures {
    /// True if what is not signed is refused.
    pub required: bool,
    /// How long before a key expires it is warned of.
    pub warn_before: Duration,
    /// The keys.
    pub keys: Vec<Key>,
}

impl Signatures {
    /// A warning for each key that has expired, or does so soon.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let expiring = self.keys.iter().filter(|key| key.expires_within(self.warn_before, now));
        let warning = |key: &Key| {
            let not_after = key.not_after?;
            let has = if not_after <= now { "expired at" } else { "expires at" };
            Some(format!(
                "the signing key `{}` {has} {not_after}: what only this key signed is then not \
                 loaded, as by a restart; sign with a new key, too, and name that one under \
                 [[components.signatures.keys]]",
                one_line(&key.id, 100)
            ))
        };
        expiring.filter_map(warning).collect()
    }

    /// Checks a component's envelope, where there is one or has to be. What is signed has to be
    /// checked against what the component asks for; see [`check_declared`].
    pub fn verify(
        &self,
        envelope: Option<&[u8]>,
        name: &str,
        digest: &str,
    ) -> Result<Option<SignedManifest>, SignatureError> {
        match envelope {
            // Without keys there is nobody who could be right or wrong.
            Some(envelope) if self.required || !self.keys.is_empty() => {
                self.verify_signed(Signed::Component, envelope, name, digest).map(Some)
            }
            None if self.required => Err(SignatureError::Missing),
            _ => Ok(None),
        }
    }

    /// Checks an envelope that there has to be.
    pub fn verify_signed(
        &self,
        signed: Signed,
        envelope: &[u8],
        name: &str,
        digest: &str,
    ) -> Result<SignedManifest, SignatureError> {
        verify(&self.keys, signed, envelope, name, digest, Timestamp::now())
    }
}

/// Checks that a component asks for nothing, and serves no task, but what its manifest declares.
pub fn check_declared<'a>(
    manifest: &SignedManifest,
    mut needs: impl Iterator<Item = Capability>,
    mut tasks: impl Iterator<Item = &'a str>,
) -> Result<(), SignatureError> {
    if let Some(need) = needs.find(|need| !manifest.capabilities.contains(need)) {
        return Err(SignatureError::Undeclared(need));
    }
    let Some(declared) = &manifest.tasks else { return Ok(()) };
    match tasks.find(|task| !declared.contains(*task)) {
        Some(task) => Err(SignatureError::UndeclaredTask(task.to_owned())),
        None => Ok(()),
    }
}

/// Why a component is not trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureError {
    /// There is none, and one is required.
    #[error(
        "is not signed, and components.signatures.required is set: `lovage sign` makes the `.sig` \
         file beside it"
    )]
    Missing,
    /// There is none beside native code from elsewhere.
    #[error(
        "is native code and not signed: from elsewhere it is taken only with a `.sig` beside it, \
         which `lovage sign` makes"
    )]
    Unsigned,
    /// That is no envelope.
    #[error("its signature file is not what `lovage sign` writes: {0}")]
    Broken(String),
    /// Nobody whom we know signed it.
    #[error("is signed by {0}, and none of them is in components.signatures.keys")]
    UnknownKeys(String),
    /// A key that was known is not any more.
    #[error("is signed by the key `{key}`, which is not valid since {since}")]
    Expired {
        /// The key's id.
        key: String,
        /// Since when.
        since: Timestamp,
    },
    /// A key that may sign components alone.
    #[error(
        "is signed by the key `{0}`, which may not sign native code: that is run as a part of this \
         program; `precompiled = true` beside the key allows it"
    )]
    NotForCode(String),
    /// The signature is not that key's, or not of that manifest.
    #[error("the signature by the key `{0}` is wrong")]
    Wrong(String),
    /// What is signed is another component.
    #[error("what is signed is {what} {signed}, and this is {found}")]
    Other {
        /// What differs.
        what: &'static str,
        /// The one that was signed.
        signed: String,
        /// The one that is here.
        found: String,
    },
    /// It asks for what it was not signed for.
    #[error("it asks for `{}`, which its signed manifest does not declare", .0.key())]
    Undeclared(Capability),
    /// It serves what it was not signed for.
    #[error("it declares the task `{0}`, which its signed manifest does not")]
    UndeclaredTask(String),
}

/// Verifies that one of `keys` signed, now, that these bytes are the component of that name.
pub fn verify(
    keys: &[Key],
    signed: Signed,
    envelope: &[u8],
    name: &str,
    digest: &str,
    now: Timestamp,
) -> Result<SignedManifest, SignatureError> {
    let broken = |why: &str| SignatureError::Broken(why.to_owned());
    if envelope.len() > ENVELOPE_BYTES {
        return Err(broken("it is too long"));
    }
    let envelope: Envelope = serde_json::from_slice(envelope)
        .map_err(|error| SignatureError::Broken(error.to_string()))?;
    if envelope.payload_type != signed.payload_type() {
        return Err(broken(match signed {
            Signed::Component => "what it signs is no manifest of a component",
            Signed::Precompiled => "what it signs is no manifest of precompiled code",
        }));
    }
    let payload = STANDARD.decode(&envelope.payload).map_err(|_| broken("it is not base64"))?;
    let text = pre_authentication(signed, &payload);
    let mut last = None;
    for signature in &envelope.signatures {
        let Some(key) = keys.iter().find(|key| key.id == signature.keyid) else { continue };
        let sig = STANDARD.decode(&signature.sig).unwrap_or_default();
        if UnparsedPublicKey::new(&ED25519, &key.public).verify(&text, &sig).is_err() {
            last = Some(SignatureError::Wrong(key.id.clone()));
            continue;
        }
        match key.not_after {
            Some(since) if since <= now => {
                last = Some(SignatureError::Expired { key: key.id.clone(), since });
            }
            _ if signed == Signed::Precompiled && !key.precompiled => {
                last = Some(SignatureError::NotForCode(key.id.clone()));
            }
            _ => return check(&payload, name, digest),
        }
    }
    Err(last.unwrap_or_else(|| {
        let ids: Vec<&str> = envelope.signatures.iter().map(|it| it.keyid.as_str()).collect();
        let ids = if ids.is_empty() { "nobody".to_owned() } else { ids.join(", ") };
        SignatureError::UnknownKeys(one_line(&ids, 200))
    }))
}

fn check(payload: &[u8], name: &str, digest: &str) -> Result<SignedManifest, SignatureError> {
    let manifest: SignedManifest = serde_json::from_slice(payload)
        .map_err(|error| SignatureError::Broken(error.to_string()))?;
    let other = |what, signed: &str, found: &str| {
        let (signed, found) = (one_line(signed, 200), one_line(found, 200));
        Err(SignatureError::Other { what, signed, found })
    };
    if manifest.digest != digest {
        return other("the component", &manifest.digest, digest);
    }
    if manifest.name != name {
        return other("the component called", &manifest.name, name);
    }
    Ok(manifest)
}

/// The manifest that an envelope holds, whoever signed it; `None` where it is no envelope.
pub fn claimed(envelope: &[u8]) -> Option<SignedManifest> {
    let envelope: Envelope = serde_json::from_slice(envelope).ok()?;
    serde_json::from_slice(&STANDARD.decode(&envelope.payload).ok()?).ok()
}

/// Signs a manifest by a private key (PKCS#8, DER). Signatures by other keys in `before`, an
/// envelope of the same manifest, are kept.
pub fn sign(
    key_id: &str,
    private: &[u8],
    signed: Signed,
    manifest: &SignedManifest,
    before: Option<&[u8]>,
) -> Result<String, String> {
    let pair = pair(private)?;
    let payload = serde_json::to_vec(manifest).map_err(|error| error.to_string())?;
    let sig = STANDARD.encode(pair.sign(&pre_authentication(signed, &payload)));
    let payload = STANDARD.encode(payload);
    let mut signatures = before
        .and_then(|before| serde_json::from_slice::<Envelope>(before).ok())
        .filter(|it| it.payload == payload && it.payload_type == signed.payload_type())
        .map(|before| before.signatures)
        .unwrap_or_default();
    signatures.retain(|other| other.keyid != key_id);
    signatures.push(Signature { keyid: key_id.to_owned(), sig });
    let envelope = Envelope { payload_type: signed.payload_type().to_owned(), payload, signatures };
    serde_json::to_string_pretty(&envelope).map_err(|error| error.to_string())
}

/// A new private key (PKCS#8, DER).
pub fn new_key() -> Result<Vec<u8>, String> {
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    made.map(|key| key.as_ref().to_vec()).map_err(|error| error.to_string())
}

/// The public key that belongs to a private one, in base64.
pub fn public_of(private: &[u8]) -> Result<String, String> {
    Ok(STANDARD.encode(pair(private)?.public_key().as_ref()))
}

fn pair(private: &[u8]) -> Result<Ed25519KeyPair, String> {
    Ed25519KeyPair::from_pkcs8(private)
        .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(private))
        .map_err(|_| "it is no ed25519 key in PKCS#8".to_owned())
}

/// What is really signed: DSSE's encoding of the type and the payload, so that neither can be taken
/// for a part of the other.
fn pre_authentication(signed: Signed, payload: &[u8]) -> Vec<u8> {
    let kind = signed.payload_type();
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    [head.as_slice(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> SignedManifest {
        SignedManifest {
            name: "mail".to_owned(),
            version: "1.2.0".to_owned(),
            digest: "sha256:ab".to_owned(),
            capabilities: BTreeSet::from([Capability::Http]),
            tasks: Some(BTreeSet::from(["mail".to_owned()])),
            order: 7,
        }
    }

    #[test]
    fn a_manifest_of_an_earlier_version_has_the_lowest_order_and_any_tasks() {
        let text = r#"{"name":"mail","digest":"sha256:ab","capabilities":["http"]}"#;
        let old: SignedManifest = serde_json::from_str(text).unwrap();
        assert_eq!((old.order, &old.tasks), (0, &None));
        // And it is written as it was, so that a second key signs the same bytes.
        let again = serde_json::to_string(&old).unwrap();
        assert!(!again.contains("order") && !again.contains("tasks"), "{again}");
        assert_eq!(check_declared(&old, [].into_iter(), ["any"].into_iter()), Ok(()));
    }

    #[test]
    fn a_component_serves_no_task_that_it_was_not_signed_for() {
        let check = |tasks: &[&str]| {
            check_declared(&manifest(), [Capability::Http].into_iter(), tasks.iter().copied())
        };
        assert_eq!(check(&["mail"]), Ok(()));
        let undeclared = SignatureError::UndeclaredTask("payroll".to_owned());
        assert_eq!(check(&["mail", "payroll"]), Err(undeclared));
    }

    #[test]
    fn keys_that_expire_soon_or_have_expired_are_warned_of() {
        let private = new_key().unwrap();
        let now = Timestamp::now();
        let after = |hours: i64| Some(now + jiff::SignedDuration::from_hours(hours));
        let keys = vec![
            key("soon", &private, after(24)),
            key("past", &private, after(-24)),
            key("late", &private, after(24 * 365)),
            key("never", &private, None),
        ];
        let signatures = Signatures { required: true, warn_before: WARN_BEFORE, keys };
        let warnings = signatures.warnings(now);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("`soon` expires at"), "{warnings:?}");
        assert!(warnings[1].contains("`past` expired at"), "{warnings:?}");
    }

    fn key(id: &str, private: &[u8], not_after: Option<Timestamp>) -> Key {
        Key::parse(id, &public_of(private).unwrap(), not_after).unwrap()
    }

    fn verified(keys: &[Key], envelope: &str) -> Result<SignedManifest, SignatureError> {
        verify(keys, Signed::Component, envelope.as_bytes(), "mail", "sha256:ab", Timestamp::now())
    }

    #[test]
    fn what_a_known_key_signed_is_taken_and_nothing_else() {
        let (ours, theirs) = (new_key().unwrap(), new_key().unwrap());
        let keys = [key("ours", &ours, None)];
        let envelope = sign("ours", &ours, Signed::Component, &manifest(), None).unwrap();
        assert_eq!(verified(&keys, &envelope), Ok(manifest()));

        let stranger = sign("theirs", &theirs, Signed::Component, &manifest(), None).unwrap();
        assert!(matches!(verified(&keys, &stranger), Err(SignatureError::UnknownKeys(_))));
        let forged = sign("ours", &theirs, Signed::Component, &manifest(), None).unwrap();
        assert_eq!(verified(&keys, &forged), Err(SignatureError::Wrong("ours".to_owned())));
        assert!(matches!(verified(&keys, "{}"), Err(SignatureError::Broken(_))));
        // Another manifest under the same signature.
        let mut other: Envelope = serde_json::from_str(&envelope).unwrap();
        let changed = SignedManifest { version: "9".to_owned(), ..manifest() };
        other.payload = STANDARD.encode(serde_json::to_vec(&changed).unwrap());
        let other = serde_json::to_string(&other).unwrap();
        assert_eq!(verified(&keys, &other), Err(SignatureError::Wrong("ours".to_owned())));
    }

    #[test]
    fn a_signature_is_for_one_component_under_one_name() {
        let ours = new_key().unwrap();
        let keys = [key("ours", &ours, None)];
        let envelope = sign("ours", &ours, Signed::Component, &manifest(), None).unwrap();
        let of = |name: &str, digest: &str| {
            verify(&keys, Signed::Component, envelope.as_bytes(), name, digest, Timestamp::now())
        };
        for (name, digest) in [("mail", "sha256:cd"), ("pay", "sha256:ab")] {
            assert!(matches!(of(name, digest), Err(SignatureError::Other { .. })), "{name}");
        }
    }

    #[test]
    fn keys_are_rotated_by_signing_with_both_and_expire() {
        let (old, new) = (new_key().unwrap(), new_key().unwrap());
        let once = sign("old", &old, Signed::Component, &manifest(), None).unwrap();
        let both =
            sign("new", &new, Signed::Component, &manifest(), Some(once.as_bytes())).unwrap();
        let past = Timestamp::now() - jiff::SignedDuration::from_secs(1);
        let (old, new) = (key("old", &old, Some(past)), key("new", &new, None));
        assert!(verified(&[old.clone(), new.clone()], &both).is_ok());
        assert!(verified(&[new], &both).is_ok());
        let expired = verified(&[old], &both).unwrap_err();
        assert!(matches!(expired, SignatureError::Expired { .. }), "{expired}");
        // A signature of what was before it is not kept for what is.
        let other = SignedManifest { digest: "sha256:cd".to_owned(), ..manifest() };
        let third = new_key().unwrap();
        let only = sign("third", &third, Signed::Component, &other, Some(both.as_bytes())).unwrap();
        assert_eq!(only.matches("keyid").count(), 1);
    }
}
