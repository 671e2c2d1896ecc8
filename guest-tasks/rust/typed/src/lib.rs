//! A shop's functions, each of which is a task by its types alone: nothing here knows of Lovage.

/// The world as Rust.
#[allow(missing_docs, unsafe_code, clippy::pedantic, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "shop" });

    export!(Shop);

    use super::Shop;
}

use bindings::Guest;
use bindings::exports::example::shop::pricing::{
    Discount, Guest as Pricing, Line, Order, Refusal, Total,
};

struct Shop;

impl Pricing for Shop {
    fn total_of(order: Order) -> Result<Total, Refusal> {
        if order.lines.is_empty() {
            return Err(Refusal::NothingOrdered);
        }
        let too_much = |line: &Line| Refusal::TooMuch(format!("too many of {}", line.article));
        let mut cents = 0_u64;
        for line in &order.lines {
            let price = line.price_cents.checked_mul(u64::from(line.count));
            let sum = price.and_then(|price| cents.checked_add(price));
            cents = sum.ok_or_else(|| too_much(line))?;
        }
        let off = match order.discount {
            Discount::None => 0,
            Discount::Percent(percent @ 0..=100) => {
                let percent = u64::from(percent);
                // In two parts, which overflow nowhere.
                cents / 100 * percent + cents % 100 * percent / 100
            }
            Discount::Percent(percent) => return Err(Refusal::NoSuchDiscount(percent)),
            Discount::Cents(off) => off,
        };
        let greeting = order.customer.map(|(name, since)| format!("{name}, here since {since}"));
        Ok(Total {
            cents: cents.saturating_sub(off),
            currency: order.currency,
            notes: greeting
                .into_iter()
                .chain(order.lines.into_iter().filter_map(|it| it.note))
                .collect(),
        })
    }
}

impl Guest for Shop {
    fn welcome(name: String, loud: Option<bool>) -> Result<String, String> {
        if name.is_empty() {
            return Err("nobody to welcome".to_owned());
        }
        let text = format!("Welcome, {name}");
        Ok(if loud == Some(true) { text.to_uppercase() } else { text })
    }

    fn checksum(data: Vec<u8>) -> u32 {
        data.iter().fold(1, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte))
    }

    fn tidy_up() {}
}
