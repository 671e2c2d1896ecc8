//! Twice a JSON number, the way Python counts.
//!
//! JSON has one kind of number, Python two, told apart by how the number is written: digits alone
//! are an integer of any size, a point or an exponent makes a 64-bit float.

use lovage_task::TaskError;
use lovage_task::serde_json::Number;

/// Twice the number, of the same kind.
pub fn number(number: &Number) -> Result<Number, TaskError> {
    let text = number.as_str();
    if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
        Ok(integer(text).parse()?)
    } else {
        float(text)
    }
}

/// Twice a decimal integer, digit by digit from the right.
fn integer(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        // Python's integers have no minus zero.
        Some("0") => ("", "0"),
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let mut carry = 0;
    let mut doubled: Vec<u8> = digits
        .bytes()
        .rev()
        .map(|digit| {
            let twice = 2 * (digit - b'0') + carry;
            carry = twice / 10;
            b'0' + twice % 10
        })
        .collect();
    if carry > 0 {
        doubled.push(b'0' + carry);
    }
    let digits = doubled.iter().rev().map(|&byte| char::from(byte));
    sign.chars().chain(digits).collect()
}

/// Twice a float. Infinity is what Python would go on with, but JSON has no such number.
fn float(text: &str) -> Result<Number, TaskError> {
    let value: f64 = text.parse()?;
    Number::from_f64(value * 2.0).ok_or_else(|| {
        TaskError::reject(format!(
            "twice {text} is infinity for a 64-bit float, and JSON has no infinity"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are random enough and the same on every run (splitmix64).
    fn numbers() -> impl Iterator<Item = u64> {
        let mut state: u64 = 0x6c6f_7661_6765;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    #[test]
    fn integers_agree_with_128_bit_arithmetic() {
        let mut random = numbers();
        for _ in 0..20_000 {
            let (high, low) = (random.next().unwrap(), random.next().unwrap());
            // Every length of number, not only the longest.
            let wide =
                (u128::from(high) << 64 | u128::from(low)) >> (1 + random.next().unwrap() % 127);
            assert_eq!(integer(&wide.to_string()), (wide * 2).to_string());
            let signed = -i128::try_from(wide / 2).unwrap();
            assert_eq!(integer(&signed.to_string()), (signed * 2).to_string());
        }
    }

    #[test]
    fn doubling_and_adding_digits_commutes_far_beyond_128_bits() {
        // 2 * (a * 10^n + b) for b < 10^n / 2 is 2a followed by 2b, padded.
        let mut random = numbers();
        for _ in 0..1_000 {
            let (a, b) = (random.next().unwrap(), random.next().unwrap() / 2);
            let text = format!("{a}{b:040}");
            assert_eq!(integer(&text), format!("{}{:040}", u128::from(a) * 2, u128::from(b) * 2));
        }
    }

    #[test]
    fn small_integers() {
        for n in -1_000_i64..=1_000 {
            assert_eq!(integer(&n.to_string()), (n * 2).to_string());
        }
        assert_eq!(integer("-0"), "0");
    }

    #[test]
    fn floats_stay_floats() {
        for (text, expected) in
            [("21.0", "42.0"), ("1.5", "3.0"), ("-0.0", "-0.0"), ("1e2", "200.0")]
        {
            assert_eq!(float(text).unwrap().as_str(), expected);
        }
    }
}
