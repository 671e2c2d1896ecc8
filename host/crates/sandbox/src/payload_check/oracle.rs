//! The validator compared with a library's, which takes neither time nor depth into account.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Checker, PATTERNS_BYTES, PayloadCheck};

fn ours(checker: &Checker, payload: &str) -> bool {
    let mut checking = checker.begin(payload.as_bytes(), 64 << 20, &|| true).unwrap();
    loop {
        match checking.go_on() {
            Some(Ok(())) => return true,
            Some(Err(failure)) => {
                assert!(failure.message.starts_with("the payload does not fit"), "{failure:?}");
                return false;
            }
            None => {}
        }
    }
}

const NAMES: [&str; 4] = ["a", "b", "ab", "c/d~"];

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(&NAMES[..]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..6).prop_map(Value::from),
        prop::sample::select(&[0.5, 1.0, 2.0, -1.5, 1e300][..]).prop_map(Value::from),
        name().prop_map(Value::from),
        Just(json!("äaa")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn merged(keywords: Vec<Map<String, Value>>) -> Value {
    Value::Object(keywords.into_iter().flatten().collect())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn simple() -> BoxedStrategy<Map<String, Value>> {
    let types = prop::sample::select(
        &["null", "boolean", "number", "string", "array", "object", "integer"][..],
    );
    prop_oneof![
        types.clone().prop_map(|it| json!({"type": it})),
        prop::collection::hash_set(types, 1..4).prop_map(|it| json!({"type": it})),
        value().prop_map(|it| json!({"const": it})),
        prop::collection::vec(value(), 1..5).prop_map(|it| json!({"enum": it})),
        (-2_i64..4).prop_map(|it| json!({"minimum": it})),
        prop::sample::select(&[0.5, 1.0, 2.5][..]).prop_map(|it| json!({"exclusiveMaximum": it})),
        prop::sample::select(&[0.5, 1.0, 2.0][..]).prop_map(|it| json!({"multipleOf": it})),
        (0_u32..4).prop_map(|it| json!({"minLength": it, "maxLength": it + 1})),
        (0_u32..4).prop_map(|it| json!({"minItems": it})),
        (0_u32..4).prop_map(|it| json!({"maxItems": it})),
        (0_u32..3).prop_map(|it| json!({"minProperties": it, "maxProperties": it + 1})),
        prop::sample::select(&["^a", "b$", "^[ab]*$", "\\bb", "ä", "^\\w$", "^.{2}$"][..])
            .prop_map(|it| json!({"pattern": it})),
        Just(json!({"uniqueItems": true})),
        prop::collection::hash_set(name(), 0..3).prop_map(|it| json!({"required": it})),
        (name(), prop::collection::hash_set(name(), 0..3))
            .prop_map(|(name, them)| json!({"dependentRequired": {name: them}})),
        (0..3_usize).prop_map(|it| json!({"$ref": format!("#/$defs/d{it}")})),
    ]
    .prop_map(object)
    .boxed()
}

/// Schemas, with references to definitions that are there.
fn schema() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        1 => any::<bool>().prop_map(Value::from),
        6 => prop::collection::vec(simple(), 1..3).prop_map(merged),
    ];
    leaf.prop_recursive(3, 32, 4, |inner| {
        let list = || prop::collection::vec(inner.clone(), 1..4);
        let named = || prop::collection::vec((name(), inner.clone()), 0..3);
        let map = |it: Vec<(String, Value)>| Value::Object(it.into_iter().collect());
        let keyword = prop_oneof![
            list().prop_map(|it| json!({"allOf": it})),
            list().prop_map(|it| json!({"anyOf": it})),
            list().prop_map(|it| json!({"oneOf": it})),
            inner.clone().prop_map(|it| json!({"not": it})),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(one, two, three)| json!({"if": one, "then": two, "else": three})),
            named().prop_map(move |it| json!({"properties": map(it)})),
            (prop::sample::select(&["^a", "b", "c"][..]), inner.clone())
                .prop_map(|(pattern, it)| json!({"patternProperties": {pattern: it}})),
            inner.clone().prop_map(|it| json!({"additionalProperties": it})),
            inner.clone().prop_map(|it| json!({"propertyNames": it})),
            (name(), inner.clone()).prop_map(|(name, it)| json!({"dependentSchemas": {name: it}})),
            list().prop_map(|it| json!({"prefixItems": it})),
            inner.clone().prop_map(|it| json!({"items": it})),
            (inner.clone(), 0_u32..3, 0_u32..3).prop_map(
                |(it, least, more)| json!({"contains": it, "minContains": least, "maxContains": least + more})
            ),
            inner.clone().prop_map(|it| json!({"contains": it})),
            inner.clone().prop_map(|it| json!({"unevaluatedProperties": it})),
            inner.clone().prop_map(|it| json!({"unevaluatedItems": it})),
        ];
        prop::collection::vec(prop_oneof![3 => keyword.prop_map(object), 1 => simple()], 1..4)
            .prop_map(merged)
    })
    .boxed()
}

proptest! {
    #[test]
    fn what_is_valid_is_what_the_library_has_for_valid(
        root in schema(),
        definitions in prop::array::uniform3(schema()),
        values in prop::collection::vec(value(), 8),
    ) {
        let mut whole = match root {
            Value::Object(members) => members,
            bool => object(json!({"allOf": [bool]})),
        };
        let defs = definitions.into_iter().enumerate().map(|(at, it)| (format!("d{at}"), it));
        whole.insert("$defs".to_owned(), Value::Object(defs.collect()));
        let whole = Value::Object(whole);
        match PayloadCheck::of(&whole.to_string(), &mut { PATTERNS_BYTES }) {
            Ok(PayloadCheck::Checked(checker)) => {
                let library = jsonschema::options().offline().build(&whole).unwrap();
                for value in values {
                    prop_assert_eq!(
                        ours(&checker, &value.to_string()),
                        library.is_valid(&value),
                        "{} by {}", value, whole
                    );
                }
            }
            Ok(PayloadCheck::Anything) => {}
            // Definitions that refer to each other without end.
            Err(reason) => prop_assert!(reason.contains("without end"), "{} {}", reason, whole),
            Ok(other) => prop_assert!(false, "{:?} {}", other, whole),
        }
    }
}

/// Older drafts, and keywords that changed between them.
#[test]
fn each_draft_has_its_own_keywords() {
    let dialects = [
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    ];
    let schemas = [
        json!({"items": [{"type": "integer"}, true], "additionalItems": {"type": "string"}}),
        json!({"items": [{"type": "integer"}], "unevaluatedItems": {"type": "string"}}),
        json!({"items": {"type": "integer"}, "additionalItems": false}),
        json!({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}),
        json!({"dependencies": {"a": ["b"], "b": {"required": ["ab"]}}}),
        json!({"dependentRequired": {"a": ["b"]}}),
        json!({"dependentSchemas": {"a": {"required": ["b"]}}}),
        json!({"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "array"}}),
        json!({"contains": {"type": "integer"}, "minContains": 2, "maxContains": 2}),
        json!({"contains": {"type": "integer"}, "unevaluatedItems": false}),
        json!({"$ref": "#/definitions/x", "minimum": 3, "definitions": {"x": {"type": "integer"}}}),
        json!({"properties": {"a": true}, "unevaluatedProperties": false}),
        json!({"minLength": 2.0, "maxItems": 1.0}),
    ];
    let values = [
        json!(1),
        json!(5),
        json!("a"),
        json!([]),
        json!([1]),
        json!([1, 2]),
        json!([1, 2, 3]),
        json!([1, "a"]),
        json!([1, "a", "b"]),
        json!(["a", 1]),
        json!([1, "a", 2]),
        json!({}),
        json!({"a": 1}),
        json!({"a": 1, "b": 1}),
        json!({"a": 1, "b": 1, "ab": 1}),
        json!({"b": 2}),
    ];
    for dialect in dialects {
        for schema in &schemas {
            let mut schema = schema.clone();
            // A value that an older draft cannot have.
            if schema.get("items").is_some_and(Value::is_array) && dialect.contains("2020") {
                continue;
            }
            schema["$schema"] = json!(dialect);
            let PayloadCheck::Checked(checker) =
                PayloadCheck::of(&schema.to_string(), &mut { PATTERNS_BYTES }).unwrap()
            else {
                panic!("{schema}")
            };
            let library = jsonschema::options().offline().build(&schema).unwrap();
            for value in &values {
                let expected = library.is_valid(value);
                assert_eq!(ours(&checker, &value.to_string()), expected, "{value} by {schema}");
            }
        }
    }
}
