//! `lovage db`

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Global, Misuse, out::say};
use lovage_broker_local::{
    LocalBroker, LocalOptions,
    compact::{self, Space},
};
use lovage_config::{BrokerKind, Config};
use lovage_core::broker::Broker as _;

/// Look at the embedded broker's file, and make it smaller
#[derive(Debug, Args)]
#[command(after_help = "  lovage db status")]
pub struct Db {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the size of the file, and what is in its queues
    Status,
    /// Rewrite the file without its free space
    #[command(
        after_help = "  lovage db compact\n\nWorkers may run meanwhile; they wait for it. It needs room on the disk for a \
        second copy."
    )]
    Compact,
}

impl Db {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let path = &config.broker.path;
        if config.broker.kind != BrokerKind::Local {
            return Err(Misuse("this is for the embedded broker (broker.kind)".to_owned()).into());
        }
        if !path.exists() {
            return Err(Misuse(format!("there is no file {}", path.display())).into());
        }
        match self.command {
            Verb::Status => status(global, config).await,
            Verb::Compact => {
                let before = compact::space(path)?;
                let after = compact::compact(path)?;
                if global.json {
                    say!("{}", json!({"before": before, "after": after}))?;
                } else {
                    say!("{}: {} bytes, before {}", path.display(), after.bytes, before.bytes)?;
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

async fn status(global: &Global, config: &Config) -> anyhow::Result<ExitCode> {
    let path = &config.broker.path;
    let space @ Space { bytes, free_bytes, shrinks } = compact::space(path)?;
    let broker = LocalBroker::open(path, LocalOptions { retention: Duration::MAX })?;
    let mut queues = Vec::new();
    for queue in broker.queues().await? {
        let depth = broker.depth(&queue).await?;
        queues.push((queue.name.to_string(), depth));
    }
    if global.json {
        let queues: serde_json::Map<_, _> =
            queues.into_iter().map(|(name, depth)| (name, json!(depth))).collect();
        say!("{}", json!({"path": path, "space": space, "queues": queues}))?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("file        {}", path.display())?;
    say!("bytes       {bytes}, of which {free_bytes} are free")?;
    let shrinks = if shrinks { "by itself" } else { "by `lovage db compact` alone" };
    say!("shrinks     {shrinks}")?;
    for (name, depth) in queues {
        say!(
            "queue       {name}: {} ready, {} delayed, {} in flight",
            depth.ready,
            depth.delayed,
            depth.in_flight
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
