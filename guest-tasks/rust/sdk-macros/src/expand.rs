//! The code that `#[task]` adds to a function.
//!
//! Beside the function stands an empty type of the same name: functions and types have separate
//! names, so that `export!(echo)` finds the type, and `use tasks::echo` brings both. Nobody names
//! the type but `export!`; a task that is missing there is therefore dead code, which is denied.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Error, Expr, ItemFn, Lit, Meta, Result};

use crate::options::{Options, is_task_name};
use crate::signature::{self, Argument, Returned};

/// The function, and what makes a task of it.
pub fn task(options: &Options, function: &ItemFn) -> Result<TokenStream> {
    let ident = &function.sig.ident;
    let arguments = signature::arguments(function)?;
    let name = name(options, function)?;
    let description = description(&function.attrs);
    let max_attempts = option(options.max_attempts.as_ref());
    let timeout_ms = option(options.timeout_ms.as_ref());

    let mut input_schema = quote! { || ::core::option::Option::None };
    let mut passed = Vec::new();
    for argument in &arguments {
        match argument {
            Argument::Context => passed.push(quote! { ctx }),
            Argument::Payload(ty) => {
                input_schema =
                    quote_spanned! { ty.span() => <#ty as ::lovage_task::Input>::schema };
                passed.push(quote_spanned! { ty.span() =>
                    <#ty as ::lovage_task::Input>::from_payload(payload, ctx)?
                });
            }
        }
    }

    let call = quote! { #ident(#(#passed),*) };
    let (value, output) = match signature::returned(function) {
        Returned::Value(None) => (call, quote! { () }),
        Returned::Value(Some(ty)) => (call, quote! { #ty }),
        Returned::Result(ty) => (
            quote_spanned! { ty.span() =>
                <#ty as ::lovage_task::__private::TaskResult>::into_result(#call)?
            },
            quote_spanned! { ty.span() =>
                <#ty as ::lovage_task::__private::TaskResult>::Value
            },
        ),
    };

    // With the function's own place, because lints are silent about what a macro wrote.
    let entry_type = quote_spanned! { ident.span() =>
        #[doc(hidden)]
        #[allow(non_camel_case_types)]
        #[deny(
            dead_code,
            reason = "a task is served only when it stands in `lovage_task::export!(…)`"
        )]
        pub(crate) struct #ident {}
    };

    Ok(quote! {
        #function

        #entry_type

        impl ::lovage_task::__private::Task for #ident {
            const ENTRY: ::lovage_task::__private::Entry = {
                #[allow(unused_variables, clippy::let_unit_value, clippy::unit_arg)]
                fn run(
                    payload: ::lovage_task::__private::Vec<u8>,
                    ctx: &::lovage_task::Context,
                ) -> ::core::result::Result<::lovage_task::Raw, ::lovage_task::TaskError> {
                    let value = #value;
                    <#output as ::lovage_task::Output>::into_raw(value)
                }

                ::lovage_task::__private::Entry {
                    name: #name,
                    description: #description,
                    max_attempts: #max_attempts,
                    timeout_ms: #timeout_ms,
                    input_schema: #input_schema,
                    output_schema: <#output as ::lovage_task::Output>::schema,
                    run,
                }
            };
        }
    })
}

fn name(options: &Options, function: &ItemFn) -> Result<String> {
    if let Some(name) = &options.name {
        return Ok(name.value());
    }
    let name = function.sig.ident.unraw().to_string();
    if is_task_name(&name) {
        Ok(name)
    } else {
        Err(Error::new(
            function.sig.ident.span(),
            "no name for a task: give it one with `#[task(name = \"…\")]`",
        ))
    }
}

fn option(literal: Option<&syn::LitInt>) -> TokenStream {
    literal.map_or_else(
        || quote! { ::core::option::Option::None },
        |literal| quote! { ::core::option::Option::Some(#literal) },
    )
}

/// The documentation as text: its lines without the space that `///` leaves in front.
fn description(attributes: &[Attribute]) -> String {
    let lines: Vec<String> = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(literal) => match &literal.lit {
                    Lit::Str(text) => Some(text.value()),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        })
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect();
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_the_description() {
        let function: ItemFn = syn::parse_str(
            "/// First line.\n///\n///     indented\n#[allow(dead_code)]\n/// Last.  \nfn f() {}",
        )
        .unwrap();
        assert_eq!(description(&function.attrs), "First line.\n\n    indented\nLast.");
    }

    #[test]
    fn a_function_without_a_usable_name_needs_the_option() {
        let function: ItemFn = syn::parse_str("fn grüße() {}").unwrap();
        let error = task(&Options::default(), &function).unwrap_err();
        assert!(error.to_string().contains("#[task(name"));
        let options: Options = syn::parse_str(r#"name = "hello""#).unwrap();
        assert!(task(&options, &function).is_ok());
    }
}
