//! `lovage check`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{Global, Misuse, out, out::say};
use lovage_config::{Config, GrantsConfig};
use lovage_core::{
    byte_size::ByteSize,
    text::{nearest, one_line, printable},
};
use lovage_policy::Capability;
use lovage_registry::{Inspection, inspect};
use lovage_runtime::{
    load,
    settings::{Advice, Settings},
};
use lovage_sandbox::{Import, Limits, NoTask, Unchecked};

/// Show what a component asks for and what of it is granted
#[derive(Debug, Args)]
#[command(after_help = "  lovage check guest-tasks/dist/process_data.wasm\n  \
    lovage check my_task.wasm --tenant acme\n\n\
    Looks into the configuration as a worker would. Exit code 1 when a worker would not load the \
    component.")]
pub struct Check {
    /// The component, a .wasm file
    component: PathBuf,
    /// Show what is left for this tenant
    #[arg(long, default_value = "")]
    tenant: String,
}

/// All that is found.
#[derive(Serialize)]
struct Checked<'a> {
    file: &'a str,
    digest: &'a str,
    tasks: Vec<CheckedTask>,
    imports: Vec<&'a Import>,
    #[serde(skip_serializing_if = "<[Unchecked]>::is_empty")]
    unchecked: &'a [Unchecked],
    #[serde(skip_serializing_if = "<[NoTask]>::is_empty")]
    no_tasks: &'a [NoTask],
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

/// What holds for one task.
#[derive(Serialize)]
struct CheckedTask {
    name: String,
    imports: Vec<CheckedImport>,
    /// The grants of the task as the configuration says them.
    grants: GrantsConfig,
    timeout_ms: u64,
    cpu_ms: u64,
    memory_bytes: u64,
}

/// An import that has to be granted.
#[derive(Serialize)]
struct CheckedImport {
    import: String,
    capability: Capability,
    granted: bool,
    key: String,
}

impl Check {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        if !self.tenant.is_empty() && !config.tenants.contains_key(&self.tenant) {
            let hint = nearest(&self.tenant, config.tenants.keys().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let name = one_line(&self.tenant, 200);
            return Err(Misuse(format!("there is no [tenants.{name}]{hint}")).into());
        }
        let sandbox = load::sandbox(config, 1)?;
        let found = inspect(&sandbox, &self.component, &load::options(config)).await?;
        let tasks = found
            .tasks
            .iter()
            .map(|task| self.task(config, &found, &task.name, Advice::from(task)));
        let checked = Checked {
            file: &found.file,
            digest: &found.digest,
            tasks: tasks.collect::<anyhow::Result<_>>()?,
            imports: found.imports.iter().collect(),
            unchecked: &found.unchecked,
            no_tasks: &found.no_tasks,
            problem: found.problem.as_deref(),
        };
        if global.json {
            out::write_foreign((serde_json::to_string_pretty(&checked)? + "\n").as_bytes())?;
        } else {
            show(&checked)?;
        }
        Ok(if found.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn task(
        &self,
        config: &Config,
        found: &Inspection,
        name: &str,
        advice: Advice,
    ) -> anyhow::Result<CheckedTask> {
        let grants = config.grants_of(name, &self.tenant).map_err(anyhow::Error::msg)?;
        let own = config.tasks.get(name).map(|task| task.grants.clone()).unwrap_or_default();
        let Limits { timeout, cpu, memory_bytes, .. } =
            Settings::of_task(config, name, advice).for_tenant(config, &self.tenant).limits;
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let needed = found.imports.iter().filter_map(|import| Some((import, import.needs?)));
        Ok(CheckedTask {
            name: name.to_owned(),
            imports: needed
                .map(|(import, capability)| CheckedImport {
                    import: import.name.clone(),
                    capability,
                    granted: grants.allows(capability),
                    key: format!("tasks.{name}.grants.{}", capability.key()),
                })
                .collect(),
            grants: own.or(&config.defaults.grants),
            timeout_ms: millis(timeout),
            cpu_ms: millis(cpu.unwrap_or(timeout)),
            memory_bytes,
        })
    }
}

fn show(checked: &Checked<'_>) -> anyhow::Result<()> {
    say!("file      {}", checked.file)?;
    say!("digest    {}", checked.digest)?;
    for import in &checked.imports {
        let name = one_line(&import.name, 200);
        let terms = match (import.offered, import.needs) {
            (false, _) => "not offered by this host".to_owned(),
            (true, None) => "for everybody".to_owned(),
            (true, Some(capability)) => format!("if granted ({})", capability.key()),
        };
        say!("import    {name}: {terms}")?;
    }
    for task in &checked.tasks {
        let CheckedTask { name, timeout_ms, cpu_ms, memory_bytes, .. } = task;
        let memory = ByteSize(*memory_bytes);
        say!("task      {name}: at most {timeout_ms} ms, {cpu_ms} ms of CPU, {memory}")?;
        for import in &task.imports {
            let shown = one_line(&import.import, 200);
            if import.granted {
                say!("          granted: {shown}")?;
            } else {
                say!("          not granted: {shown}; {} grants it", import.key)?;
            }
        }
        let grants = toml::to_string(&task.grants)?;
        for line in printable(&grants, 65_536).lines() {
            say!("          {line}")?;
        }
    }
    for Unchecked { task, reason } in checked.unchecked {
        say!("unchecked {task}: payloads are not checked by its schema: {reason}")?;
    }
    for other in checked.no_tasks {
        say!("no task   {}: {}", one_line(&other.function, 200), other.reason)?;
    }
    match checked.problem {
        Some(problem) => say!("problem   {}", printable(problem, 8192))?,
        None => say!("ok        a worker loads it")?,
    }
    Ok(())
}
