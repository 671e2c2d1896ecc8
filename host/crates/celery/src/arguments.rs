//! From a call's arguments to the payload of a task.
//!
//! A task here takes one payload, a call of Celery's has positional and keyword arguments. By default
//! ([`Mapping::Auto`]) the first of these rules that fits holds. "For an object" is a task whose
//! input schema describes an object:
//!
//! 1. no argument: `{}` for an object, else `null`;
//! 2. one argument: the value itself where the schema is not for an object, and, of a positional one,
//!    where there is no schema. So `process_data.delay(21)` and `process_data.delay(data=21)` are 21.
//!    For an object, it is the value itself where that is an object with all that the schema requires
//!    (and, of a keyword argument, the schema knows no property of that name);
//! 3. positional arguments alone: an object by the names of the schema's properties, else an array.
//!    The names are the required ones in the order of `required`, then the others in the order of
//!    the schema's text: as in Python, where parameters without a default come first. Where the
//!    schema takes an array, too (`prefixItems`), as a function's does, they are in its order;
//! 4. keyword arguments alone: an object;
//! 5. both: one object, where the schema names the positional ones, else
//!    `{"args": […], "kwargs": {…}}`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    json::{Json, Map},
    rich::RichTypes,
};

/// How a call's arguments become the payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// By the rules above.
    #[default]
    Auto,
    /// The one argument there is, whatever its name; another number of them is refused.
    Value,
    /// The array of the positional arguments; keyword arguments are refused.
    Args,
    /// An object: keyword arguments, and positional ones by the schema's names; refused where it
    /// names too few.
    Object,
    /// `{"args": […], "kwargs": {…}}`, always.
    Call,
}

/// What a schema says about a payload, as far as arguments have to do with it. Made once for a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// True if there is a schema.
    known: bool,
    /// True if it is for an object.
    object: bool,
    /// The names of its properties: the required ones first, or as they stand.
    names: Vec<String>,
    /// Which of them are required.
    required: Vec<String>,
}

/// How many references of a schema are followed.
const MAX_REFERENCES: usize = 16;

/// How many of its parts are looked at in all: they may refer to each other in more ways than anybody
/// could look at.
const MAX_LOOKS: usize = 64;

impl Shape {
    /// Of a task's input schema.
    pub fn of(schema: Option<&str>) -> Self {
        let Some(root) = schema.and_then(Json::parse) else { return Self::default() };
        let mut shape = Self { known: true, ..Self::default() };
        if let Some(root) = root.fields() {
            let mut looks = MAX_LOOKS;
            shape.object = shape.look(&root, &root, MAX_REFERENCES, &mut looks);
        }
        shape
    }

    /// Returns true if a schema is for an object; its properties are taken from where they stand.
    /// `left` bounds the depth, `looks` the number of all calls.
    fn look(&mut self, schema: &Map, root: &Map, left: usize, looks: &mut usize) -> bool {
        let Some(left) = left.checked_sub(1) else { return false };
        let Some(fewer) = looks.checked_sub(1) else { return false };
        *looks = fewer;
        let types = schema.get("type");
        let types = types.and_then(|it| it.items().or_else(|| Some(vec![it.clone()])));
        if let Some(types) = types {
            // Parameters by name or by place: a function's, whose order is that of its own.
            let by_place = schema.contains("properties") && schema.contains("prefixItems");
            let besides =
                |it: &&Json| it.text() != "\"null\"" && !(by_place && it.text() == "\"array\"");
            let mut types = types.iter().filter(besides).peekable();
            if types.peek().is_none() || types.any(|it| it.text() != "\"object\"") {
                return false;
            }
            self.properties(schema, by_place);
            return true;
        }
        if schema.contains("properties") {
            self.properties(schema, false);
            return true;
        }
        if let Some(reference) = schema.string("$ref") {
            let target = reference.strip_prefix("#/").and_then(|path| {
                path.split('/').try_fold(root.clone(), |at, name| at.get(name)?.fields())
            });
            return target.is_some_and(|target| self.look(&target, root, left, looks));
        }
        let list = |name: &str| schema.get(name).and_then(Json::items);
        if let Some(all) = list("allOf") {
            return all.iter().filter_map(Json::fields).any(|it| self.look(&it, root, left, looks));
        }
        let Some(branches) = list("anyOf").or_else(|| list("oneOf")) else { return false };
        let branches: Vec<_> = branches
            .iter()
            .filter_map(Json::fields)
            .filter(|it| it.string("type").as_deref() != Some("null"))
            .collect();
        // Properties are only sure where there is one way.
        match branches.as_slice() {
            [] => false,
            [only] => self.look(only, root, left, looks),
            several => several.iter().all(|it| Self::default().look(it, root, left.min(4), looks)),
        }
    }

    fn properties(&mut self, schema: &Map, as_they_stand: bool) {
        self.required = schema.get("required").and_then(Json::read).unwrap_or_default();
        self.names = if as_they_stand { Vec::new() } else { self.required.clone() };
        let before: HashSet<String> = self.names.iter().cloned().collect();
        let properties = schema.get("properties").and_then(Json::fields).unwrap_or_default();
        let others = properties.iter().map(|(name, _)| name).filter(|name| !before.contains(*name));
        self.names.extend(others.map(str::to_owned));
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|it| it == name)
    }

    /// Returns true if a value is such an object as the schema is for.
    fn fits(&self, value: &Json) -> bool {
        let Some(fields) = value.fields() else { return false };
        let fields = fields.names();
        let has = |name: &String| fields.contains(name.as_str());
        self.required.iter().all(has) && (self.names.is_empty() || self.names.iter().any(has))
    }

    /// Positional arguments by name; `None` where there are more of them than names.
    fn named(&self, args: &[Json]) -> Option<Map> {
        (self.object && args.len() <= self.names.len())
            .then(|| self.names.iter().cloned().zip(args.iter().cloned()).collect())
    }
}

/// The payload that a call's arguments are, as JSON text. The error says what does not fit.
pub fn payload(
    args: &[Json],
    kwargs: &Map,
    shape: &Shape,
    mapping: Mapping,
    rich: RichTypes,
) -> Result<String, String> {
    let args: Vec<_> = args.iter().map(|it| rich.apply(it)).collect();
    let kwargs: Map = kwargs.iter().map(|(name, it)| (name.to_owned(), rich.apply(it))).collect();
    let payload = match mapping {
        Mapping::Auto => auto(args, kwargs, shape)?,
        Mapping::Value => match (args.as_slice(), kwargs.len()) {
            ([only], 0) => only.clone(),
            ([], 1) => kwargs.into_iter().map(|(_, value)| value).next().unwrap_or_else(Json::null),
            (args, kwargs) => {
                return Err(format!(
                    "the task takes one argument (`payload = \"value\"`), and the call has {}",
                    args.len() + kwargs
                ));
            }
        },
        Mapping::Args if kwargs.is_empty() => Json::list(&args),
        Mapping::Args => {
            return Err(
                "the task takes positional arguments only (`payload = \"args\"`), and the \
                        call has keyword arguments"
                    .to_owned(),
            );
        }
        Mapping::Object => match shape.named(&args) {
            _ if args.is_empty() => kwargs.into(),
            Some(named) => together(named, kwargs)?.into(),
            None => {
                return Err(format!(
                    "the task takes an object (`payload = \"object\"`), and its input schema has \
                     no names for {} positional arguments; call it with keyword arguments",
                    args.len()
                ));
            }
        },
        Mapping::Call => call(&args, kwargs),
    };
    Ok(payload.text().to_owned())
}

/// The arguments of a call from a payload, the other way round: by default it is the one positional
/// argument. The error says what does not fit.
pub fn call_of(payload: &Json, mapping: Mapping) -> Result<(Vec<Json>, Map), &'static str> {
    match mapping {
        Mapping::Auto | Mapping::Value => Ok((vec![payload.clone()], Map::new())),
        Mapping::Args => match payload.items() {
            Some(args) => Ok((args, Map::new())),
            None => Err("its payload is no list of positional arguments (`payload = \"args\"`)"),
        },
        Mapping::Object => match payload.fields() {
            Some(kwargs) => Ok((Vec::new(), kwargs)),
            None => Err("its payload is no object of keyword arguments (`payload = \"object\"`)"),
        },
        Mapping::Call => {
            let call = payload
                .fields()
                .filter(|call| call.iter().all(|(name, _)| ["args", "kwargs"].contains(&name)));
            let wrong =
                "its payload is no `{\"args\": […], \"kwargs\": {…}}` (`payload = \"call\"`)";
            let call = call.ok_or(wrong)?;
            let args = call.some("args").map_or_else(|| Some(Vec::new()), Json::items);
            let kwargs = call.some("kwargs").map_or_else(|| Some(Map::new()), Json::fields);
            Ok((args.ok_or(wrong)?, kwargs.ok_or(wrong)?))
        }
    }
}

fn auto(mut args: Vec<Json>, kwargs: Map, shape: &Shape) -> Result<Json, String> {
    let lone = |value: &Json, name: Option<&str>| {
        if !shape.known {
            name.is_none()
        } else if shape.object {
            !name.is_some_and(|name| shape.has(name)) && shape.fits(value)
        } else {
            true
        }
    };
    Ok(match (args.len(), kwargs.len()) {
        (0, 0) => {
            if shape.object {
                Map::new().into()
            } else {
                Json::null()
            }
        }
        (1, 0) if args.iter().all(|it| lone(it, None)) => args.pop().unwrap_or_else(Json::null),
        (0, 1) if kwargs.iter().all(|(name, it)| lone(it, Some(name))) => {
            kwargs.into_iter().map(|(_, value)| value).next().unwrap_or_else(Json::null)
        }
        (0, _) => kwargs.into(),
        (_, 0) => shape.named(&args).map_or_else(|| Json::list(&args), Json::from),
        _ => match shape.named(&args) {
            Some(named) => together(named, kwargs)?.into(),
            None => call(&args, kwargs),
        },
    })
}

fn together(mut named: Map, kwargs: Map) -> Result<Map, String> {
    let names = named.names();
    if let Some((name, _)) = kwargs.iter().find(|(name, _)| names.contains(name)) {
        let name = lovage_core::text::one_line(name, 60);
        return Err(format!("the call has two values for `{name}`: by its place and by its name"));
    }
    named.extend(kwargs);
    Ok(named)
}

fn call(args: &[Json], kwargs: Map) -> Json {
    Map::from_iter([("args", Json::list(args)), ("kwargs", kwargs.into())]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: &str =
        r#"{"type":"object","properties":{"z":{},"a":{},"b":{}},"required":["b","a"]}"#;
    const ANY: &str =
        r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"AnyValue"}"#;

    #[test]
    fn a_schema_whose_parts_refer_to_each_other_in_many_ways_is_looked_at_for_a_while() {
        let reference = |level: usize| format!(r##"{{"$ref":"#/$defs/d{level}"}}"##);
        let levels: Vec<_> = (0..8)
            .map(|level| {
                let many = vec![reference(level + 1); 50].join(",");
                format!(r#""d{level}":{{"allOf":[{many}]}}"#)
            })
            .collect();
        let last = r#""d8":{"title":"nothing"}"#;
        let schema =
            format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},{last}}}}}"##, levels.join(","));
        assert!(!Shape::of(Some(&schema)).object);
    }

    fn map(call: &str, schema: Option<&str>, mapping: Mapping) -> Result<String, String> {
        let [args, kwargs] = serde_json::from_str::<[Json; 2]>(call).unwrap();
        let shape = Shape::of(schema);
        payload(
            &args.items().unwrap(),
            &kwargs.fields().unwrap(),
            &shape,
            mapping,
            RichTypes::Plain,
        )
    }

    #[test]
    fn one_argument_is_the_value_itself_unless_an_object_is_wanted() {
        for schema in [Some(ANY), Some("true"), Some(r#"{"type":"integer"}"#)] {
            assert_eq!(map("[[21], {}]", schema, Mapping::Auto).unwrap(), "21");
            assert_eq!(map(r#"[[], {"data": 21}]"#, schema, Mapping::Auto).unwrap(), "21");
        }
        assert_eq!(map("[[1.50], {}]", None, Mapping::Auto).unwrap(), "1.50");
        assert_eq!(map(r#"[[], {"data": 21}]"#, None, Mapping::Auto).unwrap(), r#"{"data": 21}"#);
        for (call, expected) in [
            ("[[1], {}]", r#"{"b": 1}"#),
            (r#"[[{"a": 1, "b": 2}], {}]"#, r#"{"a": 1, "b": 2}"#),
            (r#"[[{"a": 1}], {}]"#, r#"{"b": {"a": 1}}"#),
            (r#"[[], {"order": {"a": 1, "b": 2}}]"#, r#"{"a": 1, "b": 2}"#),
            (r#"[[], {"a": {"a": 1, "b": 2}}]"#, r#"{"a": {"a": 1, "b": 2}}"#),
            (r#"[[], {"x": 1}]"#, r#"{"x": 1}"#),
        ] {
            assert_eq!(map(call, Some(ADD), Mapping::Auto).unwrap(), expected, "{call}");
        }
    }

    #[test]
    fn several_arguments_are_an_object_by_the_schemas_names_or_an_array() {
        for (call, with, without) in [
            ("[[], {}]", "{}", "null"),
            ("[[1, 2], {}]", r#"{"b": 1, "a": 2}"#, "[1, 2]"),
            ("[[1, 2, 3], {}]", r#"{"b": 1, "a": 2, "z": 3}"#, "[1, 2, 3]"),
            ("[[1, 2, 3, 4], {}]", "[1, 2, 3, 4]", "[1, 2, 3, 4]"),
            (r#"[[], {"x": 1, "y": 2}]"#, r#"{"x": 1, "y": 2}"#, r#"{"x": 1, "y": 2}"#),
            (r#"[[1], {"a": 2}]"#, r#"{"b": 1, "a": 2}"#, r#"{"args": [1], "kwargs": {"a": 2}}"#),
        ] {
            assert_eq!(map(call, Some(ADD), Mapping::Auto).unwrap(), with, "{call}");
            assert_eq!(map(call, None, Mapping::Auto).unwrap(), without, "{call}");
        }
        let error = map(r#"[[1], {"b": 2}]"#, Some(ADD), Mapping::Auto).unwrap_err();
        assert!(error.contains("two values for `b`"), "{error}");
    }

    #[test]
    fn a_task_may_have_a_rule_of_its_own() {
        for (call, mapping, expected) in [
            ("[[1], {}]", Mapping::Value, Ok("1")),
            (r#"[[], {"a": 1}]"#, Mapping::Value, Ok("1")),
            ("[[1, 2], {}]", Mapping::Value, Err("the call has 2")),
            ("[[1], {}]", Mapping::Args, Ok("[1]")),
            (r#"[[], {"a": 1}]"#, Mapping::Args, Err("keyword arguments")),
            (r#"[[], {"a": 1}]"#, Mapping::Object, Ok(r#"{"a": 1}"#)),
            ("[[1], {}]", Mapping::Object, Err("no names for 1 positional")),
            (r#"[[1], {"a": 2}]"#, Mapping::Call, Ok(r#"{"args": [1], "kwargs": {"a": 2}}"#)),
        ] {
            match (map(call, None, mapping), expected) {
                (Ok(payload), Ok(expected)) => assert_eq!(payload, expected),
                (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
                (other, _) => panic!("{call} {mapping:?}: {other:?}"),
            }
        }
        assert_eq!(map("[[1], {}]", Some(ADD), Mapping::Object).unwrap(), r#"{"b": 1}"#);
    }

    #[test]
    fn schemas_are_for_objects_through_references_too() {
        for (schema, object) in [
            (
                r##"{"$ref":"#/$defs/A","$defs":{"A":{"type":"object","properties":{"a":{}}}}}"##,
                true,
            ),
            (r##"{"$ref":"#/$defs/A","$defs":{"A":{"$ref":"#/$defs/A"}}}"##, false),
            (r#"{"anyOf":[{"type":"object","properties":{"a":{}}},{"type":"null"}]}"#, true),
            (r#"{"anyOf":[{"type":"object"},{"type":"string"}]}"#, false),
            (r#"{"type":["object","null"]}"#, true),
            (r#"{"type":["object","string"]}"#, false),
            ("true", false),
            ("{}", false),
        ] {
            assert_eq!(Shape::of(Some(schema)).object, object, "{schema}");
        }
    }
}
