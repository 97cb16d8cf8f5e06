//! Bounds on the connections of a server: how many there are, and how long one may make no progress.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::{Error, ErrorKind, Result};

/// Most connections of a server that is not told otherwise.
const DEFAULT_CONNECTIONS_MAX: usize = 4_096;

/// Bounds on the connections of a [`Server`](super::Server).
///
/// A connection that makes no progress is closed: one without the whole head of a request after `head_time`, which also bounds
/// a TLS handshake and the time between two requests; and one whose client takes nothing of an answer for `write_time`. The
/// time that the server itself needs for an answer does not count, however long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionLimits {
    connections: Option<usize>,
    connections_per_peer: Option<usize>,
    head_time: Duration,
    write_time: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_peer: None,
            head_time: Duration::from_secs(30),
            write_time: Duration::from_secs(300),
        }
    }
}

impl ConnectionLimits {
    /// Sets the number of connections. It is half of the files that the process may open unless set, and at most 4,096: the
    /// other half is for databases. At the bound, the connection that has waited longest for its client makes room for the
    /// next; where the server is at work for all of them, the next is closed.
    #[must_use]
    pub fn connections(self, max: usize) -> Self {
        Self { connections: Some(max), ..self }
    }

    /// Sets the number of connections of one peer: an IPv4 address, or the 64-bit prefix of an IPv6 address. 0 means no bound,
    /// as behind a proxy, from which all connections come. Unless set it is a quarter of all connections, and loopback
    /// addresses have no bound.
    #[must_use]
    pub fn connections_per_peer(self, max: usize) -> Self {
        Self { connections_per_peer: Some(max), ..self }
    }

    /// Sets the time for a TLS handshake and for the head of a request, which begins with the connection or with the end of
    /// the answer before. It is 30 seconds unless set.
    #[must_use]
    pub fn head_time(self, time: Duration) -> Self {
        Self { head_time: time, ..self }
    }

    /// Sets how long a client may take nothing of an answer that waits for it. It is five minutes unless set: the system
    /// buffers up to some megabytes for a client, and reports progress only when much of that has gone.
    #[must_use]
    pub fn write_time(self, time: Duration) -> Self {
        Self { write_time: time, ..self }
    }

    /// Finds out whether the process may open files for so many connections.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for more connections than three quarters of those files, and for none.
    pub fn check(&self) -> Result<()> {
        self.resolve().map(|_| ())
    }

    /// Decides what is not set, by the number of files that the process may open.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for more connections than three quarters of those files, and for none.
    pub(super) fn resolve(&self) -> Result<Bounds> {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let files = files.unwrap_or(usize::MAX);
        let connections = self.connections.unwrap_or_else(|| DEFAULT_CONNECTIONS_MAX.min(files / 2));
        if connections == 0 || connections > files / 4 * 3 {
            let message = format!(
                "{connections} connections are not possible: the process may open {files} files, of which a quarter is kept \
                 for databases; raise the limit (ulimit -n), or allow fewer connections, and at least one"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let (per_peer, exempts_loopback) = match self.connections_per_peer {
            None => ((connections / 4).max(1), true),
            Some(0) => (usize::MAX, false),
            Some(max) => (max, false),
        };
        let Self { head_time, write_time, .. } = *self;
        Ok(Bounds { connections, per_peer, exempts_loopback, head_time, write_time })
    }
}

/// [`ConnectionLimits`] of which everything is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) per_peer: usize,
    pub(super) exempts_loopback: bool,
    pub(super) head_time: Duration,
    pub(super) write_time: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_databases() {
        let files =
            getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap());
        let bounds = ConnectionLimits::default().resolve().unwrap();
        assert!(bounds.connections <= files / 2, "{bounds:?}");
        for refused in [0, files] {
            let error = ConnectionLimits::default().connections(refused).resolve().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{refused}");
        }
        let unbounded = ConnectionLimits::default().connections(8).connections_per_peer(0).resolve().unwrap();
        assert_eq!((unbounded.connections, unbounded.per_peer), (8, usize::MAX));
    }
}
