//! `MessagePack` as JSON text, for messages of clients that have `task_serializer = 'msgpack'`.
//!
//! Binary values become kombu's rich type `base64`, keys of maps texts, as they are in Python's JSON.
//! Extension types are refused. Written straight to text, so that small
//! bytes cannot become a large tree.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{json::write_string, python_json};

/// How deep values may stand in each other.
const MAX_DEPTH: usize = 64;

/// The JSON text of one value. `max` bounds it, in bytes.
pub(super) fn to_json(bytes: &[u8], max: usize) -> Result<String, &'static str> {
    let mut reader = Reader { rest: bytes, out: String::new(), max };
    reader.value(0)?;
    if reader.rest.is_empty() { Ok(reader.out) } else { Err("there is something after its end") }
}

struct Reader<'a> {
    rest: &'a [u8],
    out: String,
    max: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<(), &'static str> {
        if depth > MAX_DEPTH {
            return Err("its values are too deep in each other");
        }
        if self.out.len() > self.max {
            return Err("it is too much");
        }
        match self.byte()? {
            0xc0 => self.out.push_str("null"),
            0xc2 => self.out.push_str("false"),
            0xc3 => self.out.push_str("true"),
            byte @ 0x00..=0x7f => self.number(byte),
            byte @ 0xe0..=0xff => self.number(i8::from_be_bytes([byte])),
            0xcc => self.unsigned(1)?,
            0xcd => self.unsigned(2)?,
            0xce => self.unsigned(4)?,
            0xcf => self.unsigned(8)?,
            0xd0 => self.signed(1)?,
            0xd1 => self.signed(2)?,
            0xd2 => self.signed(4)?,
            0xd3 => self.signed(8)?,
            0xca => {
                let bits = self.take(4)?.try_into().map_err(|_| "it is cut off")?;
                self.float(f64::from(f32::from_be_bytes(bits)))?;
            }
            0xcb => {
                let bits = self.take(8)?.try_into().map_err(|_| "it is cut off")?;
                self.float(f64::from_be_bytes(bits))?;
            }
            byte @ (0xa0..=0xbf | 0xd9..=0xdb) => {
                let text = self.text(byte)?;
                write_string(&mut self.out, text);
            }
            byte @ 0xc4..=0xc6 => {
                let len = self.length(1 << (byte - 0xc4))?;
                let bytes = BASE64_STANDARD.encode(self.take(len)?);
                self.out.push_str("{\"__type__\": \"base64\", \"__value__\": ");
                write_string(&mut self.out, &bytes);
                self.out.push('}');
            }
            byte @ 0x90..=0x9f => self.list(usize::from(byte & 0x0f), depth)?,
            byte @ 0xdc..=0xdd => {
                let len = self.length(2 << (byte - 0xdc))?;
                self.list(len, depth)?;
            }
            byte @ 0x80..=0x8f => self.map(usize::from(byte & 0x0f), depth)?,
            byte @ 0xde..=0xdf => {
                let len = self.length(2 << (byte - 0xde))?;
                self.map(len, depth)?;
            }
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err("it holds a type that JSON does not have");
            }
        }
        Ok(())
    }

    fn list(&mut self, len: usize, depth: usize) -> Result<(), &'static str> {
        self.out.push('[');
        for n in 0..len {
            if n > 0 {
                self.out.push_str(", ");
            }
            self.value(depth + 1)?;
        }
        self.out.push(']');
        Ok(())
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<(), &'static str> {
        self.out.push('{');
        for n in 0..len {
            if n > 0 {
                self.out.push_str(", ");
            }
            match self.byte()? {
                byte @ (0xa0..=0xbf | 0xd9..=0xdb) => {
                    let key = self.text(byte)?;
                    write_string(&mut self.out, key);
                }
                byte @ 0x00..=0x7f => write_string(&mut self.out, &byte.to_string()),
                _ => return Err("a key of it is no text"),
            }
            self.out.push_str(": ");
            self.value(depth + 1)?;
        }
        self.out.push('}');
        Ok(())
    }

    fn text(&mut self, marker: u8) -> Result<&'a str, &'static str> {
        let len = match marker {
            0xa0..=0xbf => usize::from(marker & 0x1f),
            _ => self.length(1 << (marker.saturating_sub(0xd9)))?,
        };
        std::str::from_utf8(self.take(len)?).map_err(|_| "a text of it is not UTF-8")
    }

    fn number(&mut self, number: impl std::fmt::Display) {
        self.out.push_str(&number.to_string());
    }

    fn unsigned(&mut self, size: usize) -> Result<(), &'static str> {
        let number = self.take(size)?.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        self.number(number);
        Ok(())
    }

    fn signed(&mut self, size: usize) -> Result<(), &'static str> {
        let bytes = self.take(size)?;
        let first = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
        let start = if first { -1_i64 } else { 0 };
        let number = bytes.iter().fold(start, |all, byte| all << 8 | i64::from(*byte));
        self.number(number);
        Ok(())
    }

    fn float(&mut self, number: f64) -> Result<(), &'static str> {
        if let Some(inside) = python_json::of_float(number) {
            self.out.push_str(inside);
            return Ok(());
        }
        let number = serde_json::Number::from_f64(number).ok_or("it holds no number")?;
        self.number(number);
        Ok(())
    }

    fn length(&mut self, size: usize) -> Result<usize, &'static str> {
        Ok(self.take(size)?.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        self.take(1)?.first().copied().ok_or("it is cut off")
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("it is cut off")?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kombu_packs_is_read() {
        // kombu.serialization.dumps(…, serializer='msgpack')
        let packed = [
            "k5kV/8s/+AAAAAAAAKLDpMDDxAIA/5QBzwAAAQAAAAAA0////wAAAAAAz4AAAAAAAAAA2gEs",
            &"eHh4".repeat(100),
            "gaFhgaFi3AAUwsLCwsLCwsLCwsLCwsLCwsLCwsKEqWNhbGxiYWNrc8CoZXJyYmFja3PApWNoYWluwKVjaG9yZMA=",
        ];
        let bytes = BASE64_STANDARD.decode(packed.concat()).unwrap();
        let long = "x".repeat(300);
        let falses = vec!["false"; 20].join(", ");
        assert_eq!(
            to_json(&bytes, 1 << 20).unwrap(),
            format!(
                "[[21, -1, 1.5, \"\\u00e4\", null, true, {{\"__type__\": \"base64\", \"__value__\": \
                 \"AP8=\"}}, [1, 1099511627776, -1099511627776, 9223372036854775808], \"{long}\"], \
                 {{\"a\": {{\"b\": [{falses}]}}}}, {{\"callbacks\": null, \"errbacks\": null, \
                 \"chain\": null, \"chord\": null}}]"
            )
        );
        for cut in 0..bytes.len() {
            to_json(&bytes[..cut], 1 << 20).unwrap_err();
        }
    }

    #[test]
    fn what_json_cannot_say_and_what_is_too_much_is_refused() {
        let deep = vec![0x91; 100];
        // A list that says it has four thousand million items.
        let long = [0xdd, 0xff, 0xff, 0xff, 0xff];
        let nan = [&[0xcb][..], &f64::NAN.to_be_bytes()].concat();
        for bytes in [&[][..], &[0xc1], &[0xd4, 1, 2], &deep, &long, &[0xc0, 0xc0], &[0xa1, 0xff]] {
            to_json(bytes, 1 << 20).unwrap_err();
        }
        let inside = r#"{"__type__": "float", "__value__": "NaN"}"#;
        assert_eq!(to_json(&nan, 1 << 20).as_deref(), Ok(inside));
        let many = [&[0xdc, 0xff, 0xff][..], &vec![0xc0; 65535]].concat();
        assert_eq!(to_json(&many, 1000), Err("it is too much"));
    }
}
