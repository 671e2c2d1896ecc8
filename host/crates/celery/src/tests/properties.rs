//! Any JSON arguments survive: read, written, read again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::publisher;
use crate::{
    Json, Map, Mapping, Request, RichTypes, Signature,
    arguments::{Shape, payload},
};

/// JSON texts: with digits, escapes and spaces as somebody may write them.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|it| it.to_string()),
        any::<i64>().prop_map(|it| it.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        any::<String>().prop_map(|it| serde_json::to_string(&it).unwrap()),
        any::<String>().prop_map(|it| Json::string(&it).text().to_owned()),
        Just("\"\\ud800 alone\"".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|it| format!("[{}]", it.join(" , "))),
            prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|fields| {
                let fields = fields.into_iter().map(|(name, value)| {
                    format!("{}:{value}", serde_json::to_string(&name).unwrap())
                });
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_arguments_survive_byte_for_byte(
        args in prop::collection::vec(json(), 0..5),
        kwargs in prop::collection::btree_map(any::<String>(), json(), 0..5),
    ) {
        let routes = BTreeMap::new();
        let args: Vec<_> = args.iter().map(|it| Json::parse(it).unwrap()).collect();
        let kwargs: Map =
            kwargs.into_iter().map(|(name, it)| (name, Json::parse(&it).unwrap())).collect();
        let message = publisher(&routes).message("t.a", &args, &kwargs, Map::new(), None);
        let request = Request::parse(&message.body, 1 << 24).unwrap();
        prop_assert_eq!(&request.args, &args);
        prop_assert_eq!(&request.kwargs, &kwargs);
        let again = request.again(1, None, &mut publisher(&routes));
        let again = Request::parse(&again.body, 1 << 24).unwrap();
        prop_assert_eq!(&again.args, &args);
        prop_assert_eq!(&again.kwargs, &kwargs);
        let mapped = payload(&args, &kwargs, &Shape::default(), Mapping::Call, RichTypes::Keep);
        let whole = Json::parse(&mapped.unwrap()).unwrap().fields().unwrap();
        prop_assert_eq!(whole.get("args").unwrap().items().unwrap(), args.clone());
        for mapping in [Mapping::Auto, Mapping::Value, Mapping::Args, Mapping::Object] {
            if let Ok(text) = payload(&args, &kwargs, &Shape::default(), mapping, RichTypes::Plain) {
                prop_assert!(Json::parse(&text).is_some(), "{}", text);
            }
        }
        let mut signature = Signature::task("t.a");
        signature.args = args;
        signature.kwargs = kwargs;
        prop_assert_eq!(Signature::parse(&signature.json()).unwrap(), signature);
    }
}
