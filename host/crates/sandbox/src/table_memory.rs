//! What the entries of a resource table hold, counted now and then.
//!
//! The resources of `wasi:http` are a library's, and cannot carry a charge of ours. So the table itself is
//! looked through at every [`EVERY`]th call of that interface: what its entries hold is counted as
//! the attempt's memory, and an attempt that has too much ends. Between two looks a guest can add no
//! more than so many times what one call may leave behind, which is [`MOST_A_CALL`].

use http::HeaderMap;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types::Method;
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::p3::{Request, Response};

use super::egress::CHUNK_BYTES;

/// How many calls there are between two looks.
pub(super) const EVERY: u32 = 64;

/// The most bytes that one call can leave in the table: a URL's path, or an authority.
pub(super) const MOST_A_CALL: usize = 64 << 10;

/// An entry of the table, whatever it is, with what is allocated for it.
const ENTRY_BYTES: u64 = 256;

/// A header's place in its map, with its value's and its name's.
const FIELD_BYTES: usize = 120;

/// Two chunks may wait in a body that nobody reads.
const BODY_BYTES: u64 = 2 * CHUNK_BYTES as u64;

/// Bytes that the entries of a table hold, about.
pub(super) fn of(table: &mut ResourceTable) -> u64 {
    table.iter_mut().map(|entry| ENTRY_BYTES.saturating_add(of_entry(entry))).sum()
}

fn of_entry(entry: &dyn std::any::Any) -> u64 {
    let text = |text: Option<&str>| text.map_or(0, |text| text.len() as u64);
    if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        of_fields(fields)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let method = match &request.method {
            Method::Other(name) => name.len() as u64,
            _ => 0,
        };
        of_fields(&request.headers)
            + method
            + text(request.authority.as_deref())
            + text(request.path_with_query.as_deref())
            + request.body.as_ref().map_or(0, |_| BODY_BYTES)
    } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        of_fields(&response.headers)
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        of_fields(&response.headers) + response.body.as_ref().map_or(0, |_| BODY_BYTES)
    } else if entry.is::<HostOutgoingBody>() {
        BODY_BYTES
    } else if let Some(request) = entry.downcast_ref::<Request>() {
        of_fields(&request.headers)
            + request.method.as_str().len() as u64
            + text(request.authority.as_ref().map(http::uri::Authority::as_str))
            + text(request.path_with_query.as_ref().map(http::uri::PathAndQuery::as_str))
    } else if let Some(response) = entry.downcast_ref::<Response>() {
        of_fields(&response.headers)
    } else {
        0
    }
}

fn of_fields(fields: &HeaderMap) -> u64 {
    let bytes: usize =
        fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES).sum();
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_table_count_with_all_that_is_in_them() {
        let mut table = ResourceTable::new();
        assert_eq!(of(&mut table), 0);
        let mut fields = FieldMap::new_mutable(4_000);
        let name = http::HeaderName::from_static("x-a");
        fields.append_raw(name, "1".repeat(1000).parse().unwrap()).unwrap();
        let held = table.push(fields).unwrap();
        let one = of(&mut table);
        assert!((1_003..2_000).contains(&one), "{one}");
        table.push(7_u32).unwrap();
        assert_eq!(of(&mut table), one + ENTRY_BYTES);
        table.delete(held).unwrap();
        assert_eq!(of(&mut table), ENTRY_BYTES);
    }
}
