//! `lovage usage`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{Global, ask, out, out::say};
use lovage_config::Config;
use lovage_core::{byte_size::ByteSize, text::one_line, usage::Total};

/// Show what attempts cost, by tenant and task
#[derive(Debug, Args)]
#[command(after_help = "Of a worker with `metrics_address = \"127.0.0.1:9464\"`:\n  \
    lovage usage\n  \
    lovage usage --url http://127.0.0.1:9464 --json\n\n\
    Since that worker began; every attempt counts, whatever it came to.")]
pub struct Usage {
    /// Where the worker is; `worker.metrics_address` of the configuration when absent
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

impl Usage {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let (url, answer) = ask::worker(self.url, config, "/usage").await?;
        let mut totals: Vec<Total> = serde_json::from_slice(&answer)
            .with_context(|| format!("{url} does not answer as a worker does"))?;
        totals.sort_by(|a, b| (&a.tenant, &a.task).cmp(&(&b.tenant, &b.task)));
        if global.json {
            say!("{}", serde_json::to_string_pretty(&totals)?)?;
        } else {
            out::write(table(&totals).as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The totals for people: a line each, columns in line.
fn table(totals: &[Total]) -> String {
    let head = ["TENANT", "TASK", "ATTEMPTS", "CPU", "WALL", "MEMORY", "HOST CALLS", "IN", "OUT"];
    let rows = totals.iter().map(|total| {
        let name = |name: &str| if name.is_empty() { "-".to_owned() } else { one_line(name, 200) };
        [
            name(&total.tenant),
            name(&total.task),
            total.attempts.to_string(),
            seconds(total.cpu_us),
            seconds(total.wall_us),
            format!("{:.1} MiB s", total.memory_byte_ms as f64 / f64::from(1 << 20) / 1e3),
            total.host_calls.to_string(),
            ByteSize(total.bytes_in).to_string(),
            ByteSize(total.bytes_out).to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    out::columns(&rows, 2)
}

fn seconds(micros: u64) -> String {
    format!("{:.3} s", micros as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_in_line_and_no_name_steers_a_terminal() {
        let total = |tenant: &str, task: &str, n| Total {
            task: task.to_owned(),
            tenant: tenant.to_owned(),
            attempts: n,
            cpu_us: n * 1000,
            wall_us: n * 1_000_000,
            memory_byte_ms: n << 30,
            host_calls: n,
            bytes_in: n,
            bytes_out: n << 20,
        };
        let text = table(&[total("", "echo", 1), total("acme\u{1b}[2J", "process_data", 12_345)]);
        assert_eq!(
            text,
            "TENANT         TASK          ATTEMPTS       CPU         WALL         MEMORY  HOST CALLS        IN       OUT\n\
             -              echo                 1   0.001 s      1.000 s      1.0 MiB s           1   1 bytes     1 MiB\n\
             acme\\u{1b}[2J  process_data     12345  12.345 s  12345.000 s  12641.3 MiB s       12345  12.1 KiB  12.1 GiB\n"
        );
    }
}
