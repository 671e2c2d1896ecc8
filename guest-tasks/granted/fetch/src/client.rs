//! Just enough of a client over `wasi:http` 0.2: one request, one response, each whole in memory.

use lovage_task::TaskError;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use wasip2::io::streams::StreamError;

/// How much of a body is read or written at once.
const CHUNK_BYTES: u64 = 64 << 10;

/// What is asked.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What is answered.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Sends a request, and waits for the whole response.
pub fn fetch(request: &Request) -> Result<Response, TaskError> {
    let response = wait(&begin(request)?)?;
    let headers = response.headers().entries();
    Ok(Response {
        status: response.status(),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
            .collect(),
        body: read(&response)?,
    })
}

/// Sends a request, but waits for nothing.
pub fn begin(request: &Request) -> Result<FutureIncomingResponse, TaskError> {
    let (scheme, authority, target) = split(&request.url)?;
    let headers = Fields::new();
    for (name, value) in &request.headers {
        headers
            .append(name, value.as_bytes())
            .map_err(|error| TaskError::reject(format!("the header {name}: {error}")))?;
    }
    let outgoing = OutgoingRequest::new(headers);
    let wrong = |what: &str| TaskError::reject(format!("the {what} is none that can be sent"));
    outgoing.set_method(&method(&request.method)).map_err(|()| wrong("method"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| wrong("scheme"))?;
    outgoing.set_authority(Some(authority)).map_err(|()| wrong("host"))?;
    outgoing.set_path_with_query(Some(&target)).map_err(|()| wrong("path"))?;
    let body = outgoing.body().map_err(|()| wrong("body"))?;
    let response = handle(outgoing, None::<RequestOptions>).map_err(|code| failure(&code))?;
    // A server that needs no more of the body closes it; what it says counts, not that.
    let _ = write(&body, &request.body);
    let _ = OutgoingBody::finish(body, None);
    Ok(response)
}

fn write(body: &OutgoingBody, bytes: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = body.write() else { return Ok(()) };
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.subscribe().block();
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        let (chunk, after) = rest.split_at(room.min(rest.len()));
        stream.write(chunk)?;
        rest = after;
    }
    stream.flush()
}

/// Waits for the header of a response.
pub fn wait(response: &FutureIncomingResponse) -> Result<IncomingResponse, TaskError> {
    loop {
        match response.get() {
            Some(Ok(Ok(response))) => return Ok(response),
            Some(Ok(Err(code))) => return Err(failure(&code)),
            Some(Err(())) => return Err(TaskError::fail("HttpError", "the response is gone")),
            None => response.subscribe().block(),
        }
    }
}

/// Reads the body of a response to its end.
pub fn read(response: &IncomingResponse) -> Result<Vec<u8>, TaskError> {
    let gone = || TaskError::fail("HttpError", "the body is gone");
    let body: IncomingBody = response.consume().map_err(|()| gone())?;
    let stream = body.stream().map_err(|()| gone())?;
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(CHUNK_BYTES) {
            Ok(bytes) => all.extend(bytes),
            Err(StreamError::Closed) => return Ok(all),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(code) => failure(&code),
                    None => TaskError::fail("HttpBodyError", error.to_debug_string()),
                });
            }
        }
    }
}

/// What went wrong, under the name that `wasi:http` has for it. What may be over soon is worth
/// another attempt.
fn failure(code: &ErrorCode) -> TaskError {
    let shown = format!("{code:?}");
    let name = shown.strip_prefix("ErrorCode::").unwrap_or(&shown);
    let passing = matches!(
        code,
        ErrorCode::DnsTimeout
            | ErrorCode::DnsError(_)
            | ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionRefused
            | ErrorCode::ConnectionTerminated
            | ErrorCode::HttpResponseIncomplete
    );
    if passing {
        return TaskError::retry(format!("the request failed: {name}"));
    }
    let kind = name.split(['(', ' ']).next().unwrap_or(name);
    TaskError::fail(kind, format!("the request failed: {name}"))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

/// Scheme, host with port, and path with query. The host looks at them again, and more closely.
fn split(url: &str) -> Result<(Scheme, &str, String), TaskError> {
    let url = url.split('#').next().unwrap_or_default();
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| TaskError::reject("the URL has no scheme"))?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok((scheme, authority, format!("{slash}{target}")))
}

/// Where a redirect leads.
pub fn join(url: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}");
    }
    let path = target.split('?').next().unwrap_or_default();
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{scheme}://{authority}{directory}/{location}")
}

/// Scheme, host and port of a URL, as it is written.
pub fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let length = url.get(start..).and_then(|rest| rest.find(['/', '?', '#']));
    length.and_then(|length| url.get(..start + length)).unwrap_or(url)
}
