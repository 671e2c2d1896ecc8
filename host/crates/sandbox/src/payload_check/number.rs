//! Numbers of JSON, compared by their values, each in constant time.

use std::cmp::Ordering;
use std::fmt;

/// A number as the JSON parser gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Unsigned(u64),
    Signed(i64),
    /// Always finite.
    Float(f64),
}

/// A number's value: equal numbers have equal keys, `1` and `1.0` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    Integer(i128),
    /// The bits of a float that is no integer, or beyond those of `i128`.
    Float(u64),
}

/// Up to here an integral float is exactly an `i128`: 2¹²⁶.
const EXACT: f64 = 85_070_591_730_234_615_865_843_651_857_942_052_864.0;

impl Number {
    /// Its value.
    #[allow(clippy::cast_possible_truncation, reason = "it is an integer in range")]
    pub fn key(self) -> Key {
        match self {
            Self::Unsigned(number) => Key::Integer(number.into()),
            Self::Signed(number) => Key::Integer(number.into()),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < EXACT => {
                Key::Integer(number as i128)
            }
            Self::Float(number) => Key::Float(number.to_bits()),
        }
    }

    /// Returns true if it is an integer, as JSON Schema has it: `1.0` is.
    pub fn is_integer(self) -> bool {
        match self {
            Self::Float(number) => number.fract() == 0.0,
            _ => true,
        }
    }

    /// It as a count, where it is one.
    pub fn count(self) -> Option<u64> {
        match self.key() {
            Key::Integer(number) if number >= 0 => Some(u64::try_from(number).unwrap_or(u64::MAX)),
            Key::Float(bits) => {
                let number = f64::from_bits(bits);
                (number.fract() == 0.0 && number > 0.0).then_some(u64::MAX)
            }
            Key::Integer(_) => None,
        }
    }

    /// Which of two is greater.
    #[allow(clippy::cast_possible_truncation, reason = "it is in range")]
    pub fn compare(self, other: Self) -> Ordering {
        /// An integer and a float that is none, or is beyond all of them.
        fn mixed(integer: i128, float: f64) -> Ordering {
            if float.abs() >= EXACT {
                return if float > 0.0 { Ordering::Less } else { Ordering::Greater };
            }
            // The float is between this integer and the next.
            if integer <= float.floor() as i128 { Ordering::Less } else { Ordering::Greater }
        }
        match (self.key(), other.key()) {
            (Key::Integer(one), Key::Integer(other)) => one.cmp(&other),
            (Key::Integer(one), Key::Float(other)) => mixed(one, f64::from_bits(other)),
            (Key::Float(one), Key::Integer(other)) => mixed(other, f64::from_bits(one)).reverse(),
            (Key::Float(one), Key::Float(other)) => {
                f64::from_bits(one).total_cmp(&f64::from_bits(other))
            }
        }
    }

    /// Whether it is a multiple of another, which is not 0, both taken as the decimal numbers that
    /// they are written as.
    pub fn is_multiple_of(self, of: Self) -> bool {
        let ((digits, power), (of_digits, of_power)) = (self.decimal(), of.decimal());
        if digits == 0 || of_digits == 0 {
            return digits == 0;
        }
        let (digits, of_digits) = (u128::from(digits), u128::from(of_digits));
        let shift = power.saturating_sub(of_power);
        if shift >= 0 {
            // digits · 10^shift modulo of_digits, by squaring.
            let (mut left, mut square, mut rest) =
                (shift.unsigned_abs(), 10 % of_digits, digits % of_digits);
            while left > 0 {
                if left & 1 == 1 {
                    rest = rest * square % of_digits;
                }
                square = square * square % of_digits;
                left >>= 1;
            }
            return rest == 0;
        }
        // Neither ends in a zero; beyond this the other is the greater one.
        let scaled =
            10_u128.checked_pow(shift.unsigned_abs()).and_then(|by| by.checked_mul(of_digits));
        scaled.is_some_and(|scaled| digits % scaled == 0)
    }

    /// Its decimal digits without zeros at their end, and the power of ten that they count.
    fn decimal(self) -> (u64, i32) {
        let (mut digits, mut power) = match self {
            Self::Unsigned(number) => (number, 0),
            Self::Signed(number) => (number.unsigned_abs(), 0),
            Self::Float(number) => {
                // The shortest digits that are this number: 17 at most.
                let text = format!("{:e}", number.abs());
                let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
                let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
                let power: i32 = power.parse().unwrap_or(0);
                let places = i32::try_from(part.len()).unwrap_or(0);
                ([whole, part].concat().parse().unwrap_or(0), power - places)
            }
        };
        while digits != 0 && digits % 10 == 0 {
            digits /= 10;
            power += 1;
        }
        (digits, power)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => write!(f, "{number}"),
            Self::Signed(number) => write!(f, "{number}"),
            Self::Float(number) => f.write_str(&serde_json::Value::from(*number).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Number::{Float, Signed, Unsigned};

    #[test]
    fn numbers_are_compared_by_their_values() {
        let ascending = [
            Float(-1e308),
            Signed(i64::MIN),
            Float(-1.5),
            Signed(-1),
            Float(-0.5),
            Unsigned(0),
            Float(1e-300),
            Float(0.5),
            Unsigned(1),
            Float(1.5),
            Unsigned((1 << 53) + 1),
            Unsigned(u64::MAX),
            Float(18_446_744_073_709_551_616.0),
            Float(1e300),
        ];
        for (at, one) in ascending.iter().enumerate() {
            for (there, other) in ascending.iter().enumerate() {
                assert_eq!(one.compare(*other), at.cmp(&there), "{one} {other}");
            }
        }
        assert_eq!(Float(-0.0).key(), Unsigned(0).key());
        assert_eq!(Float(2.0).key(), Unsigned(2).key());
    }

    #[test]
    fn multiples_are_those_of_the_decimal_numbers() {
        for (number, of, is) in [
            (Unsigned(10), Unsigned(5), true),
            (Unsigned(11), Unsigned(5), false),
            (Signed(-10), Unsigned(5), true),
            (Unsigned(0), Float(0.3), true),
            (Float(0.3), Float(0.1), true),
            (Float(19.99), Float(0.01), true),
            (Float(19.995), Float(0.01), false),
            (Float(1e308), Float(1e-308), true),
            (Float(1e308), Unsigned(3), false),
            (Float(1e-308), Float(1e308), false),
            (Float(4.5), Float(1.5), true),
            (Float(7.5), Unsigned(2), false),
            (Unsigned(u64::MAX), Unsigned(u64::MAX), true),
            (Unsigned(u64::MAX), Unsigned(u64::MAX - 1), false),
        ] {
            assert_eq!(number.is_multiple_of(of), is, "{number} {of}");
        }
    }
}
