//! `lovage compile`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Global, out::complain};
use lovage_config::Config;

/// Compile components ahead of time, for builds without a compiler
#[derive(Debug, Args)]
#[command(after_help = "For AWS Lambda on x86_64, whatever the processor there:\n  \
    lovage compile --target x86_64-unknown-linux-gnu --out dist/tasks guest-tasks/dist/process_data.wasm")]
pub struct Compile {
    /// The components, .wasm files
    #[arg(required = true)]
    components: Vec<PathBuf>,
    /// Where NAME.cwasm and NAME.json are written
    #[arg(long, short, value_name = "DIRECTORY")]
    out: PathBuf,
    /// Compile for any processor of this target, rather than for the one of this machine
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

impl Compile {
    #[cfg(not(feature = "compiler"))]
    #[allow(clippy::unused_async, reason = "as it is in builds with a compiler")]
    pub(super) async fn execute(self, _: &Global, _: &Config) -> anyhow::Result<ExitCode> {
        let Self { components, out, target } = self;
        drop((components, out, target));
        anyhow::bail!("this build has no compiler; use one with the feature `compiler`")
    }

    #[cfg(feature = "compiler")]
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        use super::out::say;
        use lovage_core::byte_size::ByteSize;
        use lovage_registry::precompiled;
        use lovage_runtime::load;

        precompiled::check_names(&self.components)
            .map_err(|error| super::Misuse(error.to_string()))?;
        let sandbox = load::sandbox(config, 1)?;
        let limits = load::options(config).limits;
        for component in &self.components {
            if !global.json {
                complain!("compiling {} …", component.display());
            }
            let (bundle, manifest) = precompiled::compile(
                &sandbox,
                component,
                self.target.as_deref(),
                &self.out,
                &limits,
            )
            .await?;
            if global.json {
                let made = serde_json::json!({
                    "code": bundle.code,
                    "manifest": bundle.manifest,
                    "digest": manifest.digest,
                    "code_size": manifest.code_size,
                    "target": manifest.target,
                });
                say!("{made}")?;
            } else {
                say!(
                    "{}  {}  for {}",
                    bundle.code.display(),
                    ByteSize(manifest.code_size),
                    manifest.target
                )?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
