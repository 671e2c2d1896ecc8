//! A component that is ready to run: checked, linked, described.
//!
//! Everything that can be found out once is found out here, before the first job: what is wrong
//! with a component is told at its deployment, in words that say what to do, and an attempt has
//! nothing left to look up.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, InstancePre, types::ComponentItem};

use super::Sandbox;
use super::attempt::{End, within};
use super::bindings::{Handler, v1::WrongTypes};
use super::code::{Code, Held, checkers};
#[cfg(feature = "compiler")]
use super::compiler;
use super::cpu::Meter;
use super::crash;
use super::error::{ComponentError, Problem};
use super::limits::{Limit, Limits};
use super::payload_check::Unchecked;
use super::spec::{self, TaskSpec};
use super::state::{Offer, Scene, State, offer};
use super::typed::NoTask;
use lovage_policy::Capability;

/// Where a component came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file, as it is to be named to people.
    pub file: String,
    /// `sha256:` and the digest of the `.wasm` file in lower-case hexadecimal digits.
    pub digest: String,
    /// The size of the `.wasm` file in bytes.
    pub size: u64,
}

impl Source {
    /// The source of a `.wasm` file that was read.
    pub fn of(file: impl Into<String>, wasm: &[u8]) -> Self {
        Self { file: file.into(), digest: digest(wasm), size: wasm.len() as u64 }
    }
}

/// `sha256:` and the digest of some bytes in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)))
}

/// Bytes as digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('?')).collect()
}

/// What a component imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The name, with the version.
    pub name: String,
    /// True if this host offers it.
    pub offered: bool,
    /// What has to be granted for it; `None` where everybody has it.
    pub needs: Option<Capability>,
}

/// A component whose tasks can be run.
pub struct LoadedComponent {
    /// Where it came from.
    pub source: Source,
    /// The version of the contract that it is run by, such as `1.0.0`; [`TYPED`](super::TYPED) where
    /// it is run by the types of its functions.
    pub contract: &'static str,
    /// What it serves: at least one.
    pub tasks: Vec<TaskSpec>,
    /// What it imports; all of it is offered.
    pub imports: Vec<Import>,
    /// What it exports, besides types.
    pub exports: Vec<String>,
    /// Exported functions that are no tasks, where functions are.
    pub others: Vec<NoTask>,
    /// Tasks whose payloads are not held to the schema that they have.
    pub unchecked: Vec<Unchecked>,
    /// True if it reads configuration: only then are its secrets looked up.
    pub(super) reads_config: bool,
    pub(super) held: Held,
}

pub(super) fn reads_config(imports: &[Import]) -> bool {
    imports.iter().any(|import| import.needs == Some(Capability::Config))
}

impl std::fmt::Debug for LoadedComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedComponent")
            .field("source", &self.source)
            .field("contract", &self.contract)
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

/// What kind of file some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A component.
    Component,
    /// A core module, which has to be wrapped.
    CoreModule,
    /// Native code, made from a component.
    Precompiled,
    /// WebAssembly as text.
    Text,
    /// Something else.
    Other,
}

impl Kind {
    /// Tells by the first bytes, as the specification has it: a core module has version 1 and
    /// layer 0 (<https://webassembly.github.io/spec/core/binary/modules.html#binary-module>), a
    /// component has layer 1
    /// (<https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>).
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0, b'a', b's', b'm', _, _, 1, 0, ..] => Self::Component,
            [0, b'a', b's', b'm', _, _, 0, 0, ..] => Self::CoreModule,
            [0x7f, b'E', b'L', b'F', ..]
                if wasmtime::Engine::detect_precompiled(bytes).is_some() =>
            {
                Self::Precompiled
            }
            _ => {
                let text = bytes.trim_ascii_start();
                if text.starts_with(b"(component") || text.starts_with(b"(module") {
                    Self::Text
                } else {
                    Self::Other
                }
            }
        }
    }

    /// What is wrong with a file of this kind where a component is wanted.
    pub fn problem(self) -> Option<Problem> {
        match self {
            Self::Component => None,
            Self::CoreModule => Some(Problem::CoreModule),
            Self::Precompiled => Some(Problem::Precompiled),
            Self::Text => Some(Problem::Text),
            Self::Other => Some(Problem::NotWasm),
        }
    }
}

impl Sandbox {
    /// Reads, compiles and loads a component, without a compile cache.
    pub async fn prepare(
        &self,
        file: &Path,
        limits: &Limits,
    ) -> Result<Arc<LoadedComponent>, ComponentError> {
        let name = file.display().to_string();
        let wasm = self.read(file).map_err(|problem| problem.of(&name))?;
        self.prepare_bytes(name, &wasm, limits).await
    }

    /// Compiles and loads a component that was read already.
    pub async fn prepare_bytes(
        &self,
        file: impl Into<String>,
        wasm: &[u8],
        limits: &Limits,
    ) -> Result<Arc<LoadedComponent>, ComponentError> {
        let source = Source::of(file, wasm);
        let component = self.compile(wasm).map_err(|problem| problem.of(&source.file))?;
        self.load(source, component, None, limits).await.map(Arc::new)
    }

    /// Compiles a component. Takes the CPU for seconds where a component is large: not for a
    /// thread that has other things to do.
    #[cfg(feature = "compiler")]
    pub fn compile(&self, wasm: &[u8]) -> Result<Component, Problem> {
        self.check_bytes(wasm)?;
        let file = compiler::anonymous_file()
            .map_err(|error| Problem::CodeNotWritten { reason: error.to_string() })?;
        let mode = compiler::code(self.options(), None, wasm, self.urgency(), &file)?;
        compiler::map_sealed(self.engine_of(mode)?, &file)
            .map_err(|error| Problem::not_taken(&error))
    }

    /// Refuses bytes that are no component, and those that would cost without bound to compile.
    #[cfg(feature = "compiler")]
    pub fn check_bytes(&self, wasm: &[u8]) -> Result<(), Problem> {
        self.check_size(wasm.len() as u64)?;
        if let Some(problem) = Kind::of(wasm).problem() {
            return Err(problem);
        }
        super::shape::check(wasm)
    }

    /// Refuses: this build has no compiler.
    #[cfg(not(feature = "compiler"))]
    #[allow(clippy::unused_self, reason = "as it is in builds with a compiler")]
    pub fn compile(&self, wasm: &[u8]) -> Result<Component, Problem> {
        Err(Kind::of(wasm).problem().unwrap_or(Problem::NoCompiler))
    }

    /// Checks, links and describes a component. `tasks` is what it said of itself to somebody
    /// who is trusted; it is asked when that is not known.
    pub async fn load(
        &self,
        source: Source,
        component: Component,
        tasks: Option<Vec<TaskSpec>>,
        limits: &Limits,
    ) -> Result<LoadedComponent, ComponentError> {
        let problem = |problem: Problem| problem.of(&source.file);
        let handler = Handler::probe(component.engine(), &component).map_err(problem)?;
        let mut imports = imports_of(&component);
        for import in &mut imports {
            import.offered |= self.serves_interface(&import.name);
        }
        let missing: Vec<String> = imports
            .iter()
            .filter(|import| !import.offered)
            .map(|import| import.name.clone())
            .collect();
        if !missing.is_empty() {
            return Err(problem(Problem::MissingImports { imports: missing }));
        }
        self.check_needs(&component, limits).map_err(problem)?;
        let pre = self.link(&component).map_err(problem)?;
        let tasks = match (tasks, handler.derived()) {
            // From the code itself, which the manifest might be older than.
            (Some(_), Some(derived)) => derived.to_vec(),
            (Some(tasks), None) => tasks,
            (None, derived) => {
                let described = self.describe(&pre, &handler, limits).await;
                described.map_err(|it| match it {
                    // It was not asked, only started.
                    Problem::Describe { reason } if derived.is_some() => {
                        problem(Problem::Start { reason })
                    }
                    it => problem(it),
                })?
            }
        };
        // Schemas are the guest's, and may take a second: not on a thread that others wait for.
        let is_derived = handler.derived().is_some();
        let check = move || {
            let checked = spec::check(&tasks).and_then(|()| checkers(is_derived, &tasks));
            (tasks, checked)
        };
        let (tasks, checked) = tokio::task::spawn_blocking(check).await.map_err(|error| {
            problem(Problem::Describe { reason: format!("its schemas were not read: {error}") })
        })?;
        let (checkers, unchecked) = checked.map_err(problem)?;
        Ok(LoadedComponent {
            contract: handler.version(),
            reads_config: reads_config(&imports),
            tasks,
            imports,
            exports: exports_of(&component),
            others: handler.others().to_vec(),
            unchecked,
            source,
            held: Held::Always(Arc::new(Code::new(&component, pre, handler, checkers))),
        })
    }

    /// Gives a component all that it imports.
    pub(super) fn link(&self, component: &Component) -> Result<InstancePre<State>, Problem> {
        let pre = self.engine_set(component.engine()).linker.instantiate_pre(component);
        pre.map_err(|error| Problem::WrongImport { reason: format!("{error:#}") })
    }

    /// Asks a component what it serves, on an instance of its own and under the limits of an
    /// attempt.
    async fn describe(
        &self,
        pre: &InstancePre<State>,
        handler: &Handler,
        limits: &Limits,
    ) -> Result<Vec<TaskSpec>, Problem> {
        let _slot = self.spare_slot().await;
        let engine_set = self.engine_set(pre.engine());
        let _running = engine_set.ticker.run();
        let deadline = Instant::now() + limits.timeout;
        let mut store = self
            .store(engine_set, Scene::of_nobody(*limits, deadline))
            .map_err(|error| Problem::Describe { reason: format!("did not begin: {error:#}") })?;
        let meter = Meter::default();
        let described = {
            let call = pin!(async {
                let instance = pre.instantiate_async(&mut store).await?;
                handler.describe(&mut store, &instance).await
            });
            meter.run(pin!(within(deadline, limits.cpu, &meter, call))).await
        };
        described.map_err(|end| match end {
            End::Error(error) if error.is::<WrongTypes>() => {
                Problem::WrongTypes { reason: error.root_cause().to_string() }
            }
            End::Error(error) if crash::count_limit(&error) == Some(Limit::Instances) => {
                Problem::TooManyInstances { allowed: limits.instances }
            }
            End::Error(error) => {
                let failure = crash::failure(&error, store.data(), limits);
                let detail = failure.detail.map(|text| format!("\n{}", text.trim_end()));
                Problem::Describe {
                    reason: format!(
                        "ended with `{}`: {}{}",
                        failure.kind,
                        failure.message,
                        detail.unwrap_or_default()
                    ),
                }
            }
            End::Cpu(budget) => Problem::Describe { reason: super::attempt::over_budget(budget) },
            End::Deadline => Problem::Describe {
                reason: format!("did not end within {:?}{}", limits.timeout, Limit::Timeout.hint()),
            },
        })
    }

    /// What is more than any attempt may have is told now, and not by every job. Of how many core
    /// instances a component is made, only its instantiation tells: that is `describe`'s.
    fn check_needs(&self, component: &Component, limits: &Limits) -> Result<(), Problem> {
        // `None` means that it instantiates modules that it imports, and those are not offered.
        let Some(needs) = component.resources_required() else {
            return Ok(());
        };
        let options = self.options();
        let too_much = |limit, needs: u64, what, allowed: usize, engine: usize| {
            let allowed = allowed.min(engine) as u64;
            if needs <= allowed {
                return Ok(());
            }
            Err(Problem::NeedsTooMuch { needs, what, allowed, limit })
        };
        too_much(
            Limit::Memories,
            u64::from(needs.num_memories),
            "linear memories",
            limits.memories,
            options.memories as usize,
        )?;
        too_much(
            Limit::Tables,
            u64::from(needs.num_tables),
            "tables",
            limits.tables,
            options.tables as usize,
        )?;
        too_much(
            Limit::TableElements,
            needs.max_initial_table_size.unwrap_or(0),
            "elements in a table",
            limits.table_elements,
            options.table_elements,
        )
    }
}

/// What a component imports, and whether that is offered.
pub fn imports_of(component: &Component) -> Vec<Import> {
    component
        .component_type()
        .imports(component.engine())
        .map(|(name, import)| {
            let offered = match import.ty {
                // Types need nobody to offer them: `lovage:task/types` is one such.
                ComponentItem::Type(_) => Some(Offer::Always),
                ComponentItem::ComponentInstance(instance) => {
                    let only_types = || {
                        let mut exports = instance.exports(component.engine());
                        exports.all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
                    };
                    offer(name).or_else(|| only_types().then_some(Offer::Always))
                }
                _ => None,
            };
            let needs = offered.and_then(Offer::needs);
            Import { name: name.to_owned(), offered: offered.is_some(), needs }
        })
        .collect()
}

/// What a component exports, besides types.
pub fn exports_of(component: &Component) -> Vec<String> {
    component
        .component_type()
        .exports(component.engine())
        .filter(|(_, export)| !matches!(export.ty, ComponentItem::Type(_)))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The version of the contract that a component would be run by, and the functions that are no
/// tasks, whether or not it loads.
pub fn contract_of(component: &Component) -> (Option<&'static str>, Vec<NoTask>) {
    match Handler::probe(component.engine(), component) {
        Ok(handler) => (Some(handler.version()), handler.others().to_vec()),
        Err(Problem::NoHandler { others, .. }) => (None, others),
        Err(_) => (None, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_sha256() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            digest(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        assert_eq!(Kind::of(b"\0asm\x0d\0\x01\0"), Kind::Component);
        assert_eq!(Kind::of(b"\0asm\x01\0\0\0"), Kind::CoreModule);
        assert_eq!(Kind::of(b"\n (component)"), Kind::Text);
        assert_eq!(Kind::of(b"\x7fELF"), Kind::Other);
        assert_eq!(Kind::of(b"\0asm"), Kind::Other);
        assert_eq!(Kind::of(b""), Kind::Other);
    }
}
