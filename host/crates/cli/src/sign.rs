//! `lovage sign` and `lovage verify`

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::json;

use super::{Global, Misuse, out::say};
use lovage_config::Config;
use lovage_core::text::component_name;
use lovage_registry::{
    inspect, precompiled,
    signature::{self, SignatureError, Signed, SignedManifest},
};
use lovage_runtime::load;
use lovage_sandbox::digest;

/// The lines around a private key, as OpenSSL writes it, too.
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// Sign a component, or make a key for that
#[derive(Debug, Args)]
#[command(after_help = "  lovage sign --new-key release.pem\n  \
    lovage sign mail.wasm --key release.pem --key-id release-2026 --release 1.2.0\n\n\
    Writes mail.wasm.sig; signatures by other keys that are there for the same manifest are kept. \
    Of what `lovage compile` made, mail.cwasm is named, and mail.json has to be beside it. \
    Keys are ed25519 in PKCS#8; `openssl genpkey -algorithm ed25519` makes them, too. See \
    docs/shipping.md.")]
pub struct Sign {
    /// The component, or the FILE.cwasm that was compiled of it
    #[arg(required_unless_present = "new_key", value_name = "FILE.wasm")]
    file: Option<PathBuf>,
    /// The file of the private key
    #[arg(long, value_name = "FILE.pem", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// What the key is called in components.signatures.keys
    #[arg(long, value_name = "ID", required_unless_present = "new_key")]
    key_id: Option<String>,
    /// The component's version, as its author counts
    #[arg(long, value_name = "VERSION", default_value = "")]
    release: String,
    /// Its place among the versions of its name: one with a lower order is not taken after one with a
    /// higher. The time in milliseconds when absent, or the order that was signed before
    #[arg(long, value_name = "NUMBER")]
    order: Option<u64>,
    /// What the component is called where it is served; its file's name without `.wasm` when absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Make a private key in a new file, and print the public one
    #[arg(long, value_name = "FILE.pem", conflicts_with_all = ["file", "key", "key_id", "name"])]
    new_key: Option<PathBuf>,
}

/// Check a component's signatures by the keys of the configuration
#[derive(Debug, Args)]
#[command(after_help = "  lovage verify mail.wasm\n\n\
    Exits with 0 only if a key of components.signatures.keys that is still valid signed it.")]
pub struct Verify {
    /// The component, or the FILE.cwasm that was compiled of it; the signatures are in the file
    /// beside it that ends in `.sig`
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// What it has to be called; its file's name without `.wasm` when absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Sign {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        if let Some(file) = &self.new_key {
            return make_key(file, global.json);
        }
        let (Some(file), Some(key), Some(key_id)) = (&self.file, &self.key, &self.key_id) else {
            return Err(Misuse("give FILE.wasm, --key and --key-id, or --new-key".into()).into());
        };
        let private = read_key(key)?;
        let signed = what_is(file);
        let precompiled::Described { digest, capabilities, tasks } = match signed {
            Signed::Component => asked_for(file, config).await?,
            Signed::Precompiled => precompiled::described(file)?,
        };
        let name = self.name.clone().unwrap_or_else(|| name_of(file));
        let (version, tasks) = (self.release.clone(), Some(tasks));
        let beside = beside(file);
        let before = fs::read(&beside).ok();
        let mut manifest = SignedManifest { name, version, digest, capabilities, tasks, order: 0 };
        manifest.order = self.order.unwrap_or_else(|| order_of(&manifest, before.as_deref()));
        let envelope = signature::sign(key_id, &private, signed, &manifest, before.as_deref())
            .map_err(|why| anyhow::anyhow!("{}: {why}", key.display()))?;
        fs::write(&beside, envelope + "\n")
            .with_context(|| format!("cannot write {}", beside.display()))?;
        if global.json {
            say!("{}", json!({"file": beside, "manifest": manifest}))?;
        } else {
            say!("{}: signed by `{key_id}` as {}", beside.display(), shown(&manifest))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    pub(super) fn execute(self, global: &Global, config: &Config) -> anyhow::Result<ExitCode> {
        let file = self.file.display();
        let signed = what_is(&self.file);
        let digest = match signed {
            Signed::Component => {
                digest(&fs::read(&self.file).with_context(|| format!("cannot read {file}"))?)
            }
            Signed::Precompiled => precompiled::described(&self.file)?.digest,
        };
        let keys = load::signatures(config).keys;
        if keys.is_empty() {
            return Err(Misuse(
                "whose signature? name keys under [[components.signatures.keys]]".to_owned(),
            )
            .into());
        }
        let envelope = match fs::read(beside(&self.file)) {
            Ok(envelope) => envelope,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                anyhow::bail!("{file}: {}", SignatureError::Missing)
            }
            Err(error) => {
                return Err(error).context(format!("cannot read {}", beside(&self.file).display()));
            }
        };
        let name = self.name.unwrap_or_else(|| name_of(&self.file));
        let now = jiff::Timestamp::now();
        let manifest = signature::verify(&keys, signed, &envelope, &name, &digest, now)
            .map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
        if global.json {
            say!("{}", json!({"file": self.file, "manifest": manifest}))?;
        } else {
            say!("{file}: signed as {}", shown(&manifest))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What a file is, by its name.
fn what_is(file: &Path) -> Signed {
    if file.extension().is_some_and(|it| it == "cwasm") {
        Signed::Precompiled
    } else {
        Signed::Component
    }
}

/// The order of a version: that of the manifest which is signed already, so that a second key signs the
/// same one; else the time.
fn order_of(manifest: &SignedManifest, before: Option<&[u8]>) -> u64 {
    let before = before
        .and_then(signature::claimed)
        .filter(|before| SignedManifest { order: before.order, ..manifest.clone() } == *before);
    let now = || u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    before.map_or_else(now, |before| before.order)
}

/// The digest of a component, its tasks, and what it asks for. That is all that has to be known of it:
/// whether it is granted that is for those who serve it.
async fn asked_for(file: &Path, config: &Config) -> anyhow::Result<precompiled::Described> {
    let sandbox = load::sandbox(config, 1)?;
    let found = inspect(&sandbox, file, &load::options(config)).await?;
    ensure!(
        !found.exports.is_empty(),
        "{}: {}",
        found.file,
        found.problem.as_deref().unwrap_or("exports nothing, and so serves no task")
    );
    // A component that cannot be described here, such as for its grants, is signed for no task.
    ensure!(
        !found.tasks.is_empty(),
        "{}: {}",
        found.file,
        found.problem.as_deref().unwrap_or("serves no task")
    );
    Ok(precompiled::Described {
        digest: found.digest,
        capabilities: found.imports.iter().filter_map(|import| import.needs).collect(),
        tasks: found.tasks.into_iter().map(|task| task.name).collect(),
    })
}

fn shown(manifest: &SignedManifest) -> String {
    let SignedManifest { name, version, digest, capabilities, tasks, order } = manifest;
    let version = if version.is_empty() { String::new() } else { format!(" {version}") };
    let keys: Vec<&str> = capabilities.iter().map(|it| it.key()).collect();
    let asks = if keys.is_empty() {
        "asks for nothing".into()
    } else {
        format!("asks for {}", keys.join(", "))
    };
    let tasks = match tasks {
        Some(tasks) => tasks.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        None => "any".to_owned(),
    };
    let text = format!("{name}{version}, {digest}, {asks}, tasks: {tasks}, order {order}");
    lovage_core::text::one_line(&text, 1000)
}

fn name_of(file: &Path) -> String {
    component_name(&file.display().to_string()).to_owned()
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

fn make_key(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let private = signature::new_key().map_err(anyhow::Error::msg)?;
    let public = signature::public_of(&private).map_err(anyhow::Error::msg)?;
    let text = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(&private));
    // Never in the place of a key that is there, and for nobody else to read.
    let mut options = fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(file);
    made.and_then(|mut it| it.write_all(text.as_bytes()))
        .with_context(|| format!("cannot make {}", file.display()))?;
    if json {
        say!("{}", json!({"file": file, "public": public}))?;
    } else {
        say!("{}: keep it secret\npublic = \"{public}\"", file.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read_key(file: &Path) -> anyhow::Result<Vec<u8>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let inner = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let decoded = inner.map(|(inner, _)| inner.split_whitespace().collect::<String>());
    decoded.and_then(|base64| STANDARD.decode(base64).ok()).with_context(|| {
        format!("{}: is no private key in PEM, which begins with {BEGIN}", file.display())
    })
}
