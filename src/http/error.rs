//! Error responses: a status and the API's JSON error body, which never contains a path of the server.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::body::ErrorBody;
use crate::{Error, ErrorKind};

/// The error of a request: the status and body of its response.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The message with the path of the file, for the server's log. `None` if the client's message is complete.
    logged: Option<String>,
    /// The value of `Retry-After`, in seconds.
    retry_after: Option<u32>,
}

/// The message of an error response, which the middleware logs.
#[derive(Clone, Debug)]
pub(super) struct LoggedMessage(pub(super) String);

pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), logged: None, retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorKind::Invalid.as_str(), message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound.as_str(), message)
    }

    /// The server is temporarily unable to handle the request.
    pub(super) fn unavailable(message: impl Into<String>, retry_after: u32) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Busy.as_str(), message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// Converts an error of the library, with a status of the caller's choice.
    pub(super) fn with_status(status: StatusCode, error: &Error) -> Self {
        let logged = error.path().map(|_| error.to_string());
        Self { logged, ..Self::new(status, error.kind().as_str(), error.without_path()) }
    }

    /// Makes the error of an upload that has ended final: 409 in place of a 5xx, which clients would retry.
    pub(super) fn into_final(self) -> Self {
        if !self.status.is_server_error() {
            return self;
        }
        let message = format!("{}; this upload has ended, start again", self.message);
        Self { status: StatusCode::CONFLICT, message, retry_after: None, ..self }
    }

    /// Converts the error of a call whose operands come from the request body: an operand that does not exist makes the
    /// request invalid (400), because 404 is about the path.
    pub(super) fn from_body(error: Error) -> Self {
        match Self::from(error) {
            missing if missing.status == StatusCode::NOT_FOUND => {
                Self { status: StatusCode::BAD_REQUEST, ..missing }
            }
            other => other,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        // Clients report 403 as "not a member of this organization" and 422 as a name conflict. No other error uses them.
        let status = match kind {
            ErrorKind::NotFound | ErrorKind::Destroyed => StatusCode::NOT_FOUND,
            ErrorKind::AlreadyExists | ErrorKind::Protected | ErrorKind::Blocked | ErrorKind::ReadOnly => {
                StatusCode::CONFLICT
            }
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Busy | ErrorKind::Cancelled | ErrorKind::Replaced => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Invalid
            | ErrorKind::KeyRequired
            | ErrorKind::WrongKey
            | ErrorKind::OutsideWindow
            | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { retry_after, ..Self::with_status(status, &error) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let logged = LoggedMessage(self.logged.unwrap_or_else(|| self.message.clone()));
        let body = Json(ErrorBody { error: self.message, code: self.code });
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(logged);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_error_is_not_retryable() {
        let full = ApiError::from(Error::new(ErrorKind::DiskFull, "the disk is full"));
        assert_eq!(full.status, StatusCode::INSUFFICIENT_STORAGE);
        let settled = full.into_final();
        assert_eq!((settled.status, settled.code), (StatusCode::CONFLICT, "disk_full"));
        assert!(settled.message.starts_with("the disk is full; "));
        let invalid = ApiError::bad_request("no database").into_final();
        assert_eq!((invalid.status, invalid.message.as_str()), (StatusCode::BAD_REQUEST, "no database"));
    }
}
