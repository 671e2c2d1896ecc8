//! `lovage test`

mod cases;
mod equal;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use self::cases::{Case, Cases, Expected};
use super::{Global, Misuse, build, out, out::say, project::Project, run};
use lovage_config::Config;
use lovage_core::{
    job::Job,
    media_type::is_json,
    outcome::Outcome,
    text::{one_line, printable},
};
use lovage_registry::{Origin, Registry};
use lovage_runtime::load;
use lovage_sandbox::{Report, Sandbox};

/// How much of a payload or a value is shown, in bytes.
const SHOWN: usize = 400;

/// Run a project's test cases, each in a sandbox
#[derive(Debug, Args)]
#[command(after_help = "  lovage test\n  \
    lovage test greet\n  \
    lovage test greet.wasm --cases cases.json\n\n\
    A project is built first. The cases are in its cases.json:\n\n  \
    {\"cases\": [\n    \
    {\"input\": 21, \"output\": 42},\n    \
    {\"input\": null, \"fails\": \"rejected\", \"message\": \"a number is needed\"}\n  \
    ]}\n\n\
    Limits and grants are those of the configuration. Exit code 0 when all passed, 1 when one did \
    not, 2 on misuse.")]
pub struct Test {
    /// The project's folder, or a component, a .wasm file
    #[arg(default_value = ".", hide_default_value = true)]
    what: PathBuf,
    /// The file with the cases; cases.json in the project, or beside the component
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Test what was built the last time
    #[arg(long)]
    no_build: bool,
}

impl Test {
    /// The component to test; a project's is built.
    pub(super) fn component(&self) -> anyhow::Result<PathBuf> {
        if !self.what.is_dir() {
            return Ok(self.what.clone());
        }
        if self.no_build {
            let component = Project::open(&self.what)?.component();
            if !component.is_file() {
                let (file, dir) = (component.display(), self.what.display());
                let what = format!("{file} is not there yet; `lovage build {dir}` makes it");
                return Err(Misuse(what).into());
            }
            return Ok(component);
        }
        build::build(&self.what)
    }

    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
        component: &Path,
    ) -> anyhow::Result<ExitCode> {
        let beside = component.with_file_name("cases.json");
        let cases = Cases::read(self.cases.as_ref().unwrap_or(&beside))?;
        let sandbox = load::sandbox(config, 1)?;
        let options = load::options(&with_all_values(config, &cases));
        let origins = [Origin::Wasm(component.to_owned())];
        let registry = Registry::load(&sandbox, &origins, &options).await?;
        let mut ran = Vec::new();
        for (number, case) in cases.cases.iter().enumerate() {
            let place = format!("case {}", number + 1);
            let task = run::pick(&registry, component, case.task.as_deref())
                .map_err(|error| Misuse(format!("{place}: {error}")))?;
            let mut job = Job::new(format!("case-{}", number + 1), &task.spec.name, case.input());
            job.attempt = case.attempt.map_or(1, std::num::NonZeroU32::get);
            job.tenant = case.tenant.clone().unwrap_or_default();
            job.headers = case.headers();
            let config = with_values(config, &job.task, &[&cases.config, &case.config]);
            let plan = run::plan(&config, &task, &job)?;
            let report = sandbox.run(&task.component, job, &plan).await;
            let result = Ran::new(case, place, &report);
            if !global.json {
                result.show()?;
            }
            ran.push(result);
        }
        finish(global, &sandbox, &ran).await
    }
}

async fn finish(global: &Global, sandbox: &Sandbox, ran: &[Ran]) -> anyhow::Result<ExitCode> {
    sandbox.close_scratch().await;
    let failed = ran.iter().filter(|case| case.wrong.is_some()).count();
    if global.json {
        let all = Summary { passed: ran.len() - failed, failed, cases: ran };
        out::write_foreign((serde_json::to_string_pretty(&all)? + "\n").as_bytes())?;
    } else {
        say!("{} passed, {failed} failed", ran.len() - failed)?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The configuration with these values for `wasi:config` besides, for one task.
fn with_values(config: &Config, task: &str, values: &[&BTreeMap<String, String>]) -> Config {
    let mut config = config.clone();
    if values.iter().all(|values| values.is_empty()) {
        return config;
    }
    let usual = config.defaults.grants.config.clone().unwrap_or_default();
    let grants = &mut config.tasks.entry(task.to_owned()).or_default().grants;
    let all = grants.config.get_or_insert(usual);
    for values in values {
        all.extend(values.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    config
}

/// The configuration for loading the component, whose tasks are not known yet: where a case has
/// values for `wasi:config`, all tasks may import it.
fn with_all_values(config: &Config, cases: &Cases) -> Config {
    let mut config = config.clone();
    let values = cases.cases.iter().map(|case| &case.config).chain([&cases.config]);
    if values.into_iter().any(|values| !values.is_empty()) {
        config.defaults.grants.config.get_or_insert_default();
    }
    config
}

/// All that was found, as JSON.
#[derive(Serialize)]
struct Summary<'a> {
    passed: usize,
    failed: usize,
    cases: &'a [Ran],
}

/// What became of a case.
#[derive(Serialize)]
struct Ran {
    name: String,
    passed: bool,
    /// What is wrong, a line each; absent when it passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<Vec<String>>,
    wall_us: u64,
}

impl Ran {
    fn new(case: &Case, place: String, report: &Report) -> Self {
        let wrong = judge(&case.expected, report).map(|mut lines| {
            lines.insert(0, format!("input     {}", one_line(&case.input(), SHOWN)));
            for (name, tail) in [("stdout", &report.stdout), ("stderr", &report.stderr)] {
                let text = tail.text();
                lines
                    .extend(printable(&text, 4096).lines().map(|line| format!("{name}    {line}")));
            }
            lines
        });
        let wall = report.usage.wall.min(Duration::from_hours(24));
        Self {
            name: case.name.as_ref().map_or(place, |name| one_line(name, 200)),
            passed: wrong.is_none(),
            wrong,
            wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn show(&self) -> anyhow::Result<()> {
        let ms = Duration::from_micros(self.wall_us).as_secs_f64() * 1000.0;
        let verdict = if self.passed { "ok  " } else { "FAIL" };
        say!("{verdict}  {}  ({ms:.1} ms)", self.name)?;
        for line in self.wrong.iter().flatten() {
            say!("        {line}")?;
        }
        Ok(())
    }
}

/// What is wrong with what an attempt came to, if anything is.
fn judge(expected: &Expected, report: &Report) -> Option<Vec<String>> {
    let (status, failure) = run::explain(&report.outcome);
    let got = || -> Vec<String> {
        match (&report.outcome, &failure) {
            (Outcome::Done(output), _) => {
                vec![format!("got       {}", one_line(&text(&output.data), SHOWN))]
            }
            (_, Some(failure)) => {
                let kind = one_line(&failure.kind, 200);
                let mut lines = vec![format!(
                    "got       {status}: {kind}: {}",
                    one_line(&failure.message, SHOWN)
                )];
                let detail = printable(failure.detail.as_deref().unwrap_or_default(), 8192);
                lines.extend(detail.lines().map(|line| format!("          {line}")));
                lines
            }
            (_, None) => vec![format!("got       {status}")],
        }
    };
    let mut lines = match (expected, &report.outcome) {
        (Expected::Output(expected), Outcome::Done(output)) => {
            let content_type = &output.content_type;
            if !is_json(content_type) {
                vec![format!("expected  JSON, and the output is {}", one_line(content_type, 200))]
            } else if let Ok(got) = serde_json::from_slice::<&RawValue>(&output.data) {
                let difference = equal::difference(expected, got)?;
                let mut lines = vec![format!("expected  {}", one_line(expected.get(), SHOWN))];
                lines.extend(got_with(&difference, &text(&output.data)));
                return Some(lines);
            } else {
                vec!["expected  JSON".to_owned()]
            }
        }
        (Expected::Output(expected), _) => {
            vec![format!("expected  {}", one_line(expected.get(), SHOWN))]
        }
        (Expected::Failure { status: wanted, kind, message }, _) => {
            let found = failure.as_ref();
            let fits = wanted.name() == status
                && kind.as_ref().is_none_or(|kind| found.is_some_and(|it| it.kind == *kind))
                && message
                    .as_ref()
                    .is_none_or(|part| found.is_some_and(|it| it.message.contains(part.as_str())));
            if fits {
                return None;
            }
            let kind = kind
                .as_ref()
                .map_or_else(String::new, |kind| format!(" of the kind {}", one_line(kind, 200)));
            let message = message.as_ref().map_or_else(String::new, |part| {
                format!(" that says \"{}\"", one_line(part, SHOWN))
            });
            vec![format!("expected  {}{kind}{message}", wanted.name())]
        }
    };
    lines.extend(got());
    Some(lines)
}

fn got_with(difference: &equal::Difference, output: &str) -> Vec<String> {
    let equal::Difference { place, expected, got } = difference;
    let mut lines = vec![format!("got       {}", one_line(output, SHOWN))];
    if !place.is_empty() {
        let (place, expected, got) =
            (one_line(place, SHOWN), one_line(expected, SHOWN), one_line(got, SHOWN));
        lines.push(format!("at        {place}: expected {expected}, got {got}"));
    }
    lines
}

fn text(bytes: &[u8]) -> String {
    // Twice what is shown, since escapes make it longer only.
    String::from_utf8_lossy(bytes.get(..2 * SHOWN).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn values_of_a_case_stand_over_those_of_the_file_and_of_the_configuration() {
        let text = "[tasks.a.grants.config]\nx = '1'\ny = '1'\nz = '1'\n";
        let config = Config::parse(text, "test").unwrap();
        let (file, case) = (values(&[("y", "2"), ("z", "2")]), values(&[("z", "3")]));
        let made = with_values(&config, "a", &[&file, &case]);
        let expected = values(&[("x", "1"), ("y", "2"), ("z", "3")]);
        assert_eq!(made.tasks["a"].grants.config, Some(expected));
        assert_eq!(with_values(&config, "a", &[&values(&[])]), config);
    }
}
