//! Components that know nothing of the contract: each function that they export is a task.
//!
//! What a function takes and gives is known from its type, so a guest needs no glue: JSON becomes
//! values of the types, and values become JSON. `docs/typed-exports.md` has the rules.
//!
//! ```text
//! component's type → functions (names, types, schemas: once, at its loading)
//!       payload → read → values → the guest → values → write → output
//! ```

pub mod read;
pub mod schema;
pub mod types;
pub mod write;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, Instance, Val};
use wasmtime::{Engine, Store};

use self::types::{Fields, Room, Ty, Unfit, snake_case};
use self::write::Unwritable;
use super::crash::too_large;
use super::error::Problem;
use super::failure::DETAIL_BYTES;
use super::limits::Limits;
use super::spec::TaskSpec;
use super::state::State;
use lovage_core::job::Job;
use lovage_core::media_type::{JSON, is_json};
use lovage_core::outcome::{Failure, Outcome, Output};
use lovage_core::text::one_line;

pub use self::read::Arguments;

/// What such a component has in the place of a version of the contract.
pub const CONTRACT: &str = "typed exports";

/// The kind of the failure of a job whose payload is not what its task takes.
pub const INVALID_PAYLOAD: &str = "invalid_payload";

/// An exported function that is no task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoTask {
    /// Its name, after its interface's and a `#` where it is in one.
    pub function: String,
    /// Why.
    pub reason: String,
}

/// A function that is a task.
#[derive(Debug)]
pub struct Function {
    index: ComponentExportIndex,
    parameters: Fields,
    returns: Returns,
}

/// What a function gives back.
#[derive(Debug)]
struct Returns {
    /// When all is well; `None` for nothing.
    output: Option<Ty>,
    /// True if it is a `result`, and so may be an error.
    may_fail: bool,
    /// What an error holds.
    error: Option<Ty>,
}

/// What a component serves by its functions.
#[derive(Debug, Default)]
pub struct Functions {
    by_task: HashMap<String, Function>,
    /// The tasks, in the order of the exports.
    pub tasks: Vec<TaskSpec>,
    /// The functions that are none.
    pub others: Vec<NoTask>,
}

/// Interfaces that mean something to somebody else: a command's `run`, a server's `handle`.
fn is_of_others(interface: &str) -> bool {
    interface.starts_with("wasi:")
}

impl Functions {
    /// Looks at all that a component exports. There may be no task among it.
    pub fn find(engine: &Engine, component: &Component) -> Result<Self, Problem> {
        let mut found = Self::default();
        // What each task was before it had its name.
        let mut origins = HashMap::new();
        let mut room = Room::default();
        let ty = component.component_type();
        for (name, export) in ty.exports(engine) {
            match export.ty {
                ComponentItem::ComponentFunc(function) => {
                    let index = component.get_export_index(None, name);
                    let task = snake_case(name);
                    found.add(&mut origins, &mut room, (name, task, index), &function)?;
                }
                ComponentItem::ComponentInstance(instance) if !is_of_others(name) => {
                    let interface = component.get_export_index(None, name);
                    for (inner, export) in instance.exports(engine) {
                        let full = format!("{name}#{inner}");
                        match export.ty {
                            ComponentItem::ComponentFunc(function) => {
                                let index = interface.as_ref().and_then(|interface| {
                                    component.get_export_index(Some(interface), inner)
                                });
                                let task = in_interface(name, inner);
                                found.add(
                                    &mut origins,
                                    &mut room,
                                    (&full, task, index),
                                    &function,
                                )?;
                            }
                            ComponentItem::ComponentInstance(_) => found.leave_out(
                                &mut room,
                                &full,
                                "it is an interface in an interface",
                            )?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn leave_out(&mut self, room: &mut Room, function: &str, reason: &str) -> Result<(), Problem> {
        let large = || Problem::LargeTypes { reason: Unfit::Large.to_string() };
        room.name(function).map_err(|_| large())?;
        self.others.push(NoTask { function: function.to_owned(), reason: reason.to_owned() });
        Ok(())
    }

    fn add(
        &mut self,
        origins: &mut HashMap<String, String>,
        room: &mut Room,
        (name, task, index): (&str, String, Option<ComponentExportIndex>),
        ty: &ComponentFunc,
    ) -> Result<(), Problem> {
        let plain = name.rsplit('#').next().unwrap_or(name);
        let function = if plain.starts_with('[') {
            Err("it belongs to a resource".to_owned())
        } else if ty.async_() {
            Err("it is async, and tasks are called without waiting for others".to_owned())
        } else {
            match (index, Function::types(room, ty)) {
                (Some(index), Ok((parameters, returns))) => {
                    Ok(Function { index, parameters, returns })
                }
                (_, Err(Unfit::Large)) => {
                    return Err(Problem::LargeTypes { reason: Unfit::Large.to_string() });
                }
                (_, Err(unfit)) => Err(unfit.to_string()),
                (None, _) => Err("it is not to be found".to_owned()),
            }
        };
        let function = match function {
            Ok(function) => function,
            Err(reason) => return self.leave_out(room, name, &reason),
        };
        if let Some(first) = origins.insert(task.clone(), name.to_owned()) {
            return Err(Problem::SameTask { task, first, second: name.to_owned() });
        }
        self.tasks.push(function.spec(&task, name));
        self.by_task.insert(task, function);
        Ok(())
    }

    /// The function of a task.
    pub fn get(&self, task: &str) -> Option<&Function> {
        self.by_task.get(task)
    }
}

/// The task of an interface's function: `convert.to_text` for `to-text` of `test:text/convert@1.0.0`.
fn in_interface(interface: &str, function: &str) -> String {
    let plain = interface.split('@').next().unwrap_or(interface);
    let plain = plain.rsplit(['/', ':']).next().unwrap_or(plain);
    format!("{}.{}", snake_case(plain), snake_case(function))
}

impl Function {
    /// What a function takes and gives back.
    fn types(room: &mut Room, ty: &ComponentFunc) -> Result<(Fields, Returns), Unfit> {
        let parameters = room.fields(ty.params(), 1)?;
        // There is one at most; that it is a list is history.
        let result = ty.results().next().map(|result| room.ty(&result, 1)).transpose()?;
        let returns = match result {
            Some(Ty::Result(parts)) => {
                let [output, error] = *parts;
                Returns { output, may_fail: true, error }
            }
            output => Returns { output, may_fail: false, error: None },
        };
        Ok((parameters, returns))
    }

    fn spec(&self, task: &str, name: &str) -> TaskSpec {
        let Returns { output, may_fail, error } = &self.returns;
        let shown = |ty: &Option<Ty>| ty.as_ref().map_or_else(|| "_".to_owned(), Ty::shown);
        let gives = match (output, may_fail) {
            (None, false) => String::new(),
            (Some(ty), false) => format!(" -> {}", ty.shown()),
            (ok, true) => format!(" -> result<{}, {}>", shown(ok), shown(error)),
        };
        TaskSpec {
            name: task.to_owned(),
            description: format!(
                "{}: func({}){gives}",
                one_line(name, 200),
                self.parameters.shown()
            ),
            input_schema: Some(schema::input(&self.parameters)),
            output_schema: Some(schema::output(output.as_ref())),
            max_attempts: None,
            timeout: None,
        }
    }

    /// The values that it is called with for a job, or why the job is rejected; `None` if the attempt
    /// came to its end meanwhile, which `goes_on` tells.
    pub fn arguments(
        &self,
        job: &Job,
        limits: &Limits,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Arguments, Option<Failure>> {
        if !is_json(&job.content_type) {
            let found = one_line(&job.content_type, 200);
            return Err(Some(Failure::new(
                INVALID_PAYLOAD,
                format!("the task takes {JSON}, and the payload is `{found}`"),
            )));
        }
        let read = read::arguments(&self.parameters, &job.payload, limits.memory_bytes, goes_on);
        read.map_err(|refused| match refused {
            read::Refused::Stopped => None,
            refused => Some(Failure::new(INVALID_PAYLOAD, refused.to_string())),
        })
    }

    /// Calls it. The error is a trap or a limit.
    pub async fn call(
        &self,
        store: &mut Store<State>,
        instance: &Instance,
        arguments: Arguments,
        limits: &Limits,
    ) -> wasmtime::Result<Outcome> {
        let function = instance
            .get_func(&mut *store, self.index)
            .ok_or_else(|| wasmtime::Error::msg("the function is not to be found"))?;
        let fuel = self.fuel(limits);
        store.set_hostcall_fuel(fuel);
        let gives = self.returns.output.is_some() || self.returns.may_fail;
        let mut results = vec![Val::Bool(false); usize::from(gives)];
        function.call_async(&mut *store, &arguments.values, &mut results).await?;
        drop(arguments);
        Ok(self.outcome(results.pop(), limits.output_bytes))
    }

    /// How much may cross to the host in one call.
    ///
    /// wasmtime counts each value of a result as what it takes itself. A vector that grows has up to
    /// as much again, a field's name is another text, and of flags each is one: about four and, with
    /// flags, sixteen times as much in the end. Half of an attempt's memory is what values may take
    /// together. Bytes are values, too; so by the count of a result with the types of the contract, a
    /// small list of them would be refused.
    fn fuel(&self, limits: &Limits) -> usize {
        let results = [&self.returns.output, &self.returns.error];
        let has_flags = results.into_iter().flatten().any(Ty::has_flags);
        let takes = if has_flags { 16 } else { 4 };
        let values = usize::try_from(limits.memory_bytes / 2 / takes).unwrap_or(usize::MAX);
        // What it writes crosses, too.
        values.max(limits.hostcall_bytes())
    }

    fn outcome(&self, result: Option<Val>, max: usize) -> Outcome {
        let Returns { output, may_fail, error } = &self.returns;
        let ok = match result {
            Some(Val::Result(Ok(ok))) if *may_fail => ok.map(|it| *it),
            Some(Val::Result(Err(value))) if *may_fail => {
                let failure = failure(error.as_ref(), value.as_deref());
                return Outcome::Retry { failure, after: None };
            }
            result => result,
        };
        let json = match (output, &ok) {
            (None, None) => Ok(b"null".to_vec()),
            (Some(ty), Some(value)) => write::json(ty, value, max),
            _ => Err(Unwritable::OtherType),
        };
        match json {
            Ok(data) => Outcome::Done(Output { content_type: JSON.to_owned(), data: data.into() }),
            Err(Unwritable::TooLong) => {
                let reason = too_large(Some(max.saturating_add(1)), max);
                Outcome::Failed(Failure::new("output_too_large", reason))
            }
            Err(Unwritable::NotFinite(place)) => Outcome::Failed(Failure::new(
                "invalid_output",
                format!(
                    "the output cannot be JSON: the number at `{place}` is not finite, and JSON has \
                     neither NaN nor infinities"
                ),
            )),
            Err(Unwritable::OtherType) => Outcome::Failed(Failure::new(
                "invalid_output",
                "the output is not of the function's type",
            )),
        }
    }
}

/// What a function says that gives back an error. The name of a case is the kind, as it is what a
/// program would look at.
fn failure(ty: Option<&Ty>, value: Option<&Val>) -> Failure {
    let said = "the function returned an error";
    let (Some(ty), Some(value)) = (ty, value) else { return Failure::new("error", said) };
    let (kind, failure) = match value {
        Val::String(message) => return Failure::new("error", message.as_str()),
        Val::Enum(case) => {
            let case = snake_case(case);
            return Failure::new(case.as_str(), format!("{said}: `{case}`"));
        }
        Val::Variant(case, held) => {
            let case = snake_case(case);
            let message = match held.as_deref() {
                None => return Failure::new(case.as_str(), format!("{said}: `{case}`")),
                Some(Val::String(message)) => message.clone(),
                Some(_) => format!("{said}: `{case}`"),
            };
            (case, message)
        }
        _ => ("error".to_owned(), said.to_owned()),
    };
    Failure::new(kind, failure).with_detail(write::beginning(ty, value, DETAIL_BYTES))
}
