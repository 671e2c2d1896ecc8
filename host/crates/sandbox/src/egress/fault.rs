//! Why a request did not succeed: a code for the guest, and words for people.

use std::sync::{Mutex, PoisonError};

use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use lovage_core::text::one_line;

/// The most bytes of a note.
const NOTE_BYTES: usize = 1000;

/// What became of a request. The guest sees the code alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: Code,
    pub why: String,
}

impl Fault {
    pub fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    /// The same, with the request named.
    pub fn of_request_to(mut self, to: &str) -> Self {
        self.why = format!("{to}: {}", self.why);
        self
    }
}

/// The codes of `wasi:http` that requests come to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Denied,
    UriInvalid,
    TooManyRequests,
    Prohibited,
    DnsError,
    DnsTimeout,
    ConnectionRefused,
    ConnectionTimeout,
    ConnectionTerminated,
    ReadTimeout,
    ResponseTimeout,
    RequestSize(u64),
    ResponseSize(u64),
    ResponseHeaders,
    ResponseIncomplete,
    TlsCertificate,
    TlsProtocol,
    Protocol,
    Configuration,
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        match code {
            Code::Denied => Self::HttpRequestDenied,
            Code::UriInvalid => Self::HttpRequestUriInvalid,
            Code::TooManyRequests => Self::ConnectionLimitReached,
            Code::Prohibited => Self::DestinationIpProhibited,
            Code::DnsError => Self::DnsError { rcode: None, info_code: None },
            Code::DnsTimeout => Self::DnsTimeout,
            Code::ConnectionRefused => Self::ConnectionRefused,
            Code::ConnectionTimeout => Self::ConnectionTimeout,
            Code::ConnectionTerminated => Self::ConnectionTerminated,
            Code::ReadTimeout => Self::ConnectionReadTimeout,
            Code::ResponseTimeout => Self::HttpResponseTimeout,
            Code::RequestSize(limit) => Self::HttpRequestBodySize(Some(limit)),
            Code::ResponseSize(limit) => Self::HttpResponseBodySize(Some(limit)),
            Code::ResponseHeaders => Self::HttpResponseHeaderSectionSize(None),
            Code::ResponseIncomplete => Self::HttpResponseIncomplete,
            Code::TlsCertificate => Self::TlsCertificateError,
            Code::TlsProtocol => Self::TlsProtocolError,
            Code::Protocol => Self::HttpProtocolError,
            Code::Configuration => Self::ConfigurationError,
        }
    }
}

/// The code of an error of a body, as WASI 0.2 has it. wasmtime has one for those of requests only.
pub(crate) fn code_of(error: &Error) -> ErrorCode {
    match error {
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::HttpRequestBodySize(limit) => ErrorCode::HttpRequestBodySize(*limit),
        Error::HttpResponseBodySize(limit) => ErrorCode::HttpResponseBodySize(*limit),
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        // All that bodies come to is above.
        _ => ErrorCode::HttpProtocolError,
    }
}

/// What is remembered of requests that did not succeed: the last one.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Option<String>>);

impl Notes {
    /// Writes down why, and gives what the guest is told.
    pub fn tell(&self, fault: &Fault) -> Error {
        let note = one_line(&fault.why, NOTE_BYTES);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
        fault.code.into()
    }

    pub fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
