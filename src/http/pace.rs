//! Bodies, which their clients have to send at a pace: one that sends next to nothing must not hold a place for ever.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::refusal::Refusal;

/// The time in which a client has to send [`PACE_LEN`] bytes. Only the time counts in which the server waits for them.
const PACE_TIME: Duration = Duration::from_secs(30);

/// 1 KiB in a second.
const PACE_LEN: usize = 30 << 10;

/// Reads a body, and measures how its client sends it.
#[derive(Debug, Default)]
pub(super) struct Paced {
    waited: Duration,
    received: usize,
}

/// Why a body did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The client closed the connection, or what it sent is no body of HTTP.
    Broken,
    /// It came too slowly, or not at all.
    Slow,
}

impl Missing {
    /// The answer for it, in which `what` stands for the body.
    pub(super) fn refusal(self, what: &str) -> Refusal {
        match self {
            Self::Broken => Refusal::bad_request(format!("{what} broke off before its end: send it again")),
            Self::Slow => {
                let message =
                    format!("{what} came more slowly than 1 KiB a second for 30 seconds: send it again");
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
            }
        }
    }
}

impl Paced {
    /// The next bytes of a body. `None` at its end.
    pub(super) async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Missing> {
        loop {
            let begun = Instant::now();
            let frame = timeout(PACE_TIME.saturating_sub(self.waited), body.frame()).await;
            self.waited += begun.elapsed();
            let bytes = match frame {
                Err(_) => None,
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(Missing::Broken),
                // Trailers are no data, and are passed over.
                Ok(Some(Ok(frame))) => frame.into_data().ok(),
            };
            self.received += bytes.as_ref().map_or(0, Bytes::len);
            if self.waited >= PACE_TIME {
                if self.received < PACE_LEN {
                    return Err(Missing::Slow);
                }
                *self = Self::default();
            }
            if bytes.is_some() {
                return Ok(bytes);
            }
        }
    }

    /// A whole body of at most `max` bytes. `None` if it is longer.
    pub(super) async fn whole(mut body: Body, max: usize) -> Result<Option<Vec<u8>>, Missing> {
        let (mut paced, mut whole) = (Self::default(), Vec::new());
        while let Some(bytes) = paced.next(&mut body).await? {
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

    /// What comes of a body of which `count` parts of `len` bytes are sent, one each `every`, on a clock that does not wait.
    async fn received(count: usize, len: usize, every: Duration) -> Result<usize, Missing> {
        let (mut parts, body) = Channel::<Bytes, std::io::Error>::new(1);
        tokio::spawn(async move {
            for _ in 0..count {
                tokio::time::sleep(every).await;
                let _client_is_refused = parts.send_data(vec![0; len].into()).await;
            }
        });
        let whole = Paced::whole(Body::new(body), usize::MAX).await?;
        Ok(whole.map_or(0, |whole| whole.len()))
    }

    fn run(count: usize, len: usize, every: Duration) -> Result<usize, Missing> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(received(count, len, every))
    }

    #[test]
    fn a_body_that_drips_is_given_up_and_a_slow_one_is_not() {
        let second = Duration::from_secs(1);
        assert_eq!(run(100, 1, 29 * second), Err(Missing::Slow));
        assert_eq!(run(1_000, 900, second), Err(Missing::Slow));
        assert_eq!(run(1_000, 1_100, second), Ok(1_100_000));
        assert_eq!(run(3, 64 << 10, 29 * second), Ok(3 * (64 << 10)));
        assert_eq!(run(1, 1, 31 * second), Err(Missing::Slow));
    }
}
