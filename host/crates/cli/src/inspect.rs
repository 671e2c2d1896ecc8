//! `lovage inspect`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{Global, out, out::say};
use lovage_config::Config;
use lovage_core::{
    byte_size::ByteSize,
    text::{one_line, printable},
};
use lovage_registry::{Inspection, inspect};
use lovage_runtime::load;
use lovage_sandbox::{TYPED, Unchecked};

/// Show what a component is: its tasks, schemas, imports and contract
#[derive(Debug, Args)]
#[command(after_help = "  lovage inspect guest-tasks/dist/process_data.wasm\n\n\
    Exit code 1 when a worker would not load it.")]
pub struct Inspect {
    /// The component, a .wasm file
    component: PathBuf,
    /// Show the schemas of payload and output, too
    #[arg(long)]
    schema: bool,
}

impl Inspect {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let sandbox = load::sandbox(config, 1)?;
        let found = inspect(&sandbox, &self.component, &load::options(config)).await?;
        if global.json {
            out::write_foreign((serde_json::to_string_pretty(&found)? + "\n").as_bytes())?;
        } else {
            self.show(&found)?;
        }
        Ok(if found.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn show(&self, found: &Inspection) -> anyhow::Result<()> {
        say!("file      {}", found.file)?;
        say!("digest    {}", found.digest)?;
        say!("size      {}", ByteSize(found.size))?;
        let contract = match found.contract {
            None => "none".to_owned(),
            Some(TYPED) => TYPED.to_owned(),
            Some(version) => format!("lovage:task@{version}"),
        };
        say!("contract  {contract}")?;
        for task in &found.tasks {
            say!("task      {}", task.name)?;
            for line in printable(&task.description, 4096).lines() {
                say!("          {line}")?;
            }
            if let Some(attempts) = task.max_attempts {
                say!("          at most {attempts} attempt(s)")?;
            }
            if let Some(timeout) = task.timeout {
                say!("          at most {timeout:?} an attempt")?;
            }
            let schemas = [("input", &task.input_schema), ("output", &task.output_schema)];
            for (which, schema) in schemas {
                if let Some(schema) = schema {
                    let text =
                        if self.schema { printable(schema, usize::MAX) } else { summary(schema) };
                    say!("          {which}: {text}")?;
                }
            }
        }
        for import in &found.imports {
            let offered = if import.offered { "" } else { "  (not offered by this host)" };
            say!("import    {}{offered}", one_line(&import.name, 200))?;
        }
        for export in &found.exports {
            say!("export    {}", one_line(export, 200))?;
        }
        for Unchecked { task, reason } in &found.unchecked {
            say!("unchecked {task}: payloads are not checked by its schema: {reason}")?;
        }
        for other in &found.no_tasks {
            say!("no task   {}: {}", one_line(&other.function, 200), other.reason)?;
        }
        if let Some(problem) = &found.problem {
            say!("problem   {}", printable(problem, 8192))?;
        }
        Ok(())
    }
}

/// A schema in a few words.
fn summary(schema: &str) -> String {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let text = match (schema.get("type"), schema.get("title")) {
        (Some(Value::String(kind)), _) => kind.clone(),
        (Some(Value::Array(kinds)), _) => {
            kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
        }
        (_, Some(Value::String(title))) => title.clone(),
        _ => "anything".to_owned(),
    };
    one_line(&text, 200)
}
