//! Message attributes: SQS's are typed, Lovage's are text.
//!
//! A received attribute becomes text: of type `String` and `Number` the text that SQS gives, of
//! type `Binary` its base64. So that a message which is copied or moved goes out as it came in,
//! types other than `String` (custom ones such as `Number.int` and `Binary.png`, too) are kept in
//! one more attribute, [`TYPES`], that exists in memory only: it is taken out again when the
//! message is sent, and one of that name on the wire is dropped.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_sqs::{primitives::Blob, types::MessageAttributeValue};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::refusal::Refusal;
use lovage_core::{
    broker::{
        Attributes,
        attribute::{self, TYPES},
    },
    sqs_charset,
};

/// "A message can contain up to 10 metadata attributes" (SQS message quotas).
pub(super) const MAX_ATTRIBUTES: usize = 10;

/// The type of an attribute that [`TYPES`] does not name.
const STRING: &str = "String";

/// An attribute as SQS has it, in plain words: what `ReceiveMessage` and a Lambda event both give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedAttribute {
    /// `String`, `Number` or `Binary`, with a custom label behind a full stop, if any.
    pub data_type: String,
    /// The text, or the base64 of a `Binary` value.
    pub value: String,
}

impl From<&MessageAttributeValue> for TypedAttribute {
    fn from(value: &MessageAttributeValue) -> Self {
        Self {
            data_type: value.data_type().to_owned(),
            value: match value.binary_value() {
                Some(bytes) => STANDARD.encode(bytes),
                None => value.string_value().unwrap_or_default().to_owned(),
            },
        }
    }
}

/// Where a copy carries attributes that it has no room for. Never seen by a reader.
const PACKED: &str = "lovage-packed";

/// Makes room for what the broker adds to a message with as many attributes as SQS takes: some travel
/// in one of them, and are unpacked by whoever receives it. Whoever reads the queue without Lovage does
/// not see those.
pub(super) fn pack(attributes: &mut Attributes) {
    let types = types(attributes);
    let travelling = |name: &String| name != TYPES;
    let count = attributes.keys().filter(|name| travelling(name)).count();
    let Some(over) = count.checked_sub(MAX_ATTRIBUTES).filter(|over| *over > 0) else { return };
    // The names that Lovage reads stay, as far as there are others.
    let own = |name: &&String| attribute::is_reserved(name);
    let names = || attributes.keys().filter(|name| travelling(name));
    let foreign = names().filter(|name| !own(name));
    let kept = [attribute::DEFERRED, attribute::FIRST_SENT];
    let others = names().filter(own).filter(|name| !kept.contains(&name.as_str()));
    // One more than there are too many, for the one that holds them.
    let packed: Vec<String> = foreign.chain(others).take(over + 1).cloned().collect();
    let mut held = BTreeMap::new();
    for name in packed {
        let data_type = types.get(&name).map_or(STRING, String::as_str).to_owned();
        if let Some(value) = attributes.remove(&name) {
            held.insert(name, (data_type, value));
        }
    }
    let json = serde_json::to_string(&held).unwrap_or_default();
    attributes.insert(PACKED.to_owned(), sqs_charset::escape_json(&json).into_owned());
}

/// What [`pack`] put into one attribute; nothing where it was not written by it.
fn unpack(json: &str) -> BTreeMap<String, TypedAttribute> {
    let held: BTreeMap<String, (String, String)> = serde_json::from_str(json).unwrap_or_default();
    let typed = |(name, (data_type, value))| (name, TypedAttribute { data_type, value });
    held.into_iter().take(MAX_ATTRIBUTES).map(typed).collect()
}

fn types(attributes: &Attributes) -> BTreeMap<String, String> {
    attributes.get(TYPES).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// The attributes as text, without those that are the broker's own; and the raw deferral, if any.
pub(super) fn to_text(
    typed: impl IntoIterator<Item = (String, TypedAttribute)>,
) -> (Attributes, Option<String>) {
    let mut attributes = Attributes::new();
    let mut kept = BTreeMap::new();
    let mut deferral = None;
    let mut all: BTreeMap<String, TypedAttribute> = typed.into_iter().collect();
    let packed = all.remove(PACKED).map(|it| unpack(&it.value)).unwrap_or_default();
    for (name, attribute) in packed {
        all.entry(name).or_insert(attribute);
    }
    for (name, attribute) in all {
        if name == TYPES {
            continue;
        }
        if name == attribute::DEFERRED {
            deferral = Some(attribute.value);
            continue;
        }
        if attribute.data_type != STRING {
            kept.insert(name.clone(), attribute.data_type);
        }
        attributes.insert(name, attribute.value);
    }
    if !kept.is_empty()
        && let Ok(json) = serde_json::to_string(&kept)
    {
        attributes.insert(TYPES.to_owned(), json);
    }
    (attributes, deferral)
}

/// The attributes as SQS takes them, and the bytes that they count for: "the message body, and the
/// name, type and value of each attribute" (SQS message quotas).
pub(super) fn to_wire(
    attributes: &Attributes,
) -> Result<(HashMap<String, MessageAttributeValue>, usize), Refusal> {
    let types = types(attributes);
    let mut wire = HashMap::new();
    let mut bytes = 0;
    for (name, value) in attributes {
        if name == TYPES {
            continue;
        }
        check_name(name)?;
        if value.is_empty() {
            return Err(Refusal::invalid(format!(
                "attribute {name:?} is empty, which SQS does not take: leave it out"
            )));
        }
        let data_type = types
            .get(name)
            .map(String::as_str)
            .filter(|data_type| is_type(data_type))
            .unwrap_or(STRING);
        let builder = MessageAttributeValue::builder().data_type(data_type);
        let (built, length) = if data_type.starts_with("Binary") {
            let value = STANDARD.decode(value).map_err(|error| {
                Refusal::invalid(format!("attribute {name:?} is binary, not base64: {error}"))
            })?;
            let length = value.len();
            (builder.binary_value(Blob::new(value)).build(), length)
        } else {
            if let Some((offset, character)) = sqs_charset::first_refused(value) {
                return Err(Refusal::invalid(format!(
                    "attribute {name:?} has U+{:04X} at byte {offset}, which SQS does not take",
                    u32::from(character)
                )));
            }
            (builder.string_value(value).build(), value.len())
        };
        let built = built.map_err(|error| Refusal::invalid(error.to_string()))?;
        bytes += name.len() + data_type.len() + length;
        wire.insert(name.clone(), built);
    }
    if wire.len() > MAX_ATTRIBUTES {
        return Err(Refusal::invalid(format!(
            "it has {} attributes, and SQS takes {MAX_ATTRIBUTES}",
            wire.len()
        )));
    }
    Ok((wire, bytes))
}

/// The rules of `SendMessage` in the SQS API reference, on `MessageAttribute`'s name.
fn check_name(name: &str) -> Result<(), Refusal> {
    let lower = name.to_ascii_lowercase();
    let broken = if name.is_empty() || name.len() > 256 {
        "must have 1 to 256 characters"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        "may hold letters, digits, underscores, hyphens and full stops only"
    } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        "must not begin or end with a full stop, or hold two in a row"
    } else if lower.starts_with("aws.") || lower.starts_with("amazon.") {
        "must not begin with `AWS.` or `Amazon.`"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(80).collect();
    Err(Refusal::invalid(format!("the name of attribute {shown:?} {broken}")))
}

fn is_type(text: &str) -> bool {
    let (base, _label) = text.split_once('.').unwrap_or((text, ""));
    text.len() <= 256
        && matches!(base, "String" | "Number" | "Binary")
        && sqs_charset::first_refused(text).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lovage_core::broker::Fault;

    fn typed(data_type: &str, value: &str) -> TypedAttribute {
        TypedAttribute { data_type: data_type.to_owned(), value: value.to_owned() }
    }

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_came_in_goes_out_with_its_type() {
        let (text, deferral) = to_text([
            ("plain".to_owned(), typed("String", "a")),
            ("count".to_owned(), typed("Number.int", "42")),
            ("blob".to_owned(), typed("Binary.png", "AAH/")),
            (TYPES.to_owned(), typed("String", "{\"plain\":\"Binary\"}")),
        ]);
        assert_eq!(deferral, None);
        assert_eq!(text.get("blob").map(String::as_str), Some("AAH/"));
        let (wire, bytes) = to_wire(&text).unwrap();
        assert_eq!(wire.len(), 3);
        assert_eq!(wire["plain"].data_type(), "String");
        assert_eq!(wire["count"].data_type(), "Number.int");
        assert_eq!(wire["count"].string_value(), Some("42"));
        assert_eq!(wire["blob"].data_type(), "Binary.png");
        assert_eq!(wire["blob"].binary_value().map(AsRef::as_ref), Some(&[0u8, 1, 255][..]));
        let counted = "plainStringa".len() + "countNumber.int42".len() + "blobBinary.png".len() + 3;
        assert_eq!(bytes, counted);
    }

    #[test]
    fn a_copy_of_a_message_with_ten_attributes_has_all_of_them_again() {
        let sent = (0..10).map(|n| {
            let data_type = if n == 3 { "Number.int" } else { "String" };
            (format!("n{n}"), typed(data_type, &n.to_string()))
        });
        let (original, _) = to_text(sent);
        let mut copy = original.clone();
        copy.insert(attribute::DEFERRED.to_owned(), "{}".to_owned());
        copy.insert(attribute::FIRST_SENT.to_owned(), "5".to_owned());
        assert!(to_wire(&copy).is_err());
        pack(&mut copy);
        let (wire, _) = to_wire(&copy).unwrap();
        assert_eq!(wire.len(), 10);
        let received = wire.iter().map(|(name, value)| (name.clone(), TypedAttribute::from(value)));
        let (mut text, deferral) = to_text(received);
        assert_eq!(deferral.as_deref(), Some("{}"));
        assert_eq!(text.remove(attribute::FIRST_SENT).as_deref(), Some("5"));
        assert_eq!(text, original);
    }

    #[test]
    fn what_is_packed_by_somebody_else_takes_the_place_of_nothing() {
        let forged = r#"{"a":["String","forged"],"b":["String","2"]}"#;
        let received = [("a", "1"), (PACKED, forged)];
        let (text, _) =
            to_text(received.map(|(name, value)| (name.to_owned(), typed("String", value))));
        assert_eq!(text, attributes(&[("a", "1"), ("b", "2")]));
        for nonsense in ["", "[]", "{\"a\":1}"] {
            let (text, _) = to_text([(PACKED.to_owned(), typed("String", nonsense))]);
            assert!(text.is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn texts_alone_need_no_memory_of_types() {
        let (text, _) = to_text([("a".to_owned(), typed("String", "b"))]);
        assert_eq!(text, attributes(&[("a", "b")]));
    }

    #[test]
    fn the_brokers_own_attribute_is_handed_over_apart() {
        let (text, deferral) = to_text([(attribute::DEFERRED.to_owned(), typed("String", "{}"))]);
        assert!(text.is_empty());
        assert_eq!(deferral.as_deref(), Some("{}"));
    }

    #[test]
    fn names_are_held_to_the_rules_of_the_api_reference() {
        for name in ["a", "lovage-id", "a.b_c-D9", &"x".repeat(256)] {
            check_name(name).unwrap();
        }
        for name in ["", ".a", "a.", "a..b", "a b", "ä", "AWS.x", "amazon.x", &"x".repeat(257)] {
            assert_eq!(check_name(name).unwrap_err().fault, Fault::Invalid, "{name}");
        }
    }

    #[test]
    fn an_eleventh_attribute_an_empty_one_and_bad_characters_are_refused_by_name() {
        let many: Attributes = (0..11).map(|n| (format!("n{n}"), "v".to_owned())).collect();
        assert!(to_wire(&many).unwrap_err().reason.contains("11 attributes"));
        let empty = to_wire(&attributes(&[("tenant", "")])).unwrap_err();
        assert!(empty.reason.contains("\"tenant\""), "{}", empty.reason);
        let control = to_wire(&attributes(&[("t", "ab\u{1}")])).unwrap_err();
        assert!(control.reason.contains("U+0001 at byte 2"), "{}", control.reason);
    }

    #[test]
    fn a_forged_memory_of_types_does_no_harm() {
        let forged = attributes(&[("a", "b"), (TYPES, "{\"a\":\"Evil\"}")]);
        assert_eq!(to_wire(&forged).unwrap().0["a"].data_type(), "String");
        let nonsense = attributes(&[("a", "b"), (TYPES, "nonsense")]);
        assert_eq!(to_wire(&nonsense).unwrap().0["a"].data_type(), "String");
    }
}
