//! Reading request bodies at a minimum rate, so that a slow client cannot keep a request open indefinitely.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::error::ApiError;

/// The time in which a client must send [`WINDOW_LEN`] bytes. Only time that the server waits for the client counts.
const WINDOW: Duration = Duration::from_secs(30);

/// 1 KiB a second.
const WINDOW_LEN: usize = 30 << 10;

/// Reads a body and measures the rate at which it arrives.
#[derive(Debug, Default)]
pub(super) struct BodyReader {
    waited: Duration,
    received: usize,
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// The client closed the connection, or the body is not valid HTTP.
    Incomplete,
    /// The body arrived below the minimum rate.
    TooSlow,
}

impl BodyError {
    /// Converts to a response; `what` names the body.
    pub(super) fn into_api_error(self, what: &str) -> ApiError {
        match self {
            Self::Incomplete => {
                ApiError::bad_request(format!("{what} is incomplete or not valid HTTP; send it again"))
            }
            Self::TooSlow => {
                let message =
                    format!("{what} arrived more slowly than 1 KiB a second for 30 seconds; send it again");
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
            }
        }
    }
}

impl BodyReader {
    /// Returns the next bytes of a body, or `None` at its end.
    pub(super) async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        loop {
            let started = Instant::now();
            let frame = timeout(WINDOW.saturating_sub(self.waited), body.frame()).await;
            self.waited += started.elapsed();
            let bytes = match frame {
                Err(_) => None,
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(BodyError::Incomplete),
                // Trailers are skipped.
                Ok(Some(Ok(frame))) => frame.into_data().ok(),
            };
            self.received += bytes.as_ref().map_or(0, Bytes::len);
            if self.waited >= WINDOW {
                if self.received < WINDOW_LEN {
                    return Err(BodyError::TooSlow);
                }
                *self = Self::default();
            }
            if bytes.is_some() {
                return Ok(bytes);
            }
        }
    }

    /// Reads a whole body. Returns `None` if it is longer than `max` bytes.
    pub(super) async fn read_all(mut body: Body, max: usize) -> Result<Option<Vec<u8>>, BodyError> {
        let (mut reader, mut whole) = (Self::default(), Vec::new());
        while let Some(bytes) = reader.next(&mut body).await? {
            if whole.len() + bytes.len() > max {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::channel::Channel;

    use super::*;

    /// Reads a body of `count` frames of `len` bytes, sent at the interval `every`, and returns its length.
    async fn read(count: usize, len: usize, every: Duration) -> Result<usize, BodyError> {
        let (mut frames, body) = Channel::<Bytes, std::io::Error>::new(1);
        tokio::spawn(async move {
            for _ in 0..count {
                tokio::time::sleep(every).await;
                let _reader_may_have_failed = frames.send_data(vec![0; len].into()).await;
            }
        });
        let whole = BodyReader::read_all(Body::new(body), usize::MAX).await?;
        Ok(whole.map_or(0, |whole| whole.len()))
    }

    /// Runs [`read`] on a clock that advances whenever the runtime is idle.
    fn run(count: usize, len: usize, every: Duration) -> Result<usize, BodyError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(read(count, len, every))
    }

    #[test]
    fn body_below_minimum_rate_is_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(run(100, 1, 29 * second), Err(BodyError::TooSlow));
        assert_eq!(run(1_000, 900, second), Err(BodyError::TooSlow));
        assert_eq!(run(1, 1, 31 * second), Err(BodyError::TooSlow));
        assert_eq!(run(1_000, 1_100, second), Ok(1_100_000));
        assert_eq!(run(3, 64 << 10, 29 * second), Ok(3 * (64 << 10)));
    }
}
