//! What stands in the parentheses of `#[task(…)]`.

use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::{LitInt, LitStr, Result};

/// The options of one task; absent ones are left to the host.
#[derive(Default)]
pub struct Options {
    /// Instead of the function's name.
    pub name: Option<LitStr>,
    /// How many attempts a job gets.
    pub max_attempts: Option<LitInt>,
    /// Milliseconds of wall time for one attempt.
    pub timeout_ms: Option<LitInt>,
}

impl Parse for Options {
    fn parse(input: ParseStream) -> Result<Self> {
        let mut options = Self::default();
        syn::meta::parser(|meta| options.take(&meta)).parse2(input.parse()?)?;
        Ok(options)
    }
}

impl Options {
    fn take(&mut self, meta: &ParseNestedMeta) -> Result<()> {
        if meta.path.is_ident("name") {
            once(meta, &mut self.name, check_name)
        } else if meta.path.is_ident("max_attempts") {
            once(meta, &mut self.max_attempts, at_least_one::<u32>)
        } else if meta.path.is_ident("timeout_ms") {
            once(meta, &mut self.timeout_ms, at_least_one::<u64>)
        } else {
            Err(meta.error("a task has the options `name`, `max_attempts` and `timeout_ms`"))
        }
    }
}

fn once<T: Parse>(
    meta: &ParseNestedMeta,
    slot: &mut Option<T>,
    check: impl Fn(&T) -> Result<()>,
) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("this option stands here twice"));
    }
    let value = meta.value()?.parse()?;
    check(&value)?;
    *slot = Some(value);
    Ok(())
}

fn check_name(name: &LitStr) -> Result<()> {
    if is_task_name(&name.value()) {
        Ok(())
    } else {
        Err(syn::Error::new(
            name.span(),
            "a task's name is 1 to 200 characters of `a-z A-Z 0-9 _ . : / -`",
        ))
    }
}

/// The contract's rule for names, from `task-spec` in wit/v1/types.wit.
pub fn is_task_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte))
}

fn at_least_one<N>(literal: &LitInt) -> Result<()>
where
    N: std::str::FromStr + PartialEq + Default,
    N::Err: std::fmt::Display,
{
    if literal.base10_parse::<N>()? == N::default() {
        return Err(syn::Error::new(literal.span(), "at least 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        match syn::parse_str::<Options>(text) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn all_options_are_taken() {
        let options: Options =
            syn::parse_str(r#"name = "a.b:c/d-e_1", max_attempts = 5, timeout_ms = 10_000"#)
                .unwrap();
        assert_eq!(options.name.unwrap().value(), "a.b:c/d-e_1");
        assert_eq!(options.max_attempts.unwrap().base10_digits(), "5");
        assert_eq!(options.timeout_ms.unwrap().base10_digits(), "10000");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(error_of(r#"name = "a b""#).contains("1 to 200 characters"));
        assert!(error_of(r#"name = """#).contains("1 to 200 characters"));
        assert_eq!(error_of("max_attempts = 0"), "at least 1");
        assert!(error_of("max_attempts = 4294967296").contains("too large"));
        assert!(error_of("timeout = 1").contains("`timeout_ms`"));
        assert!(error_of("timeout_ms = 1, timeout_ms = 2").contains("twice"));
    }
}
