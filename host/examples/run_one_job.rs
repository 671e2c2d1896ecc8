//! Runs one job in a fresh sandbox, without a broker.
//!
//! ```sh
//! make guests
//! cargo run -p lovage --example run_one_job
//! ```

use lovage::{Host, job::Job, outcome::Outcome};

/// Runs `process_data` with 21; the output is 42.
pub async fn example(components: &str) -> anyhow::Result<String> {
    let host = Host::builder().components(components).build().await?;
    let report = host.run(Job::new("job-1", "process_data", "21")).await?;
    match report.outcome {
        Outcome::Done(output) => Ok(String::from_utf8(output.data.to_vec())?),
        outcome => anyhow::bail!("the job ended with {outcome:?}"),
    }
}

#[allow(dead_code, reason = "the tests run `example` alone")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let output = example("guest-tasks/dist/process_data.wasm").await?;
    std::io::Write::write_all(&mut std::io::stdout(), format!("{output}\n").as_bytes())?;
    Ok(())
}
