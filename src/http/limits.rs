//! Limits on the connections of a server: their number, and the time without progress.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::{Error, ErrorKind, Result};

/// Default limit on connections, if the limit on open files allows it.
const DEFAULT_CONNECTIONS_MAX: usize = 4_096;

/// Limits on the connections of a [`Server`](super::Server).
///
/// A connection that makes no progress is closed: after the header timeout if no complete request head has arrived, which also
/// bounds the TLS handshake and the time between two requests, and after the write timeout if the client reads nothing of a
/// response. The time that the server works on a response is not limited.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionLimits {
    connections: Option<usize>,
    connections_per_peer: Option<usize>,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_peer: None,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(300),
        }
    }
}

impl ConnectionLimits {
    /// Sets the maximum number of connections. The default is half of the files that the process may open, which leaves the other
    /// half for databases, and at most 4,096.
    ///
    /// At the limit, a new connection displaces the one that has waited longest for its client: for a request, for the rest of a
    /// request body, or for the client to read a response. If the server is working on a request of every connection, the new
    /// connection is closed.
    #[must_use]
    pub fn max_connections(self, max: usize) -> Self {
        Self { connections: Some(max), ..self }
    }

    /// Sets the maximum number of connections of one peer, which is an IPv4 address or the 64-bit prefix of an IPv6 address. 0
    /// means unlimited, for a server behind a proxy. The default is a quarter of all connections, and unlimited for loopback
    /// addresses.
    #[must_use]
    pub fn max_connections_per_peer(self, max: usize) -> Self {
        Self { connections_per_peer: Some(max), ..self }
    }

    /// Sets the timeout for a TLS handshake and for the head of a request, measured from the start of the connection or the end
    /// of the previous response. The default is 30 seconds.
    #[must_use]
    pub fn header_timeout(self, timeout: Duration) -> Self {
        Self { header_timeout: timeout, ..self }
    }

    /// Sets how long a client may read nothing of a response. The default is five minutes. Shorter values can fail a slow client
    /// that does read, because the kernel buffers up to several megabytes and reports progress only when much of that is sent.
    #[must_use]
    pub fn write_timeout(self, timeout: Duration) -> Self {
        Self { write_timeout: timeout, ..self }
    }

    /// Checks that the process may open enough files for the connections.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if the maximum is 0 or more than three quarters of the files that the process may open.
    pub fn check(&self) -> Result<()> {
        self.resolve().map(|_| ())
    }

    /// Resolves the defaults, which depend on the number of files that the process may open.
    ///
    /// # Errors
    ///
    /// As for [`check`](Self::check).
    pub(super) fn resolve(&self) -> Result<ResolvedLimits> {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let files = files.unwrap_or(usize::MAX);
        let connections = self.connections.unwrap_or_else(|| DEFAULT_CONNECTIONS_MAX.min(files / 2));
        if connections == 0 || connections > files / 4 * 3 {
            let message = format!(
                "invalid connection limit {connections}: it must be at least 1 and at most three quarters of the {files} files \
                 that the process may open; lower it or raise the limit on open files (ulimit -n)"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let (per_peer, exempts_loopback) = match self.connections_per_peer {
            None => ((connections / 4).max(1), true),
            Some(0) => (usize::MAX, false),
            Some(max) => (max, false),
        };
        let Self { header_timeout, write_timeout, .. } = *self;
        Ok(ResolvedLimits { connections, per_peer, exempts_loopback, header_timeout, write_timeout })
    }
}

/// [`ConnectionLimits`] with every default resolved.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResolvedLimits {
    pub(super) connections: usize,
    pub(super) per_peer: usize,
    pub(super) exempts_loopback: bool,
    pub(super) header_timeout: Duration,
    pub(super) write_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_leaves_files_for_databases() {
        let files =
            getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap());
        let limits = ConnectionLimits::default().resolve().unwrap();
        assert!(limits.connections <= files / 2, "{limits:?}");
        for invalid in [0, files] {
            let error = ConnectionLimits::default().max_connections(invalid).resolve().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{invalid}");
        }
        let unlimited =
            ConnectionLimits::default().max_connections(8).max_connections_per_peer(0).resolve().unwrap();
        assert_eq!((unlimited.connections, unlimited.per_peer), (8, usize::MAX));
    }
}
