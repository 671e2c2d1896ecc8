//! What a component must not be, found out before wasmtime sees it.
//!
//! A few kilobytes can be made to cost without bound: types in types overflow the compiler's
//! stack, which ends the process; a component that instantiates another one twice, which does so
//! in turn, takes gigabytes and for ever, since all instances are laid out at compile time; and
//! blocks in blocks, or components in components, take time by the square of their number. None of
//! this is a bug in a component that anybody would mean, and wasmtime bounds none of it. So a walk
//! over the bytes, which itself takes time and memory in proportion to them, looks for it first.
//! What is left costs about as much as it has bytes, and of these there is a most, too
//! (`EngineOptions::max_component_bytes`).

use wasmparser::{
    BinaryReader, BinaryReaderError, ComponentAlias, ComponentExternName, ComponentExternalKind,
    ComponentImport, ComponentInstance, ComponentOuterAliasKind, ComponentType, ComponentTypeRef,
    CoreType, Encoding, FunctionBody, Operator, Parser, Payload,
};

use super::engine::{EngineOptions, Mode};
use super::error::Problem;

/// The most levels of components in components, and of types in types. Those that tools make have
/// two or three; a composition of compositions adds one each time.
const MAX_LEVELS: usize = 100;

/// The most component instances in all. Tools make one for each interface that is exported, for
/// each component that is composed.
const MAX_INSTANCES: u64 = 1_000;

/// The most bytes that a component may come to if each instance is counted as often as it is made,
/// core modules aside, which are compiled once.
const MAX_EXPANDED_BYTES: u64 = 64 << 20;

/// The most blocks in each other. Compilers make one for each case of a `switch`, and Go one for
/// each call in a function.
const MAX_BLOCKS: u32 = 20_000;

/// Refuses what would cost too much to compile.
pub fn check(wasm: &[u8]) -> Result<(), Problem> {
    instances(wasm).map(drop)
}

/// Component instances that a component makes, itself included; refuses what would cost too much to
/// compile.
pub(super) fn instances(wasm: &[u8]) -> Result<u64, Problem> {
    let mut walk = Walk { wasm, scopes: Vec::new(), instances: 0 };
    for payload in Parser::new(0).parse_all(wasm) {
        walk.step(payload?)?;
    }
    Ok(walk.instances)
}

/// Refuses a component of the mode that has more component instances than a slot has stacks for.
pub(super) fn check_stacks(
    options: &EngineOptions,
    mode: Mode,
    wasm: &[u8],
) -> Result<(), Problem> {
    let Some(allowed) = options.component_instances(mode) else { return Ok(()) };
    let needs = instances(wasm)?;
    if needs > u64::from(allowed) {
        return Err(Problem::TooManyComponents { needs, allowed });
    }
    Ok(())
}

impl From<BinaryReaderError> for Problem {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn costly(reason: impl Into<String>) -> Problem {
    Problem::Costly { reason: reason.into() }
}

struct Walk<'a> {
    wasm: &'a [u8],
    /// The component or core module that the walk is in, and those around it.
    scopes: Vec<Scope>,
    /// Component instances of the last component that is whole, which in the end is the outermost.
    instances: u64,
}

/// A component or a core module, as far as it was seen.
#[derive(Default)]
struct Scope {
    is_component: bool,
    /// Where it begins.
    start: usize,
    /// Bytes of what is in it and is counted for itself.
    inner: usize,
    /// What it costs to instantiate it, but for its own bytes.
    cost: Cost,
    /// Its index space of components. `None` are those that it is given, whose cost nobody knows.
    components: Vec<Option<Cost>>,
}

/// What an instance costs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    instances: u64,
    bytes: u64,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.instances = self.instances.saturating_add(other.instances);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn check(self) -> Result<(), Problem> {
        if self.instances > MAX_INSTANCES {
            return Err(costly(format!("it makes more than {MAX_INSTANCES} component instances")));
        }
        if self.bytes > MAX_EXPANDED_BYTES {
            return Err(costly(format!(
                "its component instances come to more than {MAX_EXPANDED_BYTES} bytes"
            )));
        }
        Ok(())
    }
}

impl Walk<'_> {
    fn step(&mut self, payload: Payload<'_>) -> Result<(), Problem> {
        match payload {
            Payload::Version { encoding, range, .. } => {
                if self.scopes.len() > MAX_LEVELS {
                    return Err(costly(format!(
                        "it has components in components, more than {MAX_LEVELS} levels of them"
                    )));
                }
                self.scopes.push(Scope {
                    is_component: encoding == Encoding::Component,
                    start: range.start,
                    ..Scope::default()
                });
            }
            Payload::End(end) => self.end(end)?,
            Payload::CodeSectionEntry(body) => blocks(&body)?,
            Payload::ComponentTypeSection(section) => {
                let range = section.range();
                let bytes = self.wasm.get(range.clone()).unwrap_or_default();
                types(BinaryReader::new(bytes, range.start))?;
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        self.instantiate(component_index)?;
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(&alias?);
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    if let ComponentTypeRef::Component(_) = import?.ty {
                        self.define(None);
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    if export.kind == ComponentExternalKind::Component {
                        self.define(self.component(0, export.index));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The innermost component is whole.
    fn end(&mut self, end: usize) -> Result<(), Problem> {
        let Some(scope) = self.scopes.pop() else { return Ok(()) };
        let bytes = end.saturating_sub(scope.start);
        let mut cost = scope.cost;
        cost.add(Cost { instances: 1, bytes: bytes.saturating_sub(scope.inner) as u64 });
        if scope.is_component {
            cost.check()?;
            self.instances = cost.instances;
            self.define(Some(cost));
        }
        if let Some(outer) = self.scopes.last_mut() {
            outer.inner = outer.inner.saturating_add(bytes);
        }
        Ok(())
    }

    fn instantiate(&mut self, component: u32) -> Result<(), Problem> {
        let Some(cost) = self.component(0, component) else {
            return Err(costly("it instantiates a component that it is given"));
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.cost.add(cost);
            // As soon as it is known, so that nothing overflows.
            scope.cost.check()?;
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match *alias {
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                self.define(self.component(count, index));
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                self.define(None);
            }
            _ => {}
        }
    }

    /// The cost of a component, so many scopes further out.
    fn component(&self, out: u32, index: u32) -> Option<Cost> {
        let scope = self.scopes.iter().rev().nth(out as usize)?;
        *scope.components.get(index as usize)?
    }

    /// The innermost scope has one more component.
    fn define(&mut self, cost: Option<Cost>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.components.push(cost);
        }
    }
}

/// Walks over a section of types. A reader of them recurses, and overflows its stack where they
/// are in each other; so here those that can be are taken apart one by one.
fn types(mut reader: BinaryReader<'_>) -> Result<(), Problem> {
    // How many are left to read on each level: types on the outermost, declarations on others.
    let mut left = vec![reader.read_var_u32()?];
    while let Some(here) = left.last_mut() {
        let Some(fewer) = here.checked_sub(1) else {
            left.pop();
            continue;
        };
        *here = fewer;
        if left.len() > 1 && !is_type(&mut reader)? {
            continue;
        }
        if !matches!(reader.clone().read_u8()?, TYPE_OF_COMPONENT | TYPE_OF_INSTANCE) {
            reader.read::<ComponentType<'_>>()?;
            continue;
        }
        reader.read_u8()?;
        if left.len() > MAX_LEVELS {
            return Err(costly(format!(
                "it has types in types, more than {MAX_LEVELS} levels of them"
            )));
        }
        left.push(reader.read_var_u32()?);
    }
    Ok(())
}

// <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md#type-definitions>
const TYPE_OF_COMPONENT: u8 = 0x41;
const TYPE_OF_INSTANCE: u8 = 0x42;

/// Whether a declaration in a type is one of a type, which then is still to be read; others are
/// read whole.
fn is_type(reader: &mut BinaryReader<'_>) -> Result<bool, Problem> {
    match reader.read_u8()? {
        0x00 => {
            reader.read::<CoreType<'_>>()?;
        }
        0x01 => return Ok(true),
        0x02 => {
            reader.read::<ComponentAlias<'_>>()?;
        }
        0x03 => {
            reader.read::<ComponentImport<'_>>()?;
        }
        0x04 => {
            reader.read::<ComponentExternName<'_>>()?;
            reader.read::<ComponentTypeRef>()?;
        }
        other => {
            return Err(Problem::Invalid(format!(
                "unknown declaration in a type: {other:#04x} (at offset {:#x})",
                reader.original_position()
            )));
        }
    }
    Ok(false)
}

/// Counts the blocks of a function that are in each other.
fn blocks(body: &FunctionBody<'_>) -> Result<(), Problem> {
    let mut reader = body.get_operators_reader()?;
    let mut depth = 0_u32;
    while !reader.eof() {
        match reader.read()? {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::TryTable { .. }
            | Operator::Try { .. } => {
                depth = depth.saturating_add(1);
                if depth > MAX_BLOCKS {
                    return Err(costly(format!(
                        "it has a function with more than {MAX_BLOCKS} blocks in each other"
                    )));
                }
            }
            Operator::End => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        check(&wat::parse_str(format!("(component {text})")).unwrap())
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn instances_are_counted_as_often_as_they_are_made() {
        let doubling = |levels: usize| {
            (0..levels).fold(String::new(), |inner, _| {
                format!(
                    "(component $c {inner}) (instance (instantiate $c)) (instance (instantiate $c))"
                )
            })
        };
        checked(&doubling(8)).unwrap();
        let refused = checked(&doubling(10)).unwrap_err();
        assert!(refused.contains("more than 1000 component instances"), "{refused}");
        assert!(checked(&doubling(90)).is_err());
        // The same through aliases and exports, which give a component another index.
        let aliases = |levels: usize| {
            (0..levels).fold("(component $c0)".to_owned(), |all, n| {
                let next = n + 1;
                format!(
                    "{all} (component $c{next}
                       (alias outer 1 $c{n} (component $a)) (export $e \"e\" (component $a))
                       (instance (instantiate $a)) (instance (instantiate $e)))"
                )
            })
        };
        checked(&aliases(8)).unwrap();
        let refused = checked(&aliases(10)).unwrap_err();
        assert!(refused.contains("more than 1000 component instances"), "{refused}");
    }

    #[test]
    fn a_component_of_more_instances_than_a_slot_has_stacks_is_refused() {
        let options = EngineOptions::default();
        let of = |count: usize| {
            let inner = "(instance (instantiate $c)) ".repeat(count);
            wat::parse_str(format!("(component (component $c) {inner})")).unwrap()
        };
        // The component itself is one.
        check_stacks(&options, Mode::Concurrent, &of(63)).unwrap();
        let refused = check_stacks(&options, Mode::Concurrent, &of(64)).unwrap_err().to_string();
        assert!(refused.contains("65 component instances") && refused.contains("64"), "{refused}");
        // Without async, calls that wait share one stack.
        check_stacks(&options, Mode::Plain, &of(64)).unwrap();
    }

    #[test]
    fn many_instances_of_much_are_too_much() {
        let types = "(type (tuple u8 u8)) ".repeat(40_000);
        let some = |count: usize| {
            format!("(component $c {types}) {}", "(instance (instantiate $c)) ".repeat(count))
        };
        checked(&some(100)).unwrap();
        let refused = checked(&some(900)).unwrap_err();
        assert!(refused.contains("come to more than 67108864 bytes"), "{refused}");
    }

    #[test]
    fn a_component_whose_cost_nobody_knows_is_not_instantiated() {
        let refused =
            checked(r#"(component $c (import "x" (component $x)) (instance (instantiate $x)))"#);
        assert!(refused.unwrap_err().contains("instantiates a component that it is given"));
        // To pass one on is no harm.
        checked(r#"(component $c (import "x" (component $x)) (export "y" (component $x)))"#)
            .unwrap();
    }

    #[test]
    fn types_are_in_each_other_to_some_level() {
        let nested = |levels: usize| {
            // One type, of a component with one declaration, which is of a type, …
            let mut section = vec![1];
            for level in 0..levels {
                section.extend([[TYPE_OF_COMPONENT, TYPE_OF_INSTANCE][level % 2], 1, 1]);
            }
            // The last one has none.
            section.extend([TYPE_OF_COMPONENT, 0]);
            types(BinaryReader::new(&section, 0)).map_err(|problem| problem.to_string())
        };
        nested(90).unwrap();
        let refused = nested(101).unwrap_err();
        assert!(refused.contains("types in types, more than 100 levels"), "{refused}");
    }

    #[test]
    fn what_types_declare_is_read_to_its_end() {
        checked(
            r#"(type $t bool)
               (type (component
                 (core type $m (module (export "a" (memory 1))))
                 (type $r (record (field "x" (list u8))))
                 (import "r" (type (eq $r))) (alias outer 1 $t (type)) (export "s" (type (sub resource)))
                 (import "i" (instance (export "f" (func (param "x" u8) (result string)))))))
               (type u8)"#,
        )
        .unwrap();
    }
}
