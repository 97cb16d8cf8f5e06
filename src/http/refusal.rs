//! What a client is told instead of what it asked for: a status, and the API's error body. No path of the server is in it.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::body::ErrorBody;
use crate::{Error, ErrorKind};

/// A status and a sentence.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The message with the path of a file, for the log of the server. `None` if it is that of the client.
    logged: Option<String>,
    /// After how many seconds it is worth to try again.
    retry_after: Option<u32>,
}

/// What was refused, for those who watch the server.
#[derive(Clone, Debug)]
pub(super) struct Sentence(pub(super) String);

/// How an answer begins.
pub(super) type Answer<T> = Result<T, Refusal>;

impl Refusal {
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

    /// The server has as much to do as it takes on.
    pub(super) fn overloaded(message: impl Into<String>, retry_after: u32) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Busy.as_str(), message);
        Self { retry_after: Some(retry_after), ..refusal }
    }

    /// An error of the library under a status of the caller's own.
    pub(super) fn with_status(status: StatusCode, error: &Error) -> Self {
        let logged = error.path().map(|_| error.to_string());
        Self { logged, ..Self::new(status, error.kind().as_str(), error.without_path()) }
    }

    /// The same for those who ask again when nothing can change any more: clients repeat what a 5xx answers.
    pub(super) fn again(self) -> Self {
        if !self.status.is_server_error() {
            return self;
        }
        let message = format!("{}; this upload is over: start again", self.message);
        Self { status: StatusCode::CONFLICT, message, retry_after: None, ..self }
    }

    /// For what a body names, and not the path: there a thing that is missing makes the request a bad one.
    pub(super) fn of_body(error: Error) -> Self {
        match Self::from(error) {
            missing if missing.status == StatusCode::NOT_FOUND => {
                Self { status: StatusCode::BAD_REQUEST, ..missing }
            }
            other => other,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        // 403 makes clients say that one is no member of the organization, and 422 that a name is taken: neither is used
        // for anything else.
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

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let sentence = Sentence(self.logged.unwrap_or_else(|| self.message.clone()));
        let body = Json(ErrorBody { error: self.message, code: self.code });
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(sentence);
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
    fn what_failed_for_good_is_not_answered_twice_as_if_it_could_be_repeated() {
        let full = Refusal::from(Error::new(ErrorKind::DiskFull, "the disk is full"));
        assert_eq!(full.status, StatusCode::INSUFFICIENT_STORAGE);
        let again = full.again();
        assert_eq!((again.status, again.code), (StatusCode::CONFLICT, "disk_full"));
        assert!(again.message.starts_with("the disk is full; "));
        let wrong = Refusal::bad_request("no database").again();
        assert_eq!((wrong.status, wrong.message.as_str()), (StatusCode::BAD_REQUEST, "no database"));
    }
}
