//! `lovage push`

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{Global, Misuse, out::say};
use lovage_config::Config;
use lovage_registry::{ComponentUrl, inspect, push};
use lovage_runtime::load;

/// Put a component into an OCI registry, with its signatures
#[derive(Debug, Args)]
#[command(after_help = "  lovage push resize.wasm oci://ghcr.io/my-team/resize:1\n\n\
    The signatures are those of resize.wasm.sig, if it is there (`lovage sign`; the name that is \
    signed has to be the repository's last part). Credentials are those of `docker login`. \
    Workers take it from there by components.urls; to put a component into a bucket of S3, copy \
    it there.")]
pub struct Push {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Where to: `oci://REGISTRY/REPOSITORY:TAG`
    #[arg(value_name = "URL")]
    url: String,
}

impl Push {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let reference = match ComponentUrl::parse(&self.url) {
            Ok(ComponentUrl::Oci { reference }) => reference,
            Ok(_) => return Err(Misuse(format!("{} is no oci:// address", self.url)).into()),
            Err(why) => return Err(Misuse(why).into()),
        };
        let sandbox = load::sandbox(config, 1)?;
        let found = inspect(&sandbox, &self.file, &load::options(config)).await?;
        anyhow::ensure!(
            !found.exports.is_empty(),
            "{}: {}",
            found.file,
            found.problem.as_deref().unwrap_or("exports nothing, and so serves no task")
        );
        let wasm =
            fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let beside = format!("{}.sig", self.file.display());
        let signatures = match fs::read(&beside) {
            // On one line: registries take manifests in a form of JSON that escapes no line feeds.
            Ok(text) => {
                let parsed = serde_json::from_slice::<serde_json::Value>(&text);
                Some(parsed.with_context(|| format!("{beside} is no signature file"))?.to_string())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(format!("cannot read {beside}")),
        };
        let signed = signatures.is_some();
        let imports: Vec<_> = found.imports.into_iter().map(|import| import.name).collect();
        let digest = push(&reference, wasm, signatures, &imports, &found.exports).await?;
        if global.json {
            say!("{}", json!({"url": self.url, "manifest": digest, "component": found.digest}))?;
        } else {
            let signed = if signed { ", with its signatures" } else { "" };
            say!("{}: {}{signed}; manifest {digest}", self.url, found.digest)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
