//! What a task's function takes and gives back, read from how it is written.

use syn::{Error, FnArg, ItemFn, Result, ReturnType, Signature, Type};

/// An argument of the function, in its place.
pub enum Argument<'a> {
    /// The payload, as a value of this type.
    Payload(&'a Type),
    /// `&Context`.
    Context,
}

/// What the function gives back.
pub enum Returned<'a> {
    /// A value, or nothing.
    Value(Option<&'a Type>),
    /// A `Result`, by whichever path or alias it is called so.
    Result(&'a Type),
}

/// The arguments in their order: at most one payload and at most one context.
pub fn arguments(function: &ItemFn) -> Result<Vec<Argument<'_>>> {
    refuse_what_is_no_plain_function(&function.sig)?;
    let mut arguments = Vec::new();
    let (mut has_payload, mut has_context) = (false, false);
    for input in &function.sig.inputs {
        let FnArg::Typed(typed) = input else {
            return Err(Error::new_spanned(input, "a task is a plain function: it has no `self`"));
        };
        let (argument, seen) = if is_context(&typed.ty) {
            (Argument::Context, &mut has_context)
        } else if matches!(*typed.ty, Type::Reference(_)) {
            return Err(Error::new_spanned(
                &typed.ty,
                "a task takes its payload by value; the only reference it can take is `&Context`",
            ));
        } else {
            (Argument::Payload(&typed.ty), &mut has_payload)
        };
        if std::mem::replace(seen, true) {
            return Err(Error::new_spanned(
                input,
                "a task takes one payload and one `&Context` at most; \
                 for several values make the payload a struct",
            ));
        }
        arguments.push(argument);
    }
    Ok(arguments)
}

/// What the function gives back. A `Result` is known by its name, as macros see no types.
pub fn returned(function: &ItemFn) -> Returned<'_> {
    match &function.sig.output {
        ReturnType::Default => Returned::Value(None),
        ReturnType::Type(_, ty) if last_name(ty).is_some_and(|name| name == "Result") => {
            Returned::Result(ty)
        }
        ReturnType::Type(_, ty) => Returned::Value(Some(ty)),
    }
}

fn refuse_what_is_no_plain_function(signature: &Signature) -> Result<()> {
    if let Some(token) = &signature.asyncness {
        return Err(Error::new_spanned(
            token,
            "a task is a plain function: one attempt has an instance of its own, \
             so there is nothing to run beside it while it waits",
        ));
    }
    if let Some(token) = &signature.unsafety {
        return Err(Error::new_spanned(token, "a task is a safe function"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(abi, "a task is a Rust function"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &signature.generics,
            "a task is not generic: its schema describes one type",
        ));
    }
    Ok(())
}

fn is_context(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else {
        return false;
    };
    reference.mutability.is_none() && last_name(&reference.elem).is_some_and(|it| it == "Context")
}

fn last_name(ty: &Type) -> Option<&syn::Ident> {
    let Type::Path(path) = ty else {
        return None;
    };
    path.path.segments.last().map(|segment| &segment.ident)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> std::result::Result<String, String> {
        let function: ItemFn = syn::parse_str(text).unwrap();
        let arguments = arguments(&function).map_err(|error| error.to_string())?;
        let mut shape: String = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Payload(_) => 'p',
                Argument::Context => 'c',
            })
            .collect();
        shape.push(match returned(&function) {
            Returned::Value(None) => '-',
            Returned::Value(Some(_)) => 'v',
            Returned::Result(_) => 'r',
        });
        Ok(shape)
    }

    #[test]
    fn every_shape_of_a_task_is_known() {
        for (text, expected) in [
            ("fn f() {}", "-"),
            ("fn f(a: Value) -> Value {}", "pv"),
            ("fn f(a: Value, c: &Context) -> Result<(), E> {}", "pcr"),
            ("fn f(c: &lovage_task::Context, a: u8) -> io::Result<u8> {}", "cpr"),
            ("fn f(_: &Context) -> SearchResult {}", "cv"),
        ] {
            assert_eq!(shape(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_task_is_refused() {
        for (text, reason) in [
            ("async fn f() {}", "plain function"),
            ("fn f(&self) {}", "no `self`"),
            ("fn f(a: &str) {}", "by value"),
            ("fn f(c: &mut Context) {}", "by value"),
            ("fn f(a: u8, b: u8) {}", "make the payload a struct"),
            ("fn f<T>(a: T) {}", "not generic"),
            ("unsafe fn f() {}", "safe function"),
        ] {
            let error = shape(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
