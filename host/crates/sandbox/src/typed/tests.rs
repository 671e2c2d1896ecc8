//! What each type is in JSON, both ways.

// Over 500 lines: one property over all types.

use proptest::prelude::*;
use wasmtime::component::Val;

use super::read::{Refused, arguments};
use super::schema;
use super::types::{Cases, Fields, Integer, Names, Ty};
use super::write::{Unwritable, json};

fn names(names: &[&str]) -> Names {
    Names::new(names.iter().map(|&name| name.to_owned()).collect())
}

fn fields(fields: &[(&str, Ty)]) -> Fields {
    Fields {
        names: names(&fields.iter().map(|(name, _)| *name).collect::<Vec<_>>()),
        types: fields.iter().map(|(_, ty)| ty.clone()).collect(),
    }
}

fn one(ty: &Ty) -> Fields {
    fields(&[("it", ty.clone())])
}

fn option(ty: Ty) -> Ty {
    Ty::Option(Box::new(ty))
}

fn int(integer: Integer) -> Ty {
    Ty::Integer(integer)
}

const MAX: u64 = 1 << 20;

fn read(ty: &Ty, payload: &str) -> Result<Val, String> {
    arguments(&one(ty), payload.as_bytes(), MAX, &|| true)
        .map(|mut it| it.values.pop().unwrap())
        .map_err(|refused| refused.to_string())
}

fn written(ty: &Ty, value: &Val) -> String {
    String::from_utf8(json(ty, value, 1 << 20).unwrap()).unwrap()
}

/// What is taken, and comes back as it is.
fn takes(ty: &Ty, payloads: &[&str]) {
    for payload in payloads {
        let value = read(ty, payload).unwrap();
        assert_eq!(&written(ty, &value), payload, "{}", ty.shown());
    }
}

/// What is not taken, and words of the reason.
fn refuses(ty: &Ty, payloads: &[(&str, &str)]) {
    for (payload, words) in payloads {
        match read(ty, payload) {
            Ok(value) => panic!("{} takes {payload} as {value:?}", ty.shown()),
            Err(reason) => {
                assert!(reason.contains(words), "{} {payload}: {reason}", ty.shown());
            }
        }
    }
}

#[test]
fn integers_are_exact_in_all_of_their_range() {
    for (integer, least, most) in [
        (Integer::U8, "0", "255"),
        (Integer::S8, "-128", "127"),
        (Integer::U16, "0", "65535"),
        (Integer::S16, "-32768", "32767"),
        (Integer::U32, "0", "4294967295"),
        (Integer::S32, "-2147483648", "2147483647"),
        (Integer::U64, "0", "18446744073709551615"),
        (Integer::S64, "-9223372036854775808", "9223372036854775807"),
    ] {
        let ty = int(integer);
        takes(&ty, &[least, most, "7"]);
        let (below, above) = integer.range();
        let (below, above) = ((below - 1).to_string(), (above + 1).to_string());
        let long = "9".repeat(400);
        let name = format!("expected {}, found an integer out of its range", integer.name());
        refuses(&ty, &[(&below, &name), (&above, &name), (&long, &name)]);
        refuses(
            &ty,
            &[
                ("1.0", "found a number that is not written as an integer"),
                ("1e2", "found a number that is not written as an integer"),
                ("\"1\"", "found a string"),
                ("null", "found null"),
                ("true", "found a boolean"),
                ("[1]", "found an array"),
                ("{}", "found an object"),
                ("01", "is not JSON"),
                ("", "is not JSON"),
                ("1 2", "is not JSON"),
            ],
        );
    }
}

#[test]
fn floats_are_read_to_the_last_bit_and_are_finite() {
    takes(&Ty::Float64, &["0.1", "-0.0", "1e+300", "5e-324", "1.7976931348623157e+308"]);
    takes(&Ty::Float32, &["0.1", "3.4028235e+38", "1e-45"]);
    assert_eq!(read(&Ty::Float64, "2").unwrap(), Val::Float64(2.0));
    // Read as an f64 first, this would be rounded twice, and come to the next one.
    assert_eq!(
        read(&Ty::Float32, "1.000000059604644775390626").unwrap(),
        Val::Float32(1.000_000_1)
    );
    refuses(&Ty::Float64, &[("1e999", "out of its range"), ("\"NaN\"", "found a string")]);
    refuses(&Ty::Float32, &[("3.5e38", "out of its range"), ("-1e39", "out of its range")]);
    let list = Ty::List(Box::new(Ty::Float64));
    for (nan, ty) in [(f64::NAN, &list), (f64::INFINITY, &list), (f64::NEG_INFINITY, &list)] {
        let value = Val::List(vec![Val::Float64(1.0), Val::Float64(nan)]);
        assert_eq!(json(ty, &value, 100), Err(Unwritable::NotFinite("/1".to_owned())));
    }
    let nan = Val::Float32(f32::NAN);
    assert_eq!(json(&Ty::Float32, &nan, 100), Err(Unwritable::NotFinite(String::new())));
}

#[test]
fn texts_and_characters_are_strings() {
    takes(&Ty::String, &["\"\"", "\"ü\\n\\\"\"", "\"\\u0000\""]);
    assert_eq!(read(&Ty::String, r#""\ud83d\ude00""#).unwrap(), Val::String("😀".to_owned()));
    refuses(&Ty::String, &[("1", "expected string, found a number"), ("\"\\ud800\"", "not JSON")]);
    takes(&Ty::Char, &["\"a\"", "\"😀\""]);
    refuses(&Ty::Char, &[("\"\"", "of another length"), ("\"ab\"", "of another length")]);
    takes(&Ty::Bool, &["true", "false"]);
    refuses(&Ty::Bool, &[("1", "expected bool, found a number"), ("\"true\"", "found a string")]);
}

#[test]
fn bytes_are_base64_and_other_lists_arrays() {
    takes(&Ty::Bytes, &["\"\"", "\"AA==\"", "\"AAE=\"", "\"AAEC\""]);
    assert_eq!(read(&Ty::Bytes, "\"AAE=\"").unwrap(), Val::List(vec![Val::U8(0), Val::U8(1)]));
    let no = "no base64";
    refuses(&Ty::Bytes, &[("\"AA\"", no), ("\"AB==\"", no), ("\"A-_=\"", no), ("\"A A=\"", no)]);
    refuses(&Ty::Bytes, &[("[1]", "expected list<u8>, as a string in base64, found an array")]);
    let list = Ty::List(Box::new(int(Integer::U16)));
    takes(&list, &["[]", "[1,2,65535]"]);
    refuses(
        &list,
        &[
            ("[1,\"2\"]", "at /1: expected u16, found a string"),
            ("[1,[2]]", "at /1: expected u16, found an array"),
            ("{}", "expected list<u16>, found an object"),
            ("[1,]", "not JSON"),
        ],
    );
    let tuple = Ty::Tuple(vec![Ty::Bool, Ty::String]);
    takes(&tuple, &["[true,\"a\"]"]);
    refuses(
        &tuple,
        &[
            ("[true]", "expected an array of 2, found an array of fewer"),
            ("[true,\"a\",1]", "expected an array of 2, found an array of more"),
            ("[1,\"a\"]", "at /0: expected bool, found a number"),
        ],
    );
}

#[test]
fn records_are_objects_without_more_or_less() {
    let record = Ty::Record(fields(&[
        ("first-name", Ty::String),
        ("AGE", option(int(Integer::U8))),
        ("place", Ty::Tuple(vec![Ty::Float64])),
    ]));
    takes(&record, &[r#"{"first_name":"a","age":null,"place":[0.5]}"#]);
    let missing = read(&record, r#"{"place":[0.5],"first_name":"a"}"#).unwrap();
    assert_eq!(written(&record, &missing), r#"{"first_name":"a","age":null,"place":[0.5]}"#);
    refuses(
        &record,
        &[
            (
                r#"{"place":[0]}"#,
                "expected the member `first_name`, string, found an object without",
            ),
            (
                r#"{"first_name":"a","age":1,"place":[0],"x":1}"#,
                "found an object with another member",
            ),
            (r#"{"first-name":"a","place":[0]}"#, "only the members `first_name`, `age`, `place`"),
            (r#"{"first_name":"a","first_name":"b"}"#, "expected `first_name` once"),
            (r#"{"first_name":"a","place":["s"]}"#, "at /place/0: expected f64, found a string"),
            ("[]", "expected record { first-name: string, AGE: option<u8>, "),
        ],
    );
}

#[test]
fn variants_enums_and_flags_go_by_their_names() {
    let variant = Ty::Variant(Cases {
        names: names(&["all-of-it", "some-of-it", "by-name"]),
        types: vec![None, Some(int(Integer::U8)), Some(Ty::String)],
    });
    takes(&variant, &["\"all_of_it\"", r#"{"some_of_it":3}"#, r#"{"by_name":"x"}"#]);
    refuses(
        &variant,
        &[
            ("\"some_of_it\"", "expected an object of one member, the case with its u8"),
            ("\"none\"", "`all_of_it`, `some_of_it`, `by_name`, found another string"),
            (r#"{"all_of_it":null}"#, "found an object with another member"),
            ("{}", "found an empty object"),
            (r#"{"some_of_it":3,"by_name":"x"}"#, "found an object with several members"),
            (r#"{"some_of_it":300}"#, "at /some_of_it: expected u8, found an integer out of"),
            (
                "3",
                "expected variant { all-of-it, some-of-it(u8), by-name(string) }, found a number",
            ),
        ],
    );
    let ends = Ty::Enum(names(&["to-do", "done"]));
    takes(&ends, &["\"to_do\"", "\"done\""]);
    refuses(&ends, &[("\"to-do\"", "expected one of `to_do`, `done`"), ("0", "found a number")]);
    let flags = Ty::Flags(names(&["read", "write-it"]));
    takes(&flags, &["[]", "[\"read\"]", "[\"read\",\"write_it\"]"]);
    let value = read(&flags, "[\"write_it\", \"read\"]").unwrap();
    assert_eq!(written(&flags, &value), "[\"read\",\"write_it\"]");
    refuses(
        &flags,
        &[
            ("[\"read\",\"read\"]", "expected each flag once"),
            ("[\"x\"]", "at /0: expected one of `read`, `write_it`, found another string"),
            ("[1]", "at /0: expected one of `read`, `write_it`, found a number"),
            ("\"read\"", "found a string"),
        ],
    );
}

#[test]
fn options_and_results_say_which_they_are() {
    takes(&option(int(Integer::U8)), &["null", "3"]);
    refuses(&option(int(Integer::U8)), &[("\"3\"", "expected u8, found a string")]);
    let twice = option(option(Ty::Bool));
    takes(&twice, &["null", r#"{"some":null}"#, r#"{"some":true}"#]);
    refuses(&twice, &[("true", "expected option<option<bool>>"), ("{}", "an empty object")]);
    refuses(&twice, &[(r#"{"none":1}"#, "of the one member `some`, found an object with another")]);
    let result = Ty::Result(Box::new([Some(int(Integer::U8)), None]));
    takes(&result, &[r#"{"ok":3}"#, r#"{"err":null}"#]);
    refuses(
        &result,
        &[
            (r#"{"err":1}"#, "at /err: expected null, found a number"),
            (r#"{"ok":"a"}"#, "at /ok: expected u8, found a string"),
            (r#"{"maybe":1}"#, "expected an object of one member, `ok` or `err`"),
            ("3", "expected result<u8>, found a number"),
        ],
    );
}

#[test]
fn several_parameters_are_an_object_or_an_array() {
    let parameters = fields(&[
        ("a-b", int(Integer::U8)),
        ("c", option(Ty::String)),
        ("d", Ty::Bool),
        ("e", option(Ty::Bool)),
    ]);
    let all = |payload: &str| {
        arguments(&parameters, payload.as_bytes(), MAX, &|| true)
            .map(|it| it.values)
            .map_err(|refused| refused.to_string())
    };
    let expected = vec![Val::U8(1), Val::Option(None), Val::Bool(true), Val::Option(None)];
    for payload in [
        r#"{"a_b":1,"d":true}"#,
        r#" { "d" : true, "c" : null, "e" : null, "a_b" : 1 } "#,
        "[1,null,true]",
        "[1,null,true,null]",
    ] {
        assert_eq!(all(payload).unwrap(), expected, "{payload}");
    }
    for (payload, words) in [
        ("[1,null]", "expected an array of 3 to 4, found an array of fewer"),
        ("[1,null,true,null,null]", "found an array of more"),
        ("[1,2,true]", "at /1: expected string, found a number"),
        (r#"{"a_b":1}"#, "expected the member `d`, bool"),
        ("null", "expected an object or an array of the parameters `a_b`, `c`, `d`, `e`"),
        ("1", "found a number"),
        ("\"s\"", "found a string"),
        ("", "is not JSON"),
    ] {
        let reason = all(payload).unwrap_err();
        assert!(reason.contains(words), "{payload}: {reason}");
    }
    let none = Fields::default();
    for payload in ["", " \n", "null", "{}", "[]", " [ ] "] {
        assert_eq!(arguments(&none, payload.as_bytes(), MAX, &|| true).unwrap().values, []);
    }
    for payload in ["0", "[1]", r#"{"a":1}"#, "\"\"", "false"] {
        assert!(arguments(&none, payload.as_bytes(), MAX, &|| true).is_err(), "{payload}");
    }
}

#[test]
fn no_reason_holds_a_value_of_the_payload() {
    let record = Ty::Record(fields(&[("a", int(Integer::U8)), ("b", Ty::Char), ("c", Ty::Bytes)]));
    let kinds = Ty::Variant(Cases { names: names(&["x"]), types: vec![Some(Ty::Bool)] });
    for secret in ["s3cret", "73737", "\\u0073ecret"] {
        for payload in [
            format!(r#"{{"a":"{secret}"}}"#),
            format!(r#"{{"a":1,"b":"{secret}"}}"#),
            format!(r#"{{"a":1,"b":"c","c":"{secret}"}}"#),
            format!(r#"{{"{secret}":1}}"#),
            format!(r#""{secret}""#),
            format!(r#"{{"a":1,"b":{secret}}}"#),
            format!(r#"{{"a":1{secret}}}"#),
            secret.to_owned(),
        ] {
            for ty in [&record, &kinds, &Ty::Bool, &Ty::Enum(names(&["e"]))] {
                if let Err(reason) = read(ty, &payload) {
                    for word in [secret, "secret", "73737"] {
                        assert!(!reason.contains(word), "{payload}: {reason}");
                    }
                }
            }
        }
    }
}

#[test]
fn values_are_counted_before_they_are_made() {
    let many: Vec<(String, Ty)> = (0..1000).map(|n| (format!("f{n}"), option(Ty::Bool))).collect();
    let record = Fields {
        names: Names::new(many.iter().map(|(name, _)| name.clone()).collect()),
        types: many.into_iter().map(|(_, ty)| ty).collect(),
    };
    let list = Ty::List(Box::new(Ty::Record(record)));
    let payload = format!("[{}]", vec!["{}"; 100_000].join(","));
    let refused = arguments(&one(&list), payload.as_bytes(), 64 << 20, &|| true).unwrap_err();
    assert_eq!(refused, Refused::Memory(64 << 20));
    assert!(refused.to_string().contains("`memory_bytes` raises it"), "{refused}");
    let counted = arguments(&one(&list), b"[{},{}]", 64 << 20, &|| true).unwrap();
    assert!(counted.bytes > 2 * 1000 * size_of::<Val>() as u64);
}

#[test]
fn an_output_ends_where_it_is_too_long() {
    let list = Ty::List(Box::new(Ty::Bool));
    let value = Val::List(vec![Val::Bool(true); 1000]);
    assert_eq!(json(&list, &value, 5001).unwrap().len(), 5001);
    assert_eq!(json(&list, &value, 5000), Err(Unwritable::TooLong));
    let bytes = Val::List(vec![Val::U8(7); 1000]);
    let size = json(&Ty::Bytes, &bytes, 5000).unwrap().len();
    assert_eq!(json(&Ty::Bytes, &bytes, size - 1), Err(Unwritable::TooLong));
}

/// A type and values of it, both of any kind and nested to some depth.
fn types() -> impl Strategy<Value = Ty> {
    let integers = prop::sample::select(vec![
        Integer::U8,
        Integer::S8,
        Integer::U16,
        Integer::S16,
        Integer::U32,
        Integer::S32,
        Integer::U64,
        Integer::S64,
    ]);
    let some_names = || {
        prop::collection::btree_set("[a-z]{1,3}(-[a-z0-9]{1,2})?", 1..5)
            .prop_map(|names| Names::new(names.into_iter().collect()))
    };
    let leaf = prop_oneof![
        Just(Ty::Bool),
        integers.prop_map(Ty::Integer),
        Just(Ty::Float32),
        Just(Ty::Float64),
        Just(Ty::Char),
        Just(Ty::String),
        Just(Ty::Bytes),
        some_names().prop_map(Ty::Enum),
        some_names().prop_map(Ty::Flags),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let several = prop::collection::vec(inner.clone(), 4);
        let maybe = prop::option::of(inner.clone());
        prop_oneof![
            inner.clone().prop_map(|ty| match ty {
                Ty::Integer(Integer::U8) => Ty::Bytes,
                ty => Ty::List(Box::new(ty)),
            }),
            inner.clone().prop_map(option),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Ty::Tuple),
            (some_names(), several).prop_map(|(names, mut types)| {
                types.truncate(names.len());
                Ty::Record(Fields { names, types })
            }),
            (some_names(), prop::collection::vec(maybe.clone(), 4)).prop_map(
                |(names, mut types)| {
                    types.truncate(names.len());
                    Ty::Variant(Cases { names, types })
                }
            ),
            (maybe.clone(), maybe).prop_map(|(ok, err)| Ty::Result(Box::new([ok, err]))),
        ]
    })
}

fn values(ty: &Ty) -> BoxedStrategy<Val> {
    let boxed = |ty: &Ty| values(ty).prop_map(Box::new).boxed();
    let maybe = |ty: &Option<Ty>| match ty {
        Some(ty) => boxed(ty).prop_map(Some).boxed(),
        None => Just(None).boxed(),
    };
    match ty {
        Ty::Bool => any::<bool>().prop_map(Val::Bool).boxed(),
        Ty::Integer(integer) => match integer {
            Integer::U8 => any::<u8>().prop_map(Val::U8).boxed(),
            Integer::S8 => any::<i8>().prop_map(Val::S8).boxed(),
            Integer::U16 => any::<u16>().prop_map(Val::U16).boxed(),
            Integer::S16 => any::<i16>().prop_map(Val::S16).boxed(),
            Integer::U32 => any::<u32>().prop_map(Val::U32).boxed(),
            Integer::S32 => any::<i32>().prop_map(Val::S32).boxed(),
            Integer::U64 => any::<u64>().prop_map(Val::U64).boxed(),
            Integer::S64 => any::<i64>().prop_map(Val::S64).boxed(),
        },
        Ty::Float32 => {
            let finite = any::<u32>().prop_map(f32::from_bits);
            finite.prop_filter("finite", |it| it.is_finite()).prop_map(Val::Float32).boxed()
        }
        Ty::Float64 => {
            let finite = any::<u64>().prop_map(f64::from_bits);
            finite.prop_filter("finite", |it| it.is_finite()).prop_map(Val::Float64).boxed()
        }
        Ty::Char => any::<char>().prop_map(Val::Char).boxed(),
        Ty::String => any::<String>().prop_map(Val::String).boxed(),
        Ty::Bytes => {
            prop::collection::vec(any::<u8>().prop_map(Val::U8), 0..9).prop_map(Val::List).boxed()
        }
        Ty::List(ty) => prop::collection::vec(values(ty), 0..4).prop_map(Val::List).boxed(),
        Ty::Tuple(types) => {
            types.iter().map(values).collect::<Vec<_>>().prop_map(Val::Tuple).boxed()
        }
        Ty::Record(fields) => {
            let names = fields.names.wit.clone();
            let all = fields.types.iter().map(values).collect::<Vec<_>>();
            all.prop_map(move |values| Val::Record(names.iter().cloned().zip(values).collect()))
                .boxed()
        }
        Ty::Variant(cases) => {
            let each = cases.names.wit.iter().cloned().zip(&cases.types).map(|(name, ty)| {
                maybe(ty).prop_map(move |value| Val::Variant(name.clone(), value)).boxed()
            });
            prop::strategy::Union::new(each).boxed()
        }
        Ty::Enum(names) => prop::sample::select(names.wit.clone()).prop_map(Val::Enum).boxed(),
        Ty::Flags(names) => {
            let most = names.len();
            prop::sample::subsequence(names.wit.clone(), 0..=most).prop_map(Val::Flags).boxed()
        }
        Ty::Option(ty) => prop::option::of(boxed(ty)).prop_map(Val::Option).boxed(),
        Ty::Result(parts) => {
            let [ok, err] = parts.as_ref();
            prop_oneof![
                maybe(ok).prop_map(|it| Val::Result(Ok(it))),
                maybe(err).prop_map(|it| Val::Result(Err(it))),
            ]
            .boxed()
        }
    }
}

/// JSON that is near to what a type takes: what it takes, with a part exchanged for something else.
fn near(json: serde_json::Value) -> impl Strategy<Value = serde_json::Value> {
    let scrap = prop::sample::select(vec![
        "null",
        "true",
        "0",
        "-1",
        "255",
        "256",
        "1.5",
        "\"\"",
        "\"a\"",
        "\"AA==\"",
        "\"AB==\"",
        "[]",
        "{}",
        "[null]",
        "{\"some\":null}",
        "{\"ok\":null}",
        "{\"x\":1}",
        "1e39",
        "18446744073709551615",
    ]);
    (any::<prop::sample::Index>(), scrap, 0..4_u8).prop_map(move |(at, scrap, how)| {
        let mut json = json.clone();
        let count = count(&json);
        change(
            &mut json,
            &mut i64::try_from(at.index(count)).unwrap(),
            &serde_json::from_str(scrap).unwrap(),
            how,
        );
        json
    })
}

fn count(json: &serde_json::Value) -> usize {
    1 + match json {
        serde_json::Value::Array(items) => items.iter().map(count).sum(),
        serde_json::Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

fn change(json: &mut serde_json::Value, left: &mut i64, scrap: &serde_json::Value, how: u8) {
    if *left == 0 {
        match (&mut *json, how) {
            (serde_json::Value::Array(items), 1) => items.push(scrap.clone()),
            (serde_json::Value::Array(items), 2) => drop(items.pop()),
            (serde_json::Value::Object(members), 1) => {
                members.insert("x".to_owned(), scrap.clone());
            }
            (serde_json::Value::Object(members), 2) => {
                if let Some(name) = members.keys().next().cloned() {
                    members.remove(&name);
                }
            }
            (json, _) => *json = scrap.clone(),
        }
        // What was put there is not changed again.
        *left = -1;
        return;
    }
    *left -= 1;
    match json {
        serde_json::Value::Array(items) => {
            for item in items {
                change(item, left, scrap, how);
            }
        }
        serde_json::Value::Object(members) => {
            for item in members.values_mut() {
                change(item, left, scrap, how);
            }
        }
        _ => {}
    }
}

fn accepts(schema: &str, payload: &serde_json::Value) -> bool {
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    jsonschema::validator_for(&schema).unwrap().is_valid(payload)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn json_of_a_value_is_read_as_that_value((ty, value) in types().prop_flat_map(|ty| {
        let values = values(&ty);
        (Just(ty), values)
    })) {
        let text = written(&ty, &value);
        let read = read(&ty, &text);
        prop_assert_eq!(read.as_ref(), Ok(&value), "{} {}", ty.shown(), text);
        prop_assert_eq!(written(&ty, &read.unwrap()), text);
    }

    #[test]
    fn a_schema_accepts_what_is_read_and_nothing_else((ty, json) in types().prop_flat_map(|ty| {
        let values = values(&ty);
        let inner = ty.clone();
        let near = values.prop_flat_map(move |value| {
            near(serde_json::from_str(&written(&inner, &value)).unwrap())
        });
        (Just(ty), near)
    })) {
        // As it is written here integers are no floats, which a schema could not tell apart.
        let taken = read(&ty, &json.to_string());
        let schema = schema::input(&one(&ty));
        prop_assert_eq!(taken.is_ok(), accepts(&schema, &json), "{} {} {:?}", schema, json, taken);
        prop_assert_eq!(&schema, &schema::output(Some(&ty)));
    }

    #[test]
    fn the_schema_of_parameters_accepts_what_is_read_and_nothing_else((all, json) in (
        prop::collection::vec(types(), 0..4),
        prop::bool::ANY,
    ).prop_flat_map(|(types, by_place)| {
        let names = (0..types.len()).map(|n| format!("p-{n}")).collect();
        let all = Fields { names: Names::new(names), types };
        let each = all.types.iter().map(values).collect::<Vec<_>>();
        let inner = all.clone();
        let near = each.prop_flat_map(move |values| {
            let json: Vec<(String, serde_json::Value)> = inner
                .iter()
                .zip(&values)
                .map(|((_, name, ty), value)| {
                    (name.to_owned(), serde_json::from_str(&written(ty, value)).unwrap())
                })
                .collect();
            near(if by_place {
                json.into_iter().map(|(_, value)| value).collect()
            } else {
                serde_json::Value::Object(json.into_iter().collect())
            })
        });
        (Just(all), near)
    })) {
        let taken = arguments(&all, json.to_string().as_bytes(), MAX, &|| true).map_err(|it| it.to_string());
        let schema = schema::input(&all);
        prop_assert_eq!(taken.is_ok(), accepts(&schema, &json), "{} {} {:?}", schema, json, taken);
    }

    #[test]
    fn no_bytes_make_it_panic(ty in types(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = arguments(&one(&ty), &bytes, MAX, &|| true);
    }
}
