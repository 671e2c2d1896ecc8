//! Whether a request may be made at all: what can be told without asking anybody.

use http::header::CONTENT_LENGTH;
use wasmtime_wasi_http::{RequestOptions, WasiBody};

use super::Attempt;
use super::fault::{Code, Fault};
use super::placeholders::{Found, Placeholders};
use lovage_core::byte_size::ByteSize;
use lovage_policy::Destination;

/// A request that a rule allows.
pub(super) struct Admitted {
    pub to: Destination,
    pub method: http::Method,
    /// With its query; begins with a slash.
    pub target: String,
    pub headers: http::HeaderMap,
    pub body: WasiBody,
    pub options: RequestOptions,
    /// Placeholders that the request has, whose secrets may go there.
    pub secrets: Vec<Found>,
}

/// Checks the `number`th request of an attempt.
pub(super) fn admit(
    attempt: &Attempt,
    number: u32,
    placeholders: &Placeholders,
    request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Admitted, Fault> {
    let (parts, body) = request.into_parts();
    let uri = &parts.uri;
    let path = match uri.path() {
        "" => "/",
        path => path,
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let to =
        Destination::parse(uri.scheme_str().unwrap_or(""), authority, path).map_err(|why| {
            Fault::new(Code::Denied, format!("the URL of a request is refused: {why}"))
        })?;
    let allowed = attempt.limits.http_requests;
    if number > allowed {
        let why = format!("more than {allowed} requests (`http_requests` raises it)");
        return Err(Fault::new(Code::TooManyRequests, why).of_request_to(&to.to_string()));
    }
    attempt
        .grants
        .http
        .check(parts.method.as_str(), &to)
        .map_err(|why| Fault::new(Code::Denied, why))?;
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse::<u64>().ok()).unwrap_or(0);
    if length > attempt.traffic.left_to_send() {
        let allowed = attempt.limits.http_bytes;
        let why = format!(
            "the requests of the attempt have more than {} together (`http_bytes` raises it)",
            ByteSize(allowed)
        );
        return Err(Fault::new(Code::RequestSize(allowed), why).of_request_to(&to.to_string()));
    }
    let target = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let secrets = placeholders
        .find(parts.method.as_str(), &to, uri.query(), &parts.headers)
        .map_err(|fault| fault.of_request_to(&to.to_string()))?;
    Ok(Admitted {
        to,
        method: parts.method,
        target,
        headers: parts.headers,
        body,
        options: options.unwrap_or_default(),
        secrets,
    })
}
