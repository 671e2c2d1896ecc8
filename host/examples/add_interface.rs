//! Serves an interface of its own to a guest.
//!
//! The guest imports `acme:shop/prices@1.0.0`, which no other host has. A task may call it only
//! after `grant`.
//!
//! ```sh
//! cargo run -p lovage --example add_interface
//! ```

use lovage::{
    Host,
    job::Job,
    outcome::Outcome,
    sandbox::{HostInterface, Val},
};

/// A component whose task `total` multiplies a number of articles by the price that the host says.
/// Authors write such a component in their own language; it is spelled out here to need no tools.
const GUEST: &str = r#"
(component
  (import "acme:shop/prices@1.0.0" (instance $prices
    (export "price" (func (param "article" u32) (result u32)))))
  (core func $price (canon lower (func $prices "price")))
  (core module $module
    (import "host" "price" (func $price (param i32) (result i32)))
    (func (export "total") (param $article i32) (param $count i32) (result i32)
      (i32.mul (call $price (local.get $article)) (local.get $count))))
  (core instance $instance (instantiate $module
    (with "host" (instance (export "price" (func $price))))))
  (func (export "total") (param "article" u32) (param "count" u32) (result u32)
    (canon lift (core func $instance "total"))))
"#;

/// Asks for the total of 3 articles at 14, granted or not. The output, or the failure's text.
pub async fn example(granted: bool) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let component = folder.path().join("shop.wasm");
    std::fs::write(&component, wat::parse_str(GUEST)?)?;

    let mut prices =
        HostInterface::new("acme:shop/prices@1.0.0").function("price", |caller, arguments| {
            match arguments {
                // The caller is known: prices could differ by tenant.
                [Val::U32(7)] if caller.task == "total" => Ok(vec![Val::U32(14)]),
                _ => Err("no such article".to_owned()),
            }
        });
    if granted {
        prices = prices.grant("total");
    }
    let host = Host::builder().components(&component).interface(prices).build().await?;
    let report = host.run(Job::new("job-1", "total", r#"{"article": 7, "count": 3}"#)).await?;
    Ok(match report.outcome {
        Outcome::Done(output) => String::from_utf8(output.data.to_vec())?,
        outcome => format!("{outcome:?}"),
    })
}

#[allow(dead_code, reason = "the tests run `example` alone")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let output = example(true).await?;
    std::io::Write::write_all(&mut std::io::stdout(), format!("{output}\n").as_bytes())?;
    Ok(())
}
