//! What can be said of a component's file, whether or not it loads: for `lovage inspect`.

use std::path::Path;

use serde::Serialize;

use super::RegistryError;
use super::load::{LoadOptions, check_grants, compile_in_background, read};
use lovage_sandbox::{
    Import, Kind, NoTask, Sandbox, Source, TaskSpec, Unchecked, contract_of, exports_of, imports_of,
};

/// All that is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: String,
    /// `sha256:` and the digest in hexadecimal digits.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of file it is.
    pub kind: Kind,
    /// The version of the contract that it would be run by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<&'static str>,
    /// What it serves; empty where it does not say.
    pub tasks: Vec<TaskSpec>,
    /// What it imports, and whether that is offered.
    pub imports: Vec<Import>,
    /// What it exports, besides types.
    pub exports: Vec<String>,
    /// Tasks whose payloads are not held to the schema that they have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<Unchecked>,
    /// Exported functions that are no tasks, where functions are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_tasks: Vec<NoTask>,
    /// Why it does not load; `None` when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Looks at a `.wasm` file. Only a file that cannot be read is an error.
pub async fn inspect(
    sandbox: &Sandbox,
    file: &Path,
    options: &LoadOptions,
) -> Result<Inspection, RegistryError> {
    let wasm = read(sandbox, file)?;
    let source = Source::of(file.display().to_string(), &wasm);
    let mut inspection = Inspection {
        file: source.file.clone(),
        digest: source.digest.clone(),
        size: source.size,
        kind: Kind::of(&wasm),
        contract: None,
        tasks: Vec::new(),
        imports: Vec::new(),
        exports: Vec::new(),
        unchecked: Vec::new(),
        no_tasks: Vec::new(),
        problem: None,
    };
    let component = match compile_in_background(sandbox, options, &source, wasm.into()).await? {
        Ok(component) => component,
        Err(problem) => {
            inspection.problem = Some(problem.to_string());
            return Ok(inspection);
        }
    };
    inspection.imports = imports_of(&component);
    inspection.exports = exports_of(&component);
    (inspection.contract, inspection.no_tasks) = contract_of(&component);
    match sandbox.load(source, component, None, &options.limits).await {
        Ok(loaded) => {
            let granted = check_grants(&loaded, &options.policies);
            let place = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            let claimed = options.claims.check(&place.display().to_string(), &loaded);
            let claimed = || claimed.err().map(|error| error.to_string());
            inspection.problem = granted.err().map(|problem| problem.to_string()).or_else(claimed);
            inspection.tasks = loaded.tasks;
            inspection.unchecked = loaded.unchecked;
        }
        Err(error) => inspection.problem = Some(error.problem.to_string()),
    }
    Ok(inspection)
}
