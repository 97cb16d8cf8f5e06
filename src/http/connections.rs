//! The open connections of a server, and which of them is closed to admit another.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::sync::Notify;

use super::limits::ResolvedLimits;
use crate::sync::{Guard, Mutex, Rank};

/// Received bytes that count as progress. A client that sends a few bytes at a time makes none.
const PROGRESS_LEN: usize = 16 << 10;

/// Counters of connections, for the metrics of the server.
#[derive(Debug, Default)]
pub(super) struct ConnectionCounts {
    pub(super) open: AtomicUsize,
    /// Closed to admit another connection.
    pub(super) displaced: AtomicU64,
    /// Closed on arrival.
    pub(super) refused: AtomicU64,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ResolvedLimits,
    counts: Arc<ConnectionCounts>,
    started: Instant,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next_id: u64,
    by_id: HashMap<u64, Arc<Connection>>,
}

/// The state of one connection.
#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    /// When it last made progress, in milliseconds since the server started.
    progress: AtomicU64,
    /// Bytes received since then.
    received: AtomicUsize,
    /// Requests whose response is not complete.
    requests: AtomicUsize,
    /// Whether a write waits for the client to read.
    is_stalled: AtomicBool,
    /// Whether the server waits for more of a request body.
    awaits_body: AtomicBool,
    /// Whether the last transfer was from the client.
    has_received: AtomicBool,
    displaced: Notify,
}

impl Connection {
    fn waits_for_client(&self) -> bool {
        self.requests.load(Relaxed) == 0 || self.is_stalled.load(Relaxed) || self.awaits_body.load(Relaxed)
    }
}

impl Connections {
    pub(super) fn new(limits: ResolvedLimits, counts: Arc<ConnectionCounts>) -> Self {
        let open = Mutex::new(Rank::Connections, OpenConnections::default());
        Self { limits, counts, started: Instant::now(), open }
    }

    /// Admits a connection from `peer`. At the limit, the connection that has waited longest for its client is closed in exchange.
    /// Returns `None` if the server is working on a request of every connection.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<ConnectionSlot> {
        let peer = prefix(peer.ip());
        let mut open = self.open();
        let is_limited = !(self.limits.exempts_loopback && peer.is_loopback());
        let is_of_peer = |connection: &Connection| connection.peer == peer;
        let peer_is_full = is_limited
            && open.by_id.values().filter(|other| is_of_peer(other)).count() >= self.limits.per_peer;
        let server_is_full = open.by_id.len() >= self.limits.connections;
        if peer_is_full || server_is_full {
            if !open.displace(|other| !peer_is_full || is_of_peer(other)) {
                self.counts.refused.fetch_add(1, Relaxed);
                return None;
            }
            self.counts.displaced.fetch_add(1, Relaxed);
        }
        let id = open.next_id;
        open.next_id += 1;
        let connection = Arc::new(Connection {
            peer,
            progress: AtomicU64::new(self.now()),
            received: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            is_stalled: AtomicBool::new(false),
            awaits_body: AtomicBool::new(false),
            has_received: AtomicBool::new(false),
            displaced: Notify::new(),
        });
        open.by_id.insert(id, Arc::clone(&connection));
        self.counts.open.store(open.by_id.len(), Relaxed);
        Some(ConnectionSlot { connections: Arc::clone(self), id, connection })
    }

    /// Closes the connection that has waited longest for its client. Returns `false` if no connection waits for its client.
    pub(super) fn displace(&self) -> bool {
        let mut open = self.open();
        let is_displaced = open.displace(|_| true);
        if is_displaced {
            self.counts.displaced.fetch_add(1, Relaxed);
            self.counts.open.store(open.by_id.len(), Relaxed);
        }
        is_displaced
    }

    /// Every change is a single insertion or removal, which a panic cannot leave half done.
    fn open(&self) -> Guard<'_, OpenConnections> {
        self.open.lock_or_recover()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl OpenConnections {
    fn displace(&mut self, may_close: impl Fn(&Connection) -> bool) -> bool {
        let waiting = self
            .by_id
            .iter()
            .filter(|(_, connection)| connection.waits_for_client() && may_close(connection));
        // Ids break ties within a millisecond.
        let longest = waiting.min_by_key(|(id, connection)| (connection.progress.load(Relaxed), **id));
        let Some(id) = longest.map(|(id, _)| *id) else { return false };
        if let Some(connection) = self.by_id.remove(&id) {
            connection.displaced.notify_one();
        }
        true
    }
}

/// The slot of an admitted connection. It is occupied until it is dropped or the connection is displaced.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    connections: Arc<Connections>,
    id: u64,
    connection: Arc<Connection>,
}

impl ConnectionSlot {
    /// Completes when the connection must close to admit another.
    pub(super) async fn displaced(&self) {
        self.connection.displaced.notified().await;
    }

    /// Records that the client sent `len` bytes.
    pub(super) fn received(&self, len: usize) {
        self.connection.has_received.store(true, Relaxed);
        if self.connection.received.fetch_add(len, Relaxed) + len >= PROGRESS_LEN {
            self.progressed();
        }
    }

    /// Records that the client accepted bytes.
    pub(super) fn sent(&self) {
        self.progressed();
        self.connection.is_stalled.store(false, Relaxed);
        self.connection.has_received.store(false, Relaxed);
    }

    /// Records that a write waits for the client to read.
    pub(super) fn stalled(&self) {
        self.connection.is_stalled.store(true, Relaxed);
    }

    /// Records whether the server waits for more of a request body.
    pub(super) fn set_awaits_body(&self, awaits: bool) {
        self.connection.awaits_body.store(awaits, Relaxed);
    }

    fn progressed(&self) {
        self.connection.progress.store(self.connections.now(), Relaxed);
        self.connection.received.store(0, Relaxed);
    }

    /// Whether a part of a request head has arrived.
    pub(super) fn has_partial_head(&self) -> bool {
        self.connection.requests.load(Relaxed) == 0 && self.connection.has_received.load(Relaxed)
    }

    /// Records a request, whose response is complete when the guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.connection.requests.fetch_add(1, Relaxed);
        self.progressed();
        RequestGuard(Arc::clone(self))
    }

    pub(super) fn limits(&self) -> &ResolvedLimits {
        &self.connections.limits
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.by_id.remove(&self.id);
        self.connections.counts.open.store(open.by_id.len(), Relaxed);
    }
}

/// A request whose response is not complete.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<ConnectionSlot>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.progressed();
        self.0.connection.requests.fetch_sub(1, Relaxed);
    }
}

/// The part of an address that identifies a peer: of an IPv6 address the first 64 bits, because its owner chooses the rest freely.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn connections(connections: usize, per_peer: usize) -> Arc<Connections> {
        let time = Duration::from_secs(30);
        let limits = ResolvedLimits {
            connections,
            per_peer,
            exempts_loopback: false,
            header_timeout: time,
            write_timeout: time,
        };
        Arc::new(Connections::new(limits, Arc::default()))
    }

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4000).into()
    }

    fn admit(connections: &Arc<Connections>, last: u8) -> Option<Arc<ConnectionSlot>> {
        connections.admit(peer(last)).map(Arc::new)
    }

    fn is_open(slot: &ConnectionSlot) -> bool {
        slot.connections.open().by_id.contains_key(&slot.id)
    }

    /// Open, displaced and refused connections.
    fn counts(connections: &Connections) -> (usize, u64, u64) {
        let ConnectionCounts { open, displaced, refused } = &*connections.counts;
        (open.load(Relaxed), displaced.load(Relaxed), refused.load(Relaxed))
    }

    #[test]
    fn connection_that_waited_longest_is_displaced() {
        let connections = connections(3, usize::MAX);
        let slots: Vec<_> = (1..=3).map(|last| admit(&connections, last).unwrap()).collect();
        // The first has a request; of the others the second has waited longer.
        let request = slots[0].begin_request();
        let fourth = connections.admit(peer(4)).unwrap();
        assert!(!is_open(&slots[1]));
        assert_eq!(counts(&connections), (3, 1, 0));
        drop(request);
        drop(fourth);
        assert_eq!(counts(&connections), (2, 1, 0));
        drop(slots);
        assert_eq!(counts(&connections), (0, 1, 0));
    }

    #[test]
    fn connection_with_request_is_displaced_only_if_client_stalls() {
        let connections = connections(1, usize::MAX);
        let slot = admit(&connections, 1).unwrap();
        let _request = slot.begin_request();
        assert!(connections.admit(peer(2)).is_none());
        assert_eq!(counts(&connections), (1, 0, 1));
        slot.stalled();
        assert!(connections.admit(peer(2)).is_some());
    }

    #[test]
    fn connection_that_awaits_body_is_displaced() {
        let connections = connections(1, usize::MAX);
        let slot = admit(&connections, 1).unwrap();
        let _request = slot.begin_request();
        slot.set_awaits_body(true);
        slot.set_awaits_body(false);
        assert!(connections.admit(peer(2)).is_none());
        slot.set_awaits_body(true);
        assert!(connections.admit(peer(2)).is_some());
        assert!(!is_open(&slot));
    }

    #[test]
    fn few_received_bytes_are_no_progress() {
        let connections = connections(2, usize::MAX);
        let [slow, fast] = [1, 2].map(|last| admit(&connections, last).unwrap());
        let _requests = [slow.begin_request(), fast.begin_request()];
        for slot in [&slow, &fast] {
            slot.set_awaits_body(true);
        }
        std::thread::sleep(Duration::from_millis(20));
        fast.received(PROGRESS_LEN);
        std::thread::sleep(Duration::from_millis(20));
        // The slow client sends last, and far less.
        slow.received(1);
        let _third = admit(&connections, 3).unwrap();
        assert!(!is_open(&slow) && is_open(&fast));
    }

    #[test]
    fn peer_at_its_limit_displaces_its_own_connection() {
        let connections = connections(10, 2);
        let other = connections.admit(peer(9)).unwrap();
        let first = connections.admit(peer(1)).unwrap();
        let _more = [connections.admit(peer(1)).unwrap(), connections.admit(peer(1)).unwrap()];
        assert!(is_open(&other) && !is_open(&first));
    }

    #[test]
    fn ipv6_peers_are_identified_by_prefix() {
        let prefix = |text: &str| prefix(text.parse().unwrap());
        assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::ffff:1"));
        assert_ne!(prefix("2001:db8::1"), prefix("2001:db8:0:1::1"));
        assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1"));
        assert!(prefix("::1").is_loopback());
    }
}
