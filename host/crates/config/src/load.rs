//! Finding, reading and checking the configuration.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::Config;
use lovage_core::text::nearest;

/// The file that is read from the working directory when none is named.
pub const FILE_NAME: &str = "lovage.toml";

/// What the names of environment variables that override a field begin with:
/// `LOVAGE__WORKER__CONCURRENCY=8` is `worker.concurrency = 8`.
pub const ENVIRONMENT_PREFIX: &str = "LOVAGE__";

/// What is wrong with a configuration: where, why, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(super) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration: the file named, else [`FILE_NAME`] in the working directory where
    /// there is one, else the defaults; then `environment` over it. Relative paths in the file
    /// are made relative to where the file is.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let implied = Path::new(FILE_NAME);
        let path = file.or_else(|| implied.exists().then_some(implied));
        let mut config = match path {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    ConfigError(format!(
                        "cannot read the configuration {}: {error}; name the right file with \
                         --config, or start from lovage.sample.toml",
                        path.display()
                    ))
                })?;
                Self::parse(&text, &path.display().to_string())?
            }
        };
        if let Some(base) = path.and_then(Path::parent) {
            config.rebase(base);
        }
        config = config.with_environment(environment)?;
        config.validate(
            &path.map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string()),
        )?;
        Ok(config)
    }

    /// Parses the text of a file; `name` stands for the file in errors.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let place = error.span().map_or_else(String::new, |span| {
                let before = text.get(..span.start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                format!(":{line}:{column}")
            });
            ConfigError(format!("{name}{place}: {}", explain(error.message())))
        })
    }

    fn rebase(&mut self, base: &Path) {
        let rebase = |path: &mut PathBuf| *path = base.join(&*path);
        rebase(&mut self.broker.path);
        rebase(&mut self.keyvalue.path);
        self.secrets.values_mut().filter_map(|secret| secret.file.as_mut()).for_each(rebase);
        self.components.paths.iter_mut().for_each(rebase);
        self.components.precompiled.iter_mut().for_each(rebase);
        self.components.cache_dir.iter_mut().for_each(rebase);
        self.components.state_dir.iter_mut().for_each(rebase);
        for component in self.tasks.values_mut().filter_map(|task| task.component.as_mut()) {
            if component.contains('/') && !component.contains("://") {
                *component = base.join(&*component).display().to_string();
            }
        }
    }

    /// Puts the environment's values over the file's.
    pub(super) fn with_environment(
        self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut variables: Vec<_> = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        variables.sort();
        let mut config = self;
        for (name, value) in variables {
            let wrong = |why: String| ConfigError(format!("environment variable {name}: {why}"));
            let whole = toml::Table::try_from(&config)
                .map_err(|error| wrong(explain(&error.to_string())))?;
            // Lower case, since shells' variables are upper case; names of queues and tasks that
            // hold upper case letters are set in the file.
            let keys = name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
            // What a field takes decides: `42` is a number where one is wanted, else a text.
            let mut first_error = None;
            let mut taken = None;
            for value in readings(&value) {
                let mut whole = whole.clone();
                set(&mut whole, &keys, value).map_err(wrong)?;
                match whole.try_into::<Self>() {
                    Ok(config) => {
                        taken = Some(config);
                        break;
                    }
                    Err(error) => {
                        first_error.get_or_insert(explain(error.message()));
                    }
                }
            }
            config = taken.ok_or_else(|| wrong(first_error.unwrap_or_default()))?;
        }
        Ok(config)
    }
}

/// Adds the nearest right name to an error on an unknown one.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let message = message.trim_end();
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    if is_unknown
        && let Some(name) = quoted.next()
        && let Some(near) = nearest(name, quoted)
    {
        return format!("{message}; did you mean `{near}`?");
    }
    message.to_owned()
}

/// What a variable's value may mean, in the order in which a field is asked whether it takes it: TOML
/// where it is TOML (`8`, `true`, `["a", "b"]`), the text itself, and a list of texts where it is a list
/// of other things. A newline at its end, as tools leave it there, is none of it.
fn readings(text: &str) -> Vec<toml::Value> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let parsed = format!("value = {text}")
        .parse::<toml::Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    let itself = toml::Value::String(text.to_owned());
    let texts = match &parsed {
        Some(toml::Value::Array(items)) => Some(toml::Value::Array(
            items
                .iter()
                .map(|item| match item {
                    toml::Value::String(_) => item.clone(),
                    other => toml::Value::String(other.to_string()),
                })
                .collect(),
        )),
        _ => None,
    };
    parsed.into_iter().chain([itself]).chain(texts).collect()
}

fn set(table: &mut toml::Table, keys: &str, value: toml::Value) -> Result<(), String> {
    match keys.split_once("__") {
        None => {
            table.insert(keys.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let section = table
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .ok_or_else(|| format!("`{section}` is a field and no section"))?;
            set(section, rest, value)
        }
    }
}
